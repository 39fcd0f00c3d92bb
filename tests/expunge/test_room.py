"""The frame around a room, tried with small rooms of the test's own."""

import ast
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from expunge import room as module
from expunge.contracts import Source, StoredFile
from expunge.errors import BadInput, DoesNotVerify, WorkspaceBusy
from expunge.room import START_VARIABLE, alive_file, code_digest, exclusive, room, verify_result
from expunge.settings import RUN_VARIABLE


@pytest.fixture
def copies():
    """A room that copies its input and counts how often it did any work."""
    worked = []

    @room(outputs=("out",))
    def copy(entered, *, source: Path, times: int, out: Path):
        worked.append(times)
        (out / "text").write_bytes(source.read_bytes() * times)

    copy.worked = worked
    return copy


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "source"
    file.write_bytes(b"abc")
    return file


def call(copies, source, tmp_path, times=2, to="handed"):
    return copies(source=source, times=times, out=tmp_path / to / "out", statement=tmp_path / to / "statement.json")


def test_a_room_hands_over_its_output_and_a_signed_statement_about_it(workspace, copies, source, tmp_path):
    kept = call(copies, source, tmp_path)
    assert (tmp_path / "handed" / "out" / "text").read_bytes() == b"abcabc"
    statement = verify_result(workspace, kept.folder)
    assert (tmp_path / "handed" / "statement.json").read_bytes() == (kept.folder / "statement.json").read_bytes()
    name, = statement.subjects
    assert (workspace.root / name).read_bytes() == b"abcabc"
    assert statement.predicate.params == {"times": 2}
    assert set(statement.predicate.inputs) == {"source"}


def test_the_same_work_is_done_once(workspace, copies, source, tmp_path):
    call(copies, source, tmp_path)
    again = call(copies, source, tmp_path, to="elsewhere")
    assert again.reused
    assert copies.worked == [2]
    assert (tmp_path / "elsewhere" / "out" / "text").read_bytes() == b"abcabc"


@pytest.mark.parametrize("change", ["input", "parameter", "image"])
def test_work_with_another_input_parameter_or_image_is_done_anew(workspace, copies, source, tmp_path, change, monkeypatch):
    call(copies, source, tmp_path)
    if change == "input":
        source.write_bytes(b"abd")
    if change == "image":
        monkeypatch.setenv("EXPUNGE_IMAGE_DIGEST", "sha256:1")
    assert not call(copies, source, tmp_path, times=3 if change == "parameter" else 2).reused
    assert len(copies.worked) == 2


def test_a_result_that_was_tampered_with_is_made_again_and_left_as_evidence(workspace, copies, source, tmp_path, capsys):
    first = call(copies, source, tmp_path)
    (first.folder / "out" / "text").write_bytes(b"abcabd")
    second = call(copies, source, tmp_path)
    assert not second.reused
    assert (tmp_path / "handed" / "out" / "text").read_bytes() == b"abcabc"
    assert (first.folder / "out" / "text").read_bytes() == b"abcabd"
    assert "not reused, made again: results/copy-" in capsys.readouterr().out
    with pytest.raises(DoesNotVerify, match="out/text is not what its statement says"):
        verify_result(workspace, first.folder)


def test_a_room_without_memory_works_every_time(workspace, source, tmp_path):
    @room(outputs=("out",), memo=False)
    def look(entered, *, source: Path, out: Path):
        (out / "text").write_bytes(b"")

    one, two = (look(source=source, out=tmp_path / "o", statement=tmp_path / "s") for _ in range(2))
    assert not two.reused
    assert one.folder != two.folder


def test_half_of_a_result_is_no_result(workspace, source, tmp_path):
    @room(outputs=("out",))
    def fail(entered, *, source: Path, out: Path):
        (out / "text").write_bytes(b"half")
        raise BadInput("field: is wrong", "correct it")

    with pytest.raises(BadInput):
        fail(source=source, out=tmp_path / "o", statement=tmp_path / "s")
    assert [path.suffix for path in workspace.results.iterdir()] == [".lock"]
    assert not (tmp_path / "o").exists()


