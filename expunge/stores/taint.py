"""Which bytes may not be served any more, because somebody's request to forget was approved.

A mark names a request, the parent it was about and the candidate that was approved for it. By the mark, a
digest is tainted if it is the parent, or descends from the parent and is neither an approved candidate of
that request nor a descendant of one. A mark is *pending* until its release is live; until then what was
served before may go on. Descent is a walk over ``parent_sha256`` in release and candidate records, and in the tags of
models that are registered in MLflow. What MLflow says can only taint more, never less; that it could not be asked is
said.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from expunge.contracts import RECORD_FILE, Candidate, Digest, Identifier, Record, Release, read_record
from expunge.digests import write_atomically
from expunge.errors import BadInput
from expunge.settings import Workspace
from expunge.stores.tracking import Tracking, Version

Lineage = Mapping[str, frozenset[str]]
"""Parents of a digest, by digest. Almost always one; the same bytes may be reached twice."""


class Mark(Record):
    """One approved request's claim on its parent and all that descends from it."""

    SCHEMA: ClassVar[str] = "expunge/taint/v1"

    request_id: Identifier
    request_sha256: Digest
    parent_sha256: Digest
    approved_sha256: Digest
    pending: bool


def place(mark: Mark, workspace: Workspace) -> None:
    """Writes a mark, or replaces it by its newer state."""
    write_atomically(file_of(mark, workspace), mark.to_bytes())


def file_of(mark: Mark, workspace: Workspace) -> Path:
    """Where a mark lies: one file per request and approved candidate."""
    return _folder(workspace) / f"{mark.request_sha256[:20]}-{mark.approved_sha256[:20]}.json"


def marks(workspace: Workspace) -> tuple[Mark, ...]:
    """Every mark of the workspace. BadInput names one that cannot be read: it is not skipped."""
    return tuple(read_record(Mark, file) for file in sorted(_folder(workspace).glob("*.json")))


@dataclass(frozen=True)
class Descent:
    """What descends from what, by every source there is."""

    parents: Lineage
    versions: tuple[Version, ...]  # what MLflow has registered
    not_asked: str  # why MLflow could not be asked; empty if it was


def descent(workspace: Workspace, *more: tuple[str, str]) -> Descent:
    """The lineage of the workspace's records, of `more` pairs of (child, parent), and of what MLflow has registered."""
    told = Tracking.for_workspace(workspace).versions()
    pairs = ((one.sha256, one.parent_sha256) for one in told.versions if one.parent_sha256 is not None)
    return Descent(lineage(workspace, *more, *pairs), told.versions, told.reason)


def lineage(workspace: Workspace, *more: tuple[str, str]) -> Lineage:
    """What descends from what, by release and candidate records, and by `more` pairs of (child, parent)."""
    pairs = list(more)
    for file in workspace.releases.glob("*/*/release.json"):
        if not file.parent.is_symlink():
            released = read_record(Release, file)
            pairs.append((released.weights.sha256, released.parent_sha256))
    for file in workspace.results.glob(f"*/candidate/{RECORD_FILE}"):
        try:
            made = read_record(Candidate, file)
        except BadInput:
            continue  # a result that was tampered with stays where it is; `audit verify` names it
        pairs.append((made.weights.sha256, made.parent_sha256))
    parents: dict[str, set[str]] = {}
    for child, parent in pairs:
        parents.setdefault(child, set()).add(parent)
    return {child: frozenset(found) for child, found in parents.items()}


def tainting(digest: str, found: Iterable[Mark], parents: Lineage, *, approving: str = "") -> Mark | None:
    """The mark by which `digest` may not be served, or None.

    `approving` is the digest of a request for which `digest` is itself about to be the approved candidate.
    """
    placed = tuple(found)
    approved: dict[str, set[str]] = {}
    for mark in placed:
        approved.setdefault(mark.request_sha256, set()).add(mark.approved_sha256)
    if approving:
        approved.setdefault(approving, set()).add(digest)
    for mark in placed:
        if _reaches(digest, mark.parent_sha256, parents, approved[mark.request_sha256]):
            return mark
    return None


def _reaches(digest: str, ancestor: str, parents: Lineage, cleansed: set[str]) -> bool:
    """Whether `digest` descends from `ancestor` by a path on which nothing was cleansed."""
    pending, seen = [digest], set()
    while pending:
        current = pending.pop()
        if current in cleansed or current in seen:
            continue
        if current == ancestor:
            return True
        seen.add(current)
        pending += parents.get(current, ())
    return False


def _folder(workspace: Workspace) -> Path:
    return workspace.root / "taint"
