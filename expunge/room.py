"""What every room does around its own work: lock, look for a result to reuse, time, sign, hand over.

A room is a function over paths and plain values, wrapped by `room`:

    @room(outputs=("adaptation",))
    def adapt(entered, *, checkpoint: Path, negative: Path, method: str, ..., adaptation: Path) -> None: ...

Called as ``adapt(checkpoint=..., ..., adaptation=..., statement=...)`` it does its work in a scratch folder,
signs a statement over the inputs' and outputs' digests, and publishes both in one rename under
``results/<room>-<memo key>-<number>``. A later call with the same {input digests, parameters, code digest,
image digest} is served from there, but only if every byte still has the digest that the signed statement
gives. What does not is left where it is, as evidence, and the work is done again under the next number.
"""

import ast
import atexit
import contextlib
import fcntl
import functools
import inspect
import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from expunge import __version__
from expunge.contracts import RECORD_FILE, SampleSet, read_record
from expunge.digests import canonical_json, files_below, flush, sha256_bytes, sha256_file, sha256_tree
from expunge.errors import DoesNotVerify, ExpungeError, NoSpace, NotNeeded, WorkspaceBusy, out_of_space
from expunge.events import Event, Progress, emit
from expunge.evidence.key_changes import place_of
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.statements import RoomPredicate, Statement, open_statement, sign_statement
from expunge.settings import Workspace, current_run, image_digest
from expunge.stores import telemetry

STATEMENT_FILE = "statement.json"
SCRATCH_SUFFIX = ".scratch"
RESUME_SUFFIX = ".resume"
START_VARIABLE = "EXPUNGE_START"  # which start of its run a process belongs to
ROOT = Path(__file__).parent.parent
DATA_SUFFIXES = frozenset({".j2", ".css", ".yaml", ".sql"})
METHODS = "expunge.methods"  # where built-in methods are, and the entry points' group of all others
OUR_PACKAGES = ("expunge", "components")
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where statements hold other statements
RoomStatement: TypeAlias = Statement[RoomPredicate]


@dataclass(frozen=True)
class Entered:
    """What a room is given besides its inputs."""

    workspace: Workspace
    name: str
    progress: Progress
    resume_file: Path  # where encrypted state may be kept to continue after being killed
    work: str  # the digest of all that the result follows from
    code_sha256: str
    outputs: tuple[str, ...] = ()  # their names among what the work is given
    figures: list[telemetry.Figure] = field(default_factory=list)  # what monitoring is told beside time and samples
    afterwards: list[Callable[[], None]] = field(default_factory=list)  # what is done once the result is published

    def note(self, text: str) -> None:
        """Tells the person watching one thing worth knowing."""
        emit(self.workspace, Event(room=self.name, kind="note", text=text))


@dataclass(frozen=True)
class Kept:
    """A result that lies in the workspace."""

    folder: Path
    statement: RoomStatement
    reused: bool
    figures: tuple[telemetry.Figure, ...] = ()  # of the work, if it was done now


def room(*, outputs: tuple[str, ...], memo: bool = True) -> Callable[[Callable[..., None]], Callable[..., Kept]]:
    """Wraps a room's work. `memo=False` for rooms whose result depends on more than their inputs."""

    def wrap(work: Callable[..., None]) -> Callable[..., Kept]:
        @functools.wraps(work)
        def enter(*, statement: Path, **given: Any) -> Kept:
            name = work.__name__
            workspace = Workspace.locate().require()
            try:
                supervised = die_with_run(workspace)
                kept = _enter(work, name, workspace, outputs, memo, given)
                _hand_over(kept, {**{key: given[key] for key in outputs}, STATEMENT_FILE: statement})
            except BaseException as error:
                _report_failure(workspace, name, error)
                raise
            emit(workspace, Event(
                room=name, kind="finished", seconds=kept.statement.predicate.seconds, reused=kept.reused,
                result=kept.folder.relative_to(workspace.root).as_posix()))
            _note(workspace, name, telemetry.done(workspace, name, kept.reused, kept.figures))
            if supervised:
                leave_quickly()
            return kept

        return enter

    return wrap