def test_a_failure_is_told_with_its_class_and_remedy(workspace, source, tmp_path, monkeypatch):
    @room(outputs=("out",))
    def fail(entered, *, source: Path, out: Path):
        raise BadInput("field: is wrong", "correct it")

    (workspace.runs / "r").mkdir(parents=True)
    monkeypatch.setenv(RUN_VARIABLE, "r")
    with pytest.raises(BadInput):
        fail(source=source, out=tmp_path / "o", statement=tmp_path / "s")
    last = json.loads((workspace.runs / "r" / "events.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["error"], last["text"], last["remedy"]) == ("failed", "BadInput", "field: is wrong", "correct it")


def test_the_same_work_is_not_done_twice_at_once(workspace):
    lock = workspace.results / "x.lock"
    with exclusive(lock, "x", ""), pytest.raises(WorkspaceBusy), exclusive(lock, "x", ""):
        pass


def test_a_step_dies_at_once_with_the_supervisor_of_its_run(workspace, tmp_path):
    (workspace.runs / "r").mkdir(parents=True)
    alive_file(workspace, "r", "s").touch()
    supervisor = textwrap.dedent("""
        import fcntl, os, subprocess, sys, time
        alive = open(sys.argv[1]); fcntl.flock(alive, fcntl.LOCK_EX)
        step = "import time; from expunge.room import die_with_run; from expunge.settings import Workspace;" \\
               "die_with_run(Workspace.locate()); print('up', flush=True); time.sleep(60)"
        shell = subprocess.Popen(["sh", "-c", f'{sys.executable} -c "{step}"; true'], stdout=subprocess.PIPE, text=True)
        print(shell.stdout.readline(), end="", flush=True)
        time.sleep(60)
    """)
    environment = {**os.environ, RUN_VARIABLE: "r", START_VARIABLE: "s"}
    parent = subprocess.Popen([sys.executable, "-c", supervisor, alive_file(workspace, "r", "s")],
                              stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout.readline() == "up\n"
    steps = [pid for pid in os.listdir("/proc") if pid.isdigit() and _runs_step(pid)]
    assert steps
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while any(_runs_step(pid) for pid in steps):
        assert time.monotonic() < deadline, "the step outlived its supervisor"
        time.sleep(0.02)


@pytest.mark.parametrize("command", [
    ["-c", "import time; from expunge.room import die_with_run; from expunge.settings import Workspace;"
           "die_with_run(Workspace.locate()); time.sleep(60)"],
    ["-m", "expunge.models.trial"],
    ["-m", "pipelines.engine", "unlearning", "nowhere.json", "nowhere"],
], ids=["step", "trial of a factory", "engine"])
def test_what_a_killed_start_left_does_not_live_on_under_the_next(workspace, command):
    (workspace.runs / "r").mkdir(parents=True)
    with alive_file(workspace, "r", "next").open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        late = subprocess.run([sys.executable, *command], check=False, capture_output=True,
                              env={**os.environ, RUN_VARIABLE: "r", START_VARIABLE: "earlier"})
    assert late.returncode == -signal.SIGKILL, late.stderr


def _runs_step(pid):
    try:
        words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
        return b"python" in words[0] and any(word.startswith(b"import time; from expunge.room") for word in words)
    except OSError:
        return False


@pytest.mark.parametrize(("changed", "whose"), [
    ("components/adapt/step.py", {"adapt"}),
    ("expunge/methods/adapt_then_unlearn.py", {"adapt", "unlearn"}),
    ("components/evaluate/step.py", {"evaluate"}),
    ("components/evaluate/report.html.j2", {"evaluate"}),
    ("expunge/digests.py", {"fetch_checkpoint", "curate_forget_set", "adapt", "unlearn", "evaluate"}),
])
def test_a_change_of_code_reaches_the_rooms_that_run_it_and_no_other(changed, whose, monkeypatch):
    def digests():
        method = {"method": "adapt_then_unlearn"}
        return {name: code_digest(f"components.{name}.step", method if name in ("adapt", "unlearn") else {})
                for name in ("fetch_checkpoint", "curate_forget_set", "adapt", "unlearn", "evaluate")}

    before = digests()
    real, real_sha256 = Path.read_bytes, module.sha256_file
    target = Path(module.__file__).parent.parent / changed
    monkeypatch.setattr(Path, "read_bytes", lambda self: real(self) + (b"\n#" if self == target else b""))
    monkeypatch.setattr(module, "sha256_file", lambda path: "0" * 64 if path == target else real_sha256(path))
    after = digests()
    assert {name for name in before if before[name] != after[name]} == whose


WHEREVER = """
import one
def f():
    async with x:
        from two import a, b
class C:
    if x:
        import three.more
    elif y: import four
    else:
        for z in x: pass
        else: import five
try:
    while x: import six
except* OSError:
    import seven
else:
    match x:
        case 1: import eight
finally:
    import nine; import ten
"""


def test_an_import_is_found_wherever_a_module_has_it():
    ours = [path.read_bytes() for package in module.OUR_PACKAGES for path in (module.ROOT / package).rglob("*.py")]
    for source in (WHEREVER, *ours):
        nodes = [*ast.walk(ast.parse(source))]
        plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        of = {(node.module, alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert set(module._imports_of(source)) == plain | {whole for whole, _ in of} | {".".join(pair) for pair in of}
        assert source is not WHEREVER or len(plain | of) == 11


@pytest.mark.parametrize("layout", ["module", "package"])
def test_a_change_of_a_packages_method_reaches_the_rooms_that_run_it(layout, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    point = "theirs.nudge" if layout == "package" else "theirs"
    file = tmp_path.joinpath(*point.split(".")).with_suffix(".py")
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('nobody has to run me to know what I am')")
    (tmp_path / "theirs-1.dist-info").mkdir()
    (tmp_path / "theirs-1.dist-info" / "entry_points.txt").write_text(f"[expunge.methods]\nnudge = {point}:METHOD\n")

    def digest(method):
        return code_digest("components.adapt.step", {"method": method})

    before, other = digest("nudge"), digest("adapt_then_unlearn")
    file.write_text("# another way")
    assert digest("nudge") != before
    assert digest("adapt_then_unlearn") == other


def test_a_stored_file_describes_the_bytes_on_disk(source):
    assert StoredFile.of(source) == StoredFile(
        name="source", size=3, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(ValueError, match="extra_forbidden"):
        Source.model_validate({"uri": "x", "url": "y"})


STEP = """
import fcntl, sys
from pathlib import Path
from expunge.room import room

@room(outputs=("out",))
def step(entered, *, source: Path, out: Path):
    (out / "text").write_bytes(b"x")

step(source=Path(sys.argv[1]), out=Path(sys.argv[1] + ".out"), statement=Path(sys.argv[1] + ".statement"))
print("published")
{after}
"""


@pytest.mark.parametrize(("after", "code"), [("", 0), ("raise RuntimeError('the door failed')", 1)])
def test_a_supervised_step_leaves_quickly_and_never_hides_a_failure(workspace, source, after, code):
    (workspace.runs / "r").mkdir(parents=True)
    with alive_file(workspace, "r", "s").open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        done = subprocess.run([sys.executable, "-c", STEP.format(after=after), str(source)], capture_output=True,
                              text=True, env={**os.environ, RUN_VARIABLE: "r", START_VARIABLE: "s"}, check=False)
    assert "published" in done.stdout
    assert done.returncode == code, done.stderr
    assert ("the door failed" in done.stderr) == bool(code)


def test_a_room_called_in_somebody_elses_process_does_not_end_it(workspace, source, monkeypatch):
    code = STEP.format(after="sys.exit(7)")
    done = subprocess.run([sys.executable, "-c", code, str(source)], capture_output=True, text=True,
                          env={**os.environ, RUN_VARIABLE: "r"}, check=False)
    assert done.returncode == 7
