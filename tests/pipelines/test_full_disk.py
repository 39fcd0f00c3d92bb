"""A disk that is full: at every write of a run, and of the other verbs. A small tmpfs, grown step by step."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
from itertools import count

import pytest
from tests_support import call

from expunge.errors import BadInput, NoSpace, out_of_space, says_out_of_space
from expunge.events import Event, Follower, emit, events_file
from expunge.evidence.ledger import Ledger
from expunge.settings import RUN_VARIABLE, Workspace

REQUEST = "request.yaml"


class Disk:
    """A small disk of the test's own."""

    def __init__(self, folder):
        self.folder = folder

    def resize(self, kib):
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(self.folder)], check=True)

    def fill(self):
        """Leaves not a single page."""
        self.resize(self.used)

    @property
    def used(self):
        return shutil.disk_usage(self.folder).used // 1024


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)], capture_output=True,
                             text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount a small disk here: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def in_one_line(done, place):
    """The one line with which a command ends on a full disk; what it names and advises is checked."""
    assert done.code == 1, done.err
    *before, line = done.err.splitlines()
    assert all(told.startswith("  ✓ ") for told in before), done.err  # rooms that were done, where there was room to say so
    assert "no space left on the disk of " in line
    assert str(place) in line
    assert "make space there, then give the same command again" in line
    assert "Traceback" not in done.out
    return line


def sizes(disk):
    """KiB: from nearly nothing in small steps while a workspace is made, then a little more than is used."""
    yield from (12, 24, 40, 56, 72, 96, 128, 1_000, 2_600, 3_400, 4_200, 5_200)
    for growth in count():
        for spare in (60, 900, 1_900):
            yield disk.used + int(spare * 1.5**growth)


def stopped(line):
    """Who met the full disk: a room by its name, else the supervisor, or what the command itself writes."""
    room = line.split(": ")[1]
    return "the command" if room.startswith("no space") else room


@pytest.mark.thorough
def test_a_run_on_a_full_disk_stops_in_one_line_and_goes_on_when_there_is_space(disk, demo):
    folder = disk.folder
    request = shutil.copyfile(demo[0] / REQUEST, folder.parent / REQUEST)

    def expunge(*words):
        return call(folder.parent, "--workspace", folder / ".expunge", *words)

    stopped_in, made = set(), False
    for size in sizes(disk):
        disk.resize(size)
        if not made:
            done = expunge("init")
            made = done.code == 0
            if not made:
                in_one_line(done, folder / ".expunge")
                stopped_in.add("init")
                continue
        done = expunge("run", request)
        if done.code == 10:
            break
        stopped_in.add(stopped(in_one_line(done, folder / ".expunge")))
        print(f"{size} KiB: {stopped(done.err)}, {len(list(folder.rglob('*')))} files")
        assert expunge("status").code == 0
        verified = expunge("audit", "verify")
        assert verified.code == 0, verified.out + verified.err
        for record in folder.glob(".expunge/**/*.json"):
            json.loads(record.read_bytes())
        assert not list(folder.rglob("*.half"))
    # Which of the rooms meet it hangs on a few hundred KiB of what came before.
    assert {"init", "the command"} <= stopped_in
    assert len({"fetch_checkpoint", "curate_forget_set", "adapt", "unlearn", "evaluate"} & stopped_in) >= 3, stopped_in
    candidate, = folder.glob(".expunge/results/unlearn-*/candidate/model.safetensors")
    undisturbed, = demo[0].glob(".expunge/results/unlearn-*/candidate/model.safetensors")
    assert candidate.read_bytes() == undisturbed.read_bytes()


@pytest.mark.thorough
def test_what_people_do_on_a_full_disk_ends_in_one_line_and_is_done_when_there_is_space(disk, waiting_demo):
    folder = disk.folder
    disk.resize(100_000)
    shutil.copytree(waiting_demo, folder, symlinks=True, dirs_exist_ok=True)

    def expunge(*words):
        return call(folder, *words)

    verbs = [("keys", "new", "hopper", "--role", "reviewer"),
             ("approve", "forget-8", "--as", "grace", "--reason", "fine"), ("release", "forget-8")]
    for words in verbs:
        disk.fill()
        in_one_line(expunge(*words), folder / ".expunge")
        assert expunge("status").code == 0
        disk.resize(disk.used + 4_000)
        done = expunge(*words)
        assert done.code == 0, done.err
    verified = expunge("audit", "verify")
    assert verified.code == 0, verified.out


@pytest.fixture
def full(disk, monkeypatch):
    """A workspace on a disk of which the last page is taken."""
    from pipelines.workspace import initialise

    disk.resize(4_000)
    monkeypatch.setenv(RUN_VARIABLE, "r")
    made = initialise(Workspace(disk.folder / ".expunge"))
    (made.runs / "r").mkdir(parents=True)
    return made


def test_an_event_cut_short_by_a_full_disk_spoils_none_of_those_that_follow(full, disk):
    file = events_file(full, "r")
    follower = Follower(file)
    emit(full, Event(room="adapt", kind="started"))
    disk.fill()

    def say_much():
        for number in range(200):
            emit(full, Event(room="adapt", kind="note", text=f"{number} {'x' * 100}"))

    with pytest.raises(OSError, match="No space left"):
        say_much()
    assert not file.read_bytes().endswith(b"\n"), "the last one is half a line"
    disk.resize(disk.used + 100)
    emit(full, Event(room="adapt", kind="failed", text="after"))
    told = list(follower.new_events())
    assert [told[0].kind, told[-1].text] == ["started", "after"]
    assert all(event.kind == "note" for event in told[1:-1])


def test_a_ledger_on_a_full_disk_says_so_and_takes_up_again(full, disk):
    ledger = Ledger.open(full)
    before = ledger.root
    disk.fill()

    def write_much():
        for number in range(100):
            ledger.append(b"%d" % number * 500)

    with pytest.raises(NoSpace, match="no space left on the disk of"):
        write_much()
    written = ledger.size
    disk.resize(disk.used + 1_000)
    ledger.append(b"again")
    assert (ledger.size, ledger.damage()) == (written + 1, "")
    assert ledger.root != before


@pytest.mark.parametrize("inner", [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError(errno.EDQUOT, "x"),
    sqlite3.OperationalError("database or disk is full"), RuntimeError("I/O error: (os error 28)"),
], ids=repr)
def test_a_full_disk_is_recognised_however_it_is_wrapped(inner):
    def wrap():
        try:
            raise inner
        except Exception as error:
            raise BadInput("wrapped", "twice") from error

    with pytest.raises(BadInput) as caught:
        wrap()
    assert out_of_space(caught.value)


def test_other_errors_are_no_full_disk():
    assert says_out_of_space("fatal: write error: No space left on device")
    assert not says_out_of_space("the room is full of people")
    assert not out_of_space(OSError(errno.EACCES, "x"))
