"""What a workspace keeps, how large it is, who needs it, and the removal of what nothing needs.

Needed is what a run's state names, what a run that is not finished may still go on from, and everything that is
evidence: releases, decisions, the ledger, keys, and the folder of every run. What the ledger speaks of is
removed only after a signed disposal says so; its statement and its records stay. The disposal is signed first:
whoever is cut off in between finds files that should be gone, and the next call removes them.
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from expunge.contracts import RECORD_FILE, Frozen, SampleSet, read_record
from expunge.digests import HALF, flush, sha256_file, sweep_halves, write_atomically
from expunge.errors import BadInput, ExpungeError
from expunge.evidence import audits
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import (
    DisposalPredicate,
    RoomPredicate,
    RunPredicate,
    Statement,
    open_statement,
    sign_statement,
)
from expunge.room import RESUME_SUFFIX, STATEMENT_FILE, RoomStatement, exclusive
from expunge.runs import UNFINISHED, Run, RunState
from expunge.samples.imported import SCHEME, imported_sets, importing_alone
from expunge.samples.marked import FOLDER as MARKED
from expunge.samples.marked import marked_sets
from expunge.settings import Workspace
from pipelines.sweeping import sweep

Fate = Literal["kept", "removable", "evidence"]
REASON = "no run needs it"
_DECIDED = ("gate", "deploy")  # what was decided on the way stays, also what a later look replaced
_SWEPT = ("scratch", "resume", "temporary")
_REMOVED = ".removed"  # how the name of a result ends that is being removed as a whole


class Item(Frozen):
    """One thing that lies in the workspace."""

    path: str  # relative to the workspace
    kind: str
    size: int  # bytes
    fate: Fate
    why: str  # who needs it, or why nobody does


@dataclass(frozen=True)
class Disposed:
    """One statement by which files were destroyed."""

    sha256: str  # of its envelope
    request_id: str
    reason: str
    files: int


@dataclass(frozen=True)
class Told:
    """What the ledger says, as far as it verifies."""

    recorded: dict[str, tuple[bytes, RoomStatement]]  # by result, relative to the workspace: envelope, statement
    destroyed: frozenset[tuple[str, str]]  # (path, digest) of what was disposed of
    requests: dict[str, tuple[str, str]]  # run -> (request's id, request's digest)
    disposals: tuple[Disposed, ...]


@dataclass
class _Result:
    """A result's folder, and what is known of it."""

    folder: Path
    name: str  # relative to the workspace
    statement: RoomStatement | None
    needed_by: list[str] = field(default_factory=list)


def survey(workspace: Workspace) -> tuple[Item, ...]:
    """Everything that lies in the workspace, with its fate. Changes nothing."""
    return tuple(_Survey(workspace, alone=False).items())


def remove(workspace: Workspace, tampered: bool = False) -> tuple[Item, ...]:
    """Removes what nothing needs, and returns it. `tampered` removes evidence of tampering as well.

    Raises:
        WorkspaceBusy: a run works here, or an import.
    """
    with exclusive(workspace.root / "supervisor.lock", f"workspace: a run works in {workspace.root}",
                   "wait for it, or stop it"), importing_alone(workspace):
        before = {item.path: item for item in survey(workspace)}
        sweep(workspace)
        found = _Survey(workspace, alone=True)
        going = [item for item in found.items()
                 if item.fate == "removable" or (tampered and item.fate == "evidence")]
        for item in going:
            found.remove(item)
        swept = [item.model_copy(update={"fate": "removable"}) for path, item in before.items()
                 if item.kind in _SWEPT and not (workspace.root / path).exists()]
    return tuple({item.path: item for item in (*swept, *going)}.values())