def _enter(work: Callable[..., None], name: str, workspace: Workspace, outputs: tuple[str, ...], memo: bool,
           given: dict[str, Any]) -> Kept:
    inputs = {key: value for key, value in given.items() if isinstance(value, Path) and key not in outputs}
    params = {key: value for key, value in given.items() if not isinstance(value, Path)}
    digests = {key: sha256_tree(path) for key, path in inputs.items()}
    code = code_digest(inspect.getmodule(work).__name__, params)  # type: ignore[union-attr]
    together: int = getattr(work, "in_processes", lambda: 1)()
    several = {"processes": together} if together > 1 else {}
    key = sha256_bytes(canonical_json(
        {**several, "room": name, "inputs": digests, "params": params, "code": code, "image": image_digest(),
         "run": "" if memo else f"{current_run()} {datetime.now(UTC).isoformat()}"}))
    stem = f"{name}-{key[:16]}"
    with exclusive(workspace.results / f"{stem}.lock", f"{name}: the same work is being done by another process",
                   "wait for it, or stop that run"):
        earlier = sorted(workspace.results.glob(f"{stem}-*"), key=_number) if memo else []
        for folder in reversed(earlier):
            if statement := _reusable(workspace, folder):
                emit(workspace, Event(room=name, kind="started", reused=True))
                return Kept(folder, statement, reused=True)
        folder = workspace.results / f"{stem}-{_number(earlier[-1]) + 1 if earlier else 1}"
        emit(workspace, Event(room=name, kind="started"))
        entered = Entered(workspace, name, Progress(workspace, name), _resume_file(workspace, stem), key, code, outputs)
        with _scratch_of(folder) as scratch:
            for output in outputs:
                (scratch / output).mkdir(parents=True)
            began, started_at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
            work(entered, **{**given, **{output: scratch / output for output in outputs}})
            statement = Statement.over(
                {f"results/{folder.name}/{file}": sha256_file(path) for file, path in files_below(scratch).items()},
                RoomPredicate(
                    room=name, run=current_run(), inputs=digests, params=params, code_sha256=code,
                    image=image_digest(), version=__version__, python=platform.python_version(),
                    machine=platform.machine(), started_at=started_at,
                    seconds=round(time.monotonic() - began, 3)))
            (scratch / STATEMENT_FILE).write_bytes(
                sign_statement(statement, SigningKey.load(workspace, OPERATOR)))
            _publish(scratch, folder)
        entered.resume_file.unlink(missing_ok=True)
        for done in entered.afterwards:
            done()
        folders = (*inputs.values(), *(folder / output for output in outputs))
        work_figures = telemetry.of_work(statement.predicate.seconds, folders)
        return Kept(folder, statement, reused=False, figures=(*work_figures, *entered.figures))


def _resume_file(workspace: Workspace, stem: str) -> Path:
    """With the run that may continue from it, so that it goes when that run needs it no longer."""
    home = workspace.runs / current_run()
    return (home if home.is_dir() else workspace.results) / f"{stem}{RESUME_SUFFIX}"


@contextlib.contextmanager
def _scratch_of(folder: Path) -> Iterator[Path]:
    """Where a result is made before it gets its name. Half of a result is no result: it is taken back."""
    scratch = folder.with_name(f".{folder.name}{SCRATCH_SUFFIX}")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        yield scratch
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _number(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])


def _reusable(workspace: Workspace, folder: Path) -> RoomStatement | None:
    """The statement of a result whose every byte is still what was signed, else None."""
    try:
        statement = verify_result(workspace, folder)
        for record in folder.glob(f"*/{RECORD_FILE}"):
            if json.loads(record.read_bytes()).get("schema") == SampleSet.SCHEMA:
                _verify_shards(workspace, read_record(SampleSet, record))
        return statement
    except DoesNotVerify as error:
        emit(workspace, Event(room=folder.name.split("-")[0], kind="note",
                              text=f"not reused, made again: {error.problem}"))
        return None


