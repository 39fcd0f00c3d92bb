"""A training room's work on several processes of one machine, started by `torchrun`; alone where one is enough.

    @room(outputs=("adaptation",))
    @together
    def adapt(entered, *, ...): ...

The room itself stays one process: it locks, signs and publishes. Where the environment asks for several, it starts
them; each does the same work on its part of every batch (expunge/models/ranks.py), and what the first writes is the
result. What is wrong with the work is left by a worker for the room, which raises it. Workers do not outlive the room.
"""

import ctypes
import functools
import importlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from expunge.contracts import shorten
from expunge.errors import BadInput, ExpungeError, by_name
from expunge.events import Progress
from expunge.room import Entered, die_with_run
from expunge.settings import Workspace

Work = Callable[..., None]
# Methods whose training on several processes is held against one process by a test.
SHARING = ("adapt_then_unlearn", "data_redaction", "erwp", "fine_tune", "fine_tune_classifier", "image_to_image",
           "random_labels", "retrain", "retrain_classifier", "taming_flow")
PROCESSES_VARIABLE = "EXPUNGE_PROCESSES"
_MOST_PROCESSES = 64  # on one machine
_PARENT_DEATH = 1  # prctl's name for the signal that a process gets when its parent is gone


@dataclass(frozen=True)
class _Task:
    """What every worker is told, as JSON."""

    module: str
    function: str
    values: dict[str, Any]  # what the work is given, without its paths
    paths: dict[str, str]
    outputs: tuple[str, ...]  # those of the paths that only the first writes to
    workspace: str
    name: str
    resume_file: str
    work: str
    code_sha256: str
    complaint: str  # the file in which a worker leaves what is wrong


def processes() -> int:
    """How many processes a training room works in; `devices` stands for one on each GPU that it is given.

    Raises:
        BadInput: the environment says something else than that or a number.
    """
    said = os.environ.get(PROCESSES_VARIABLE) or "1"
    if said == "devices":
        import torch

        return max(1, torch.cuda.device_count())
    if not said.isascii() or not said.isdigit() or not 1 <= int(said) <= _MOST_PROCESSES:
        raise BadInput(f"{PROCESSES_VARIABLE}: '{said[:40]}' is no number of processes",
                       f"write 1 to {_MOST_PROCESSES}, or devices")
    return int(said)


def require_sharing(method: str) -> None:
    """BadInput if a method's batches cannot be divided among processes."""
    if method not in SHARING:
        raise BadInput(f"method.name: '{method}' trains in one process, and profile multi-gpu (or training.processes, "
                       f"{PROCESSES_VARIABLE}) asks for several",
                       "use the profile gpu or cpu, or one of " + ", ".join(SHARING))


def together(work: Work) -> Work:
    """Lets a room's work be done by as many processes as the environment says."""

    @functools.wraps(work)
    def enter(entered: Entered, **given: Any) -> None:
        if processes() == 1:
            work(entered, **given)
            return
        require_sharing(given["method"])
        from expunge.methods.sessions import copies_of

        with tempfile.TemporaryDirectory(prefix="expunge-") as folder:
            _work_together(_Task(
                module=work.__module__, function=work.__name__,
                values={name: value for name, value in given.items() if not isinstance(value, Path)},
                paths={name: str(value) for name, value in given.items() if isinstance(value, Path)},
                outputs=entered.outputs, workspace=str(entered.workspace.root), name=entered.name,
                resume_file=str(entered.resume_file), work=entered.work, code_sha256=entered.code_sha256,
                complaint=str(Path(folder, "complaint.json"))), Path(folder, "task.json"))
        if (copies := copies_of(entered)) is not None:
            entered.afterwards.append(copies.remove)

    enter.in_processes = processes  # type: ignore[attr-defined]  # the result follows from how many there are
    return enter


def _work_together(task: _Task, file: Path) -> None:
    file.write_text(json.dumps(asdict(task)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes()}",
               "-m", "expunge.together", str(file)]
    workers = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_dying_with_parent())
    try:
        with _handing_on_to(workers):
            code = workers.wait()
    finally:
        workers.kill()
        workers.wait()
    complaint = Path(task.complaint)
    if complaint.exists():
        said = json.loads(complaint.read_text())
        raise by_name().get(said["error"], ExpungeError)(said["problem"], said["remedy"])
    if code:
        raise ExpungeError(f"{task.name}: one of its {processes()} processes ended without a word ({code})",
                           "what it printed is in the log; the same again continues it")


def _dying_with_parent() -> Callable[[], None]:
    """What has a process killed when its parent is gone, on Linux; elsewhere it does nothing."""
    if sys.platform != "linux":
        return lambda: None
    system = ctypes.CDLL(None)  # looked up before there is a fork, after which nothing may be
    return lambda: system.prctl(_PARENT_DEATH, signal.SIGKILL)


@contextmanager
def _handing_on_to(workers: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Hands SIGTERM on, which `torchrun` gives its workers: the first keeps its state."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: workers.send_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Silence(Progress):
    """Of a worker beside the first."""

    def __call__(self, step: int, total: int, **scalars: float) -> None:
        """Nothing: the first says it."""


class _Beside(Entered):
    """What a worker beside the first is given: it tells nobody anything."""

    def note(self, text: str) -> None:
        """Nothing: the first says it."""


def main(file: Path) -> None:
    """One worker: the work itself, on this process's part of every batch."""
    _dying_with_parent()()
    task = _Task(**json.loads(file.read_text()))
    workspace = Workspace(Path(task.workspace))
    die_with_run(workspace)
    from expunge.models import ranks

    work = inspect.unwrap(getattr(importlib.import_module(task.module), task.function))
    given = {**task.values, **{name: Path(path) for name, path in task.paths.items()}}
    beside = tempfile.mkdtemp(prefix="expunge-")
    try:
        with ranks.joined():
            first = ranks.first()
            for output in () if first else task.outputs:
                given[output] = Path(beside, output)
                given[output].mkdir()
            progress = (Progress if first else _Silence)(workspace, task.name)
            entered = (Entered if first else _Beside)(
                workspace, task.name, progress, Path(task.resume_file), task.work, task.code_sha256)
            work(entered, **given)
    except ExpungeError as error:
        with suppress(FileExistsError), Path(task.complaint).open("x") as complaint:
            json.dump({"error": type(error).__name__, "problem": error.problem, "remedy": error.remedy}, complaint)
        sys.exit(shorten(error.problem))
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    sys.stdout.flush()
    os._exit(0)  # as a room of a supervised run: what is left to do is tidying up


if __name__ == "__main__":
    main(Path(sys.argv[1]))