class _Survey:
    """One look at a workspace. `alone` says that no run can be at work in it now."""

    def __init__(self, workspace: Workspace, alone: bool) -> None:
        self.workspace = workspace
        self.runs = Run.all(workspace)
        self.states: dict[str, RunState] = {run.name: run.state() for run in self.runs}
        self.unfinished = [state for state in self.states.values() if state.state in UNFINISHED]
        self.at_work = [] if alone else [
            run for run, state in self.states.items() if state.state in ("running", "releasing")]
        self.told = told_by(workspace)
        self.results = {result.name: result for result in self._results()}
        self.objects = self._objects()

    def items(self) -> Iterator[Item]:
        """Everything, the needed first within each kind."""
        for result in self.results.values():
            yield from self._result(result)
        yield from self._leftovers()
        yield from self._sample_objects()
        yield from self._sources()
        yield from self._whole()

    # ------------------------------------------------------------------------------------- results

    def _results(self) -> Iterator[_Result]:
        keyring = Keyring.load(self.workspace)
        for folder in sorted(self.workspace.results.glob("[!.]*")):
            if not folder.is_dir():
                continue
            name = self._name(folder)
            signed = self.told.recorded.get(name)
            result = _Result(folder, name, signed[1] if signed else _statement(folder / STATEMENT_FILE, keyring))
            result.needed_by = [run for run, state in self.states.items()
                                if any(done.result == name for done in state.rooms.values())]
            made_by = result.statement.predicate.run if result.statement else None
            if not result.needed_by and result.statement and result.statement.predicate.room in _DECIDED:
                result.needed_by = [f"the trail of {made_by}"]
            if not result.needed_by and made_by in {state.run for state in self.unfinished}:
                result.needed_by = [f"{made_by}, which is not finished and may go on from it"]
            yield result

    def _result(self, result: _Result) -> Iterator[Item]:
        said_gone = self._said_gone(result)
        if said_gone:
            yield Item(path=result.name, kind="result", size=_size(said_gone), fate="removable",
                       why="said to be destroyed, and still there")
        elif result.needed_by:
            yield self._item(result.folder, "result", "kept", f"needed by {', '.join(result.needed_by)}")
        elif result.statement is None or self._differs(result):
            yield self._item(result.folder, "result", "evidence",
                             f"{self._differs(result) or 'its statement does not verify'}; no run needs it")
        elif result.name not in self.told.recorded:
            yield self._item(result.folder, "result", "removable", "no run names it, and the ledger does not either")
        elif self._bulk(result) and self._request_of(result) is not None:
            yield Item(path=result.name, kind="result", size=_size(self._bulk(result)), fate="removable",
                       why=f"made by {result.statement.predicate.run}, superseded: no run names it; "
                           "its statement and records stay")
        else:
            yield self._item(result.folder, "statement", "kept", "the ledger speaks of it")

    def _bulk(self, result: _Result) -> list[Path]:
        """The files of a result that are neither statement nor record."""
        return [path for path in sorted(result.folder.rglob("*"))
                if path.is_file() and path.name not in (STATEMENT_FILE, RECORD_FILE)]

    def _said_gone(self, result: _Result) -> list[Path]:
        """Files whose disposal was signed and then cut short."""
        return [path for name, digest in (result.statement.subjects if result.statement else {}).items()
                if (name, digest) in self.told.destroyed and (path := self.workspace.root / name).is_file()]

    def _differs(self, result: _Result) -> str:
        """The first file that is not what the result's statement says, in words; empty if there is none."""
        signed = self.told.recorded.get(result.name)
        if signed and _bytes(result.folder / STATEMENT_FILE) != signed[0]:
            return "its statement is not the one in the ledger"
        subjects = result.statement.subjects if result.statement else {}
        here = {self._name(path): path for path in result.folder.rglob("*")
                if path.is_file() and path.name != STATEMENT_FILE}
        for name, digest in subjects.items():
            if name not in here and (name, digest) in self.told.destroyed:
                continue
            if name not in here or sha256_file(here[name]) != digest:
                return f"{name} is not what was signed"
        stray = sorted(here.keys() - subjects.keys())
        return f"no statement speaks of {stray[0]}" if stray else ""

    def _request_of(self, result: _Result) -> tuple[str, str] | None:
        """The id and the digest of the request that a result was made for, if anything here still says so."""
        run = result.statement.predicate.run if result.statement else ""
        if run in self.states:
            return self.states[run].request_id, self.states[run].request_sha256
        return self.told.requests.get(run)

    # ---------------------------------------------------------------------------------- what is left

    def _leftovers(self) -> Iterator[Item]:
        """What killed processes left behind: what `sweep` takes away at the start of a run, too."""
        for scratch in sorted(self.workspace.results.glob(".*")):
            if scratch.is_dir():
                yield self._item(scratch, "scratch", *self._unless_at_work("half of a result is no result"))
        for folder in sorted(self.workspace.runs.glob("*/kfp*")):
            yield self._item(folder, "scratch", *self._unless_at_work("what the engine of a killed run left"))
        latest = {state.request_id: run for run, state in self.states.items()}
        for resume in sorted(self.workspace.root.glob(f"r*/**/*{RESUME_SUFFIX}")):
            run = resume.parent.name
            needed = any(state.run == run and latest[state.request_id] == run for state in self.unfinished)
            yield self._item(resume, "resume", "kept" if needed else "removable",
                             f"{run} may go on from it" if needed else "no run is going to go on from it")
        for half in sorted(self.workspace.root.rglob(f".*{HALF}")):
            yield self._item(half, "temporary", *self._unless_at_work("its writer was killed"))

    def _unless_at_work(self, why: str) -> tuple[Fate, str]:
        return ("kept", f"{', '.join(self.at_work)} may be at work in it") if self.at_work else ("removable", why)

    # ------------------------------------------------------------------------------- samples and sources

    def _objects(self) -> dict[str, list[str]]:
        """By md5, which runs' sample sets, or which imported sets, an object of the remote belongs to."""
        needed: dict[str, list[str]] = {}
        for imported in imported_sets(self.workspace):
            for shard in imported.shards:
                needed.setdefault(shard.md5, []).append(f"{SCHEME}{imported.name}")
        for _, marked in marked_sets(self.workspace):
            for shard in marked.shards:
                needed.setdefault(shard.md5, []).append(f"what was marked for {marked.request_id}")
        for result in self.results.values():
            for file in sorted(result.folder.glob(f"*/{RECORD_FILE}")) if result.needed_by else ():
                try:
                    record = read_record(SampleSet, file)
                except BadInput:
                    continue  # a record of another kind
                for shard in record.shards:
                    needed.setdefault(shard.md5, []).extend(result.needed_by)
        return needed

    def _sample_objects(self) -> Iterator[Item]:
        """Ciphertext in the remote and in DVC's own cache, by the same names."""
        for home in (self.workspace.sample_remote, self.workspace.samples / ".dvc" / "cache"):
            for file in sorted(home.glob("files/md5/??/*")):
                who = sorted(set(self.objects.get(file.parent.name + file.name, ())))
                yield self._item(file, "samples", "kept" if who else "removable",
                                 f"a sample set of {', '.join(who)}" if who else "in no sample set that a run needs")

    def _sources(self) -> Iterator[Item]:
        pinned: dict[str, list[str]] = {}
        for run in self.runs:
            if run.state().state in UNFINISHED:
                for source in _sources_of(run):
                    pinned.setdefault(source, []).append(run.name)
        for folder in sorted(self.workspace.sources.glob("*")):
            if folder.name == ".lock":
                continue
            who = pinned.get(folder.name)
            yield self._item(folder, "source", "kept" if who else "removable",
                             f"pinned by {', '.join(who)}" if who else "no unfinished run pins it")

    def _whole(self) -> Iterator[Item]:
        """What is never removed here, place by place."""
        place = self.workspace
        for folder in sorted(place.runs.glob("*")):
            yield self._item(folder, "run", "kept", "what was asked, by which policy, and what came of it")
        for release in sorted(place.releases.glob("*/[!.]*")):
            if not release.is_symlink():
                yield self._item(release, "release", "kept", "is or was served")
        for decided in sorted(place.approvals.glob("*")):
            yield self._item(decided, "approval", "kept", "signed decisions")
        for path, kind, why in (
                (place.ledger, "ledger", "the audit trail"), (place.keyring, "keyring", "whose signatures count"),
                (place.root / "taint", "taint", "what may not be served any more"),
                (place.policies, "policies", "by which rules runs are judged"),
                (place.samples, "samples", "the DVC repository, without its cache"),
                (place.imports, "imports", "labelled images that you imported"),
                (place.root / MARKED, "marked", "what people said of samples, for requests"),
                (place.root / "disposals", "disposal", "receipts of what was destroyed"),
                (place.root / audits.FILE, "audits", "when it was last looked over, for monitoring"),
                (place.tracking, "mlflow", "lineage for people to browse")):
            if path.exists():
                yield self._item(path, kind, "kept", why)

    def _item(self, path: Path, kind: str, fate: Fate, why: str) -> Item:
        skipped = (self.workspace.samples / ".dvc" / "cache",) if path == self.workspace.samples else (path / "kfp",)
        files = [path] if path.is_file() else [
            file for file in path.rglob("*") if file.is_file() and not any(map(file.is_relative_to, skipped))]
        return Item(path=self._name(path), kind=kind, size=_size(files), fate=fate, why=why)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.workspace.root).as_posix()

    # ---------------------------------------------------------------------------------------- removal

    def remove(self, item: Item) -> None:
        """Removes one thing that may go."""
        path = self.workspace.root / item.path
        if item.kind == "result":
            result = self.results[item.path]
            with exclusive(path.with_name(f"{path.name.rpartition('-')[0]}.lock"),
                           f"{item.path}: it is being worked on", "wait, then try again"):
                self._remove_result(result)
        elif path.is_dir():
            shutil.rmtree(path)
        elif item.kind == "temporary":
            sweep_halves([path.parent])  # which leaves alone what somebody is writing at this moment
        else:
            path.unlink(missing_ok=True)

    def _remove_result(self, result: _Result) -> None:
        signed = self.told.recorded.get(result.name)
        if signed is None:
            # Nothing signed speaks of it. Renamed first: half of it under its name would look like tampering.
            hidden = result.folder.with_name(f".{result.folder.name}{_REMOVED}")
            result.folder.rename(hidden)
            shutil.rmtree(hidden)
            return
        envelope, statement = signed
        going = self._said_gone(result)
        if not going:
            going = [*self._bulk(result), *self._spoiled_records(result, statement)]
            self._sign_disposal(result, statement)
        for file in going:
            file.unlink(missing_ok=True)
        if _bytes(result.folder / STATEMENT_FILE) != envelope:
            write_atomically(result.folder / STATEMENT_FILE, envelope)
        flush(result.folder)

    def _spoiled_records(self, result: _Result, statement: RoomStatement) -> list[Path]:
        """Records that are not what was signed: what they say is worth nothing, and they go with the rest."""
        return [path for path in sorted(result.folder.rglob(RECORD_FILE))
                if statement.subjects.get(self._name(path)) != sha256_file(path)]

    def _sign_disposal(self, result: _Result, statement: RoomStatement) -> None:
        """Says which signed files go: all but sound records. What is missing already is accounted for here, too."""
        request = self._request_of(result)
        if request is None:
            raise ExpungeError(f"{result.name}: nothing here says for which request it was made", "leave it there")
        sound = {name for name, digest in statement.subjects.items() if name.endswith(f"/{RECORD_FILE}")
                 and (file := self.workspace.root / name).is_file() and sha256_file(file) == digest}
        gone = {name: digest for name, digest in statement.subjects.items()
                if name not in sound and (name, digest) not in self.told.destroyed}
        said = Statement.over(gone, DisposalPredicate(
            request_id=request[0], request_sha256=request[1], by=OPERATOR, reason=REASON,
            at=datetime.now(UTC).isoformat(timespec="seconds")))
        Ledger.open(self.workspace).append(sign_statement(said, SigningKey.load(self.workspace, OPERATOR)))