def _verify_shards(workspace: Workspace, record: SampleSet) -> None:
    """DoesNotVerify names the first file of a sample set that is not as recorded: they lie outside the result."""
    from expunge.samples.versioning import fetch_ciphertext

    for shard in record.shards:
        if sha256_bytes(fetch_ciphertext(workspace, record.remote, shard.md5)) != shard.sha256:
            raise DoesNotVerify(f"{record.remote}: {shard.path} is not what its record says")


def verify_result(workspace: Workspace, folder: Path) -> RoomStatement:
    """Checks a result's files against its signed statement; DoesNotVerify names the first that differs."""
    try:
        envelope = (folder / STATEMENT_FILE).read_bytes()
    except OSError:
        raise DoesNotVerify(f"{folder.name}: its statement is missing") from None
    statement, signer = open_statement(envelope, Keyring.load(workspace), RoomPredicate)
    if not signer.counts_now and (why_not := signer.why_not_at(place_of(workspace, envelope))):
        raise DoesNotVerify(f"{folder.name}: {why_not}")
    for name, digest in statement.subjects.items():
        file = workspace.root / name
        if not file.is_file() or sha256_file(file) != digest:
            raise DoesNotVerify(f"{name} is not what its statement says")
    here = {f"results/{folder.name}/{file}" for file in files_below(folder) if file != STATEMENT_FILE}
    if here != set(statement.subjects):
        raise DoesNotVerify(f"{folder.name}: its statement speaks of other files than lie there")
    return statement


def _publish(scratch: Path, folder: Path) -> None:
    """Flushes a finished result to disk, files and folders, and gives it its name in one rename."""
    flush(*scratch.rglob("*"), scratch)
    scratch.rename(folder)


def _hand_over(kept: Kept, targets: dict[str, Path]) -> None:
    """Gives the caller its outputs as hard links, or as copies where the file system has no links."""

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    for name, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        source = kept.folder / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, copy_function=link)
        else:
            target.unlink(missing_ok=True)
            link(str(source), str(target))


def _report_failure(workspace: Workspace, name: str, error: BaseException) -> None:
    if not isinstance(error, ExpungeError):
        traceback.print_exc()
    if out_of_space(error):
        error = NoSpace.on(workspace.root)
    problem = error.problem if isinstance(error, ExpungeError) else f"{type(error).__name__}: {error}"
    remedy = error.remedy if isinstance(error, ExpungeError) else "the traceback is in the run's engine.log"
    with contextlib.suppress(OSError):  # on a full disk there is no room for the news either: the supervisor looks
        emit(workspace, Event(room=name, kind="failed", text=problem, remedy=remedy, error=type(error).__name__))
        if isinstance(error, Exception) and not isinstance(error, NotNeeded):  # to have nothing to do is no failure
            _note(workspace, name, telemetry.failed(workspace, name))


def _note(workspace: Workspace, name: str, untold: str) -> None:
    """Warns that monitoring does not know of a step. That is all that comes of it."""
    if untold:
        with contextlib.suppress(OSError):
            emit(workspace, Event(room=name, kind="note", text=f"monitoring: {untold}"))


