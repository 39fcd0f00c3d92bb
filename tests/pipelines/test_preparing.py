"""Rooms that begin as forks of a prepared process: what is asked for, and how they end."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.preparing import prepared

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks of a prepared process are Linux's")

GUEST = """
import json, os, sys, time
print(json.dumps({"words": sys.argv[1:], "folder": os.getcwd(), "marked": os.environ.get("MARKED"),
                  "also": os.environ.get("ALSO"), "parent": os.getppid(), "name": __name__,
                  "torch": "torch" in sys.modules, "heard": sys.stdin.read()}), flush=True)
print("aside", file=sys.stderr)
if sys.argv[1] == "exit":
    sys.exit(7)
if sys.argv[1] == "fail":
    raise ValueError("as it was told")
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
if sys.argv[1] == "sleep":
    open("begun", "w").write(str(os.getpid()))
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """What a step's command names in the place of `python3`, where there is a module `guest`."""
    folder = tmp_path_factory.mktemp("guests")
    (folder / "guest.py").write_text(GUEST)
    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path[1:]]), "ALSO": "of the engine's"}
    try:
        with prepared() as command:
            yield command
    finally:
        os.environ.clear()
        os.environ.update(before)


def asked(python, folder, *words, **environment):
    return subprocess.Popen(["sh", "-c", f"{python} -m guest {' '.join(words)}"], cwd=folder, text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": os.environ["PATH"], **environment})


def test_a_room_has_the_words_folder_environment_and_streams_that_it_was_asked_with(python, tmp_path):
    room = asked(python, tmp_path, "look", "'two words'", MARKED="yes")
    out, err = room.communicate("something")
    assert room.returncode == 0, err
    found = json.loads(out)
    assert found["words"] == ["look", "two words"]
    assert (Path(found["folder"]), found["marked"], found["also"]) == (tmp_path, "yes", None)
    assert (found["heard"], found["name"], err) == ("something", "__main__", "aside\n")
    assert found["torch"], "what rooms need was imported before"


@pytest.mark.parametrize(("word", "code"), [("exit", 7), ("fail", 1), ("killed", -signal.SIGKILL)])
def test_a_room_ends_for_who_waits_as_it_ended(word, code, python, tmp_path):
    room = asked(f"exec {python}", tmp_path, word)
    _, err = room.communicate("")
    assert room.returncode == code
    assert ("ValueError: as it was told" in err) == (word == "fail")


def test_a_room_for_which_nobody_waits_any_more_is_ended_and_others_go_on(python, tmp_path):
    other = asked(python, tmp_path, "look")
    room = asked(f"exec {python}", tmp_path, "sleep")
    room.stdin.close()
    while not (tmp_path / "begun").exists() or not (pid := (tmp_path / "begun").read_text()):
        time.sleep(0.02)
    room.kill()
    room.wait()
    until = time.monotonic() + 20
    while Path("/proc", pid).exists():
        assert time.monotonic() < until, "the room outlived who waited for it"
        time.sleep(0.02)
    assert json.loads(other.communicate("")[0])["words"] == ["look"]


@pytest.mark.parametrize("begun", [b"", b"90\n{"], ids=["nothing said", "half of it said"])
def test_who_is_killed_while_they_ask_keeps_nobody_else_from_a_room(begun, python, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.connect("\0" + shlex.split(python)[-1])
        asking.sendall(begun)
    room = asked(python, tmp_path, "look")
    assert json.loads(room.communicate("")[0])["words"] == ["look"]


def test_rooms_end_with_the_process_that_they_began_from(tmp_path):
    (tmp_path / "guest.py").write_text(GUEST)
    script = ("import subprocess, sys, time; from pipelines.preparing import prepared\n"
              "with prepared() as python:\n"
              "    subprocess.run(['sh', '-c', f'{python} -m guest sleep </dev/null'])\n")
    engine = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.DEVNULL,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path[1:]])})
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists() or not (pid := (tmp_path / "begun").read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)
    engine.kill()
    engine.wait()
    while Path("/proc", pid).exists():
        assert time.monotonic() < until, "the room outlived the engine"
        time.sleep(0.02)