def told_by(workspace: Workspace) -> Told:
    """Reads the whole ledger; what does not verify in it is left out, and `audit verify` names it."""
    keyring = Keyring.load(workspace)
    recorded: dict[str, tuple[bytes, RoomStatement]] = {}
    destroyed: set[tuple[str, str]] = set()
    requests: dict[str, tuple[str, str]] = {}
    disposals: list[Disposed] = []
    for entry in Ledger.existing(workspace).entries():
        try:
            statement: Statement[Any] = open_statement(entry.envelope, keyring.at(entry.position))[0]
        except ExpungeError:
            continue  # a decision, or what `audit verify` names
        said = statement.predicate
        if isinstance(said, RoomPredicate):
            recorded |= {"/".join(name.split("/")[:2]): (entry.envelope, statement) for name in statement.subjects}
        elif isinstance(said, DisposalPredicate):
            destroyed |= set(statement.subjects.items())
            disposals.append(Disposed(entry.sha256, said.request_id, said.reason, len(statement.subjects)))
        elif isinstance(said, RunPredicate):
            requests[said.run] = (said.request_id, said.request_sha256)
    return Told(recorded, frozenset(destroyed), requests, tuple(disposals))


def _statement(file: Path, keyring: Keyring) -> RoomStatement | None:
    try:
        return open_statement(file.read_bytes(), keyring, RoomPredicate)[0]
    except (OSError, ExpungeError):
        return None


def _sources_of(run: Run) -> set[str]:
    """The digests that a run's request pins."""
    request = run.request()
    named = (getattr(request, name) for name in type(request).model_fields)
    return {pinned for source in named if (pinned := getattr(source, "sha256", None))}


def _bytes(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files if file.is_file())
