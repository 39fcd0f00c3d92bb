"""What a workspace holds for one request: its key, the sample sets, what is sealed for it, the parent's files."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from expunge.contracts import (
    RECORD_FILE,
    Adaptation,
    AnyRecord,
    Checkpoint,
    DisposedSet,
    SampleSet,
    read_record,
    read_record_if_any,
)
from expunge.custody.contents import Content, Tensor
from expunge.custody.searchers import SafetensorsFiles
from expunge.custody.wanted import Wanted
from expunge.digests import sha256_file
from expunge.errors import BadInput, DoesNotVerify
from expunge.room import RESUME_SUFFIX
from expunge.runs import Run
from expunge.samples.encryption import RequestKey
from expunge.samples.marked import marked_sets
from expunge.samples.sample_sets import read_table
from expunge.settings import Workspace
from expunge.stores import releases

_TO_BE_FORGOTTEN = ("forget", "negative")


@dataclass
class Sets:
    """The sample sets of a request, and what of them is looked for."""

    wanted: Wanted = field(default_factory=Wanted)
    described: list[DisposedSet] = field(default_factory=list)


@dataclass(frozen=True)
class Holdings:
    """What lies in a workspace for a request, by the records of its runs."""

    workspace: Workspace
    request_id: str
    runs: list[Run]

    def key(self) -> RequestKey | None:
        """Its key; None if it is lost."""
        file = RequestKey.file(self.workspace, self.request_id)
        return RequestKey.load(self.workspace, self.request_id) if file.exists() else None

    def sealed_by_record(self) -> set[str]:
        """What was sealed for the request, by its records: of sample sets, of adaptations, and where state is kept."""
        root, found = self.workspace.root, set[str]()
        stores = [(record.remote, record.shards) for record in _records(
            self.workspace, "curate_forget_set-*/*", SampleSet) if record.request_id == self.request_id]
        stores += [(marked.remote, marked.shards) for _, marked in marked_sets(self.workspace, self.request_id)]
        for remote, shards in stores:
            for shard in shards:
                stored = f"files/md5/{shard.md5[:2]}/{shard.md5[2:]}"
                found |= {f"{remote}/{stored}", f"samples/.dvc/cache/{stored}", f"samples/{shard.path}"}
        for run in self.runs:
            found |= {file.relative_to(root).as_posix() for file in run.folder.glob(f"*{RESUME_SUFFIX}")}
            if "adapt" in run.state().rooms:
                found.add(f"{run.state().rooms['adapt'].result}/adaptation/tensors.sealed")
        return found

    def open_sets(self, key: RequestKey | None) -> Sets:
        """Every set ever made for the request, each once; the images of those that were to be forgotten."""
        sets, seen = Sets(), set[str]()
        for record in _records(self.workspace, "curate_forget_set-*/*", SampleSet):
            if record.request_id != self.request_id or record.set_id in seen:
                continue
            seen.add(record.set_id)
            searched = record.role in (*_TO_BE_FORGOTTEN, "members")
            missing = "" if not searched else "the key is lost" if key is None else self._take_in(
                key, record, sets.wanted)
            sets.described.append(DisposedSet(
                role=record.role, set_id=record.set_id, request_sha256=record.request_sha256, count=record.count,
                looked_for=searched and not missing, missing=missing))
        if key is not None:
            sets.wanted.tensors |= self._adapted(key)
        return sets

    def _take_in(self, key: RequestKey, record: SampleSet, wanted: Wanted) -> str:
        """Adds the images of a set, shard by shard: of real ones that the parent had learned, the unwanted."""
        for shard in record.shards:
            try:
                table = read_table(self.workspace, key, record.remote, [shard])
            except DoesNotVerify as error:
                return error.problem
            rows = [label in record.unwanted for label in table.labels.tolist()]
            wanted.add(table.pixels if record.role in _TO_BE_FORGOTTEN else table.pixels[rows])
        return ""

    def _adapted(self, key: RequestKey) -> set[bytes]:
        """The tensors of adapted models that are still there, but for those that no method has changed."""
        mine = {run.state().rooms["adapt"].result for run in self.runs if "adapt" in run.state().rooms}
        found: set[bytes] = set()
        for result in sorted(mine):
            folder = self.workspace.root / result / "adaptation"
            with suppress(BadInput, DoesNotVerify, OSError):
                record = read_record(Adaptation, folder)
                tensors = folder / record.tensors.name
                found |= _tensors(Content.of_bytes("", key.open(tensors.read_bytes(), tensors.name), 0))
        if found:
            for weights in self.workspace.results.glob("*/*/*.safetensors"):
                found -= _tensors(Content("", lambda weights=weights: weights.open("rb")))  # type: ignore[misc]
        return found

    def parents_copies(self) -> tuple[dict[str, str], list[str]]:
        """The parent's files here, by digest: those made or fetched for this request, and those that others need."""
        digests = {run.request().checkpoint.sha256 for run in self.runs}
        mine = {run.state().rooms["fetch_checkpoint"].result for run in self.runs
                if "fetch_checkpoint" in run.state().rooms}
        going: dict[str, str] = {}
        left: list[str] = []
        for folder in sorted(self.workspace.results.glob("*/checkpoint")):
            record = _readable(Checkpoint, folder)
            if record is None or record.weights.sha256 not in digests:
                continue
            file = folder / record.weights.name
            if not file.exists():
                continue
            name = file.relative_to(self.workspace.root).as_posix()
            if f"results/{folder.parent.name}" in mine:
                going[name] = record.weights.sha256
            else:
                left.append(name)
        for digest in filter(None, digests):
            for file in sorted(self.workspace.sources.glob(f"{digest}/*")):
                if file.is_file():
                    going[file.relative_to(self.workspace.root).as_posix()] = sha256_file(file)
        for model in releases.models(self.workspace):
            left += [str(release.generation) for release in releases.history(self.workspace, model)
                     if release.weights.sha256 in digests]
        return going, left


def keys_in(workspace: Workspace) -> Iterator[RequestKey]:
    """Every request's and imported set's key that lies here."""
    home = workspace.keys / "requests"
    for file in sorted(home.rglob("*.key")):
        with suppress(BadInput):
            yield RequestKey.load(workspace, file.relative_to(home).as_posix().removesuffix(".key"))


def _records(workspace: Workspace, pattern: str, kind: type[AnyRecord]) -> Iterator[AnyRecord]:
    for file in sorted(workspace.results.glob(f"{pattern}/{RECORD_FILE}")):
        record = _readable(kind, file)
        if record is not None:
            yield record


def _readable(kind: type[AnyRecord], path: Path) -> AnyRecord | None:
    """A record, or None: `audit verify` names one that was tampered with."""
    try:
        return read_record_if_any(kind, path)
    except BadInput:
        return None


def _tensors(content: Content) -> set[bytes]:
    return {piece.digest for piece in SafetensorsFiles().look(content) if isinstance(piece, Tensor)}