@contextlib.contextmanager
def exclusive(file: Path, problem: str, remedy: str) -> Iterator[None]:
    """Holds `file` for one process at a time; the second is told so at once, by WorkspaceBusy."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceBusy(problem, remedy) from None
        yield


def leave_quickly() -> None:
    """Spares a step of a supervised run the interpreter's tidying up, once its result is published.

    Taking torch apart module by module costs each step about half a second, for nothing: the process ends
    anyway. A step whose door failed after its room still ends as Python ends it, with its traceback and code.
    """
    atexit.register(_leave)


def _leave() -> None:
    if not hasattr(sys, "last_value"):  # set when an exception was not caught
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def alive_file(workspace: Workspace, run: str, start: str) -> Path:
    """What the supervisor of one start of a run holds locked for as long as it lives."""
    return workspace.runs / run / f"alive.{start}"


def die_with_run(workspace: Workspace) -> bool:
    """Ends this process at once when the supervisor that started it is gone, however that came to be.

    The supervisor holds an exclusive lock on the `alive` file of this start for as long as it lives; whoever
    gets a shared one knows that it does not, and so does whoever finds no such file. Linux releases locks of a
    killed process, so nobody has to poll, and a shell between the supervisor and the step does not matter. The
    next start has a file of its own: it does not keep alive what was left of this one. Outside of a supervised
    run nothing happens, and the answer is no.
    """
    start = os.environ.get(START_VARIABLE)
    if start is None:
        return False
    try:
        alive = alive_file(workspace, current_run(), start).open("rb")
    except FileNotFoundError:
        os.kill(os.getpid(), signal.SIGKILL)

    def wait_for_the_end() -> None:
        fcntl.flock(alive, fcntl.LOCK_SH)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_the_end, daemon=True, name="die with the run").start()
    return True


def code_digest(module: str, params: dict[str, Any]) -> str:
    """One digest over the source of `module`, of all our modules that it imports, and the data beside them.

    A method is chosen by name at run time, so a parameter called `method` adds that method's file, or all Python
    files of the package that brings it.
    """
    pending = [module]
    sources: dict[str, str] = {}
    folders: set[Path] = set()
    if isinstance(params.get("method"), str):
        built_in = f"{METHODS}.{params['method']}"
        pending.append(built_in)
        sources |= _brought_by_a_package(params["method"]) if _source_of(built_in) is None else {}
    while pending:
        current = pending.pop()
        file = _source_of(current)
        if file is None or current in sources:
            continue
        text = file.read_bytes()
        sources[current] = sha256_bytes(text)
        if file.parent not in folders:
            folders.add(file.parent)
            sources |= {str(data.relative_to(ROOT)): sha256_file(data) for data in _data_beside(file.parent)}
        pending += _imports_of(text)
    return sha256_bytes(canonical_json(sources))


@functools.cache
def _source_of(module: str) -> Path | None:
    """The source file of one of our modules, without importing it; None for anything else."""
    package, _, rest = module.partition(".")
    if package not in OUR_PACKAGES:
        return None
    base = ROOT / package
    path = base.joinpath(*rest.split(".")) if rest else base
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _brought_by_a_package(method: str) -> dict[str, str]:
    """Digests of the code of the installed package that offers a method, by file; nothing of it is imported."""
    found: dict[str, str] = {}
    for point in entry_points(group=METHODS, name=method):
        top = find_spec(point.module.partition(".")[0])
        if top is None:
            continue
        for folder in map(Path, top.submodule_search_locations or ()):
            found |= {f"{top.name}/{file.relative_to(folder)}": sha256_file(file) for file in folder.rglob("*.py")}
        if not top.submodule_search_locations and top.origin:
            found[top.name] = sha256_file(Path(top.origin))
    return found


@functools.cache
def _data_beside(folder: Path) -> tuple[Path, ...]:
    """Templates, styles, policies and the like that the modules of a folder read, also from plain subfolders."""
    places = [folder, *(path for path in folder.iterdir() if path.is_dir() and not (path / "__init__.py").exists())]
    return tuple(path for place in places for path in sorted(place.iterdir()) if path.suffix in DATA_SUFFIXES)


@functools.cache
def _imports_of(source: bytes) -> tuple[str, ...]:
    """What a module imports, wherever in it: only statements can, so that expressions are not looked into."""
    found: list[str] = []
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        for block in _BLOCKS:
            pending += getattr(node, block, ())
    return tuple(found)
