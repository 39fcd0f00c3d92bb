"""What is served, on this machine: release folders, and a `current` link that is replaced in one step.

A release is ``releases/<model>/<generation>-<first 12 digits of the weights' digest>/`` with the files
``model.safetensors`` (or as the library of the weights' format calls it) and ``release.json``, and those that this
library reads beside them, such as ``config.json``; ``releases/<model>/current`` points at one. A release is finished
in a scratch folder, flushed to disk and renamed before `current` is flipped, so a reader never sees half of
one and a crash leaves the old one. Rollback and withdrawal are signed and in the ledger before they are done.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.contracts import Frozen, Release, StoredFile, read_record
from expunge.digests import flush, sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify, Refused
from expunge.evidence.keys import OPERATOR, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import (
    Predicate,
    RollbackPredicate,
    Statement,
    WithdrawalPredicate,
    sign_statement,
)
from expunge.settings import Workspace
from expunge.stores.taint import Mark, descent, marks, tainting

if TYPE_CHECKING:
    from sqlalchemy import Connection

WEIGHTS = "model.safetensors"  # unless a library calls it otherwise
RELEASE_FILE = "release.json"
CURRENT = "current"


class Served(Frozen):
    """What a rollback or a withdrawal did."""

    model: str
    was: Release | None
    now: Release | None  # None: the model is withdrawn
    request_id: str | None = None  # the request by which there was nothing to go back to
    text: str  # one line for a person


# From what is done and the digest of the entry that says so: the change that is made with that entry, or not at all.
Recording = Callable[[Served, str], "Callable[[Connection], object]"]


def models(workspace: Workspace) -> tuple[str, ...]:
    """Every model that ever had a release here."""
    return tuple(sorted(path.name for path in workspace.releases.glob("*") if path.is_dir()))


def history(workspace: Workspace, model: str) -> tuple[Release, ...]:
    """Every release of a model, oldest first."""
    files = workspace.releases.joinpath(model).glob(f"*/{RELEASE_FILE}")
    found = [read_record(Release, file) for file in files
             if not file.parent.is_symlink() and not file.parent.name.startswith(".")]
    return tuple(sorted(found, key=lambda release: release.generation))


def current(workspace: Workspace, model: str) -> Release | None:
    """The release in service, or None. DoesNotVerify if `current` points at nothing."""
    link = workspace.releases / model / CURRENT
    if not link.is_symlink():
        return None
    if not (link / RELEASE_FILE).is_file():
        raise DoesNotVerify(f"releases/{model}/{CURRENT}: points at no release", "run 'expunge audit verify'")
    return read_record(Release, link / RELEASE_FILE)


def folder_of(workspace: Workspace, release: Release) -> Path:
    """Where a release lies."""
    return workspace.releases / release.model / f"{release.generation}-{release.weights.sha256[:12]}"


def publish(workspace: Workspace, model: str, weights: Path, sha256: str,
            describe: Callable[[int, StoredFile, tuple[StoredFile, ...]], Release],
            beside: Mapping[str, bytes], name: str = WEIGHTS) -> Release:
    """Puts `weights` into service as the next generation; what is served already stays as it is.

    `describe` makes the release's record from its generation, its file and the files `beside` it, which are given as
    their content by name; the weights' own file is called `name`. The bytes are hashed while they are copied: what is
    served is what was hashed, whatever happens to `weights` meanwhile.

    Raises:
        Refused: the bytes are not those of `sha256`.
    """
    home = workspace.releases / model
    with _locked(home):
        served = current(workspace, model)
        if served is not None and served.weights.sha256 == sha256:
            return served
        earlier = history(workspace, model)
        last = earlier[-1] if earlier else None
        if last is not None and _is_unfinished(workspace, last, served, sha256, describe):
            _flip(home, folder_of(workspace, last).name)
            return last
        generation = last.generation + 1 if last else 1
        scratch = home / ".scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        stored = _copy_hashing(weights, scratch / name)
        if stored.sha256 != sha256:
            shutil.rmtree(scratch)
            raise Refused(f"{weights.name}: its bytes are not the approved ones ({stored.sha256[:12]})",
                          "nothing was released")
        written = [scratch / name for name in beside]
        for file in written:
            file.write_bytes(beside[file.name])
        release = describe(generation, stored, tuple(StoredFile.of(file) for file in written))
        (scratch / RELEASE_FILE).write_bytes(release.to_bytes())
        flush(*written, scratch / RELEASE_FILE, scratch)
        scratch.rename(folder_of(workspace, release))
        flush(home)
        _flip(home, folder_of(workspace, release).name)
        return release


def _is_unfinished(workspace: Workspace, last: Release, served: Release | None, sha256: str,
                   describe: Callable[[int, StoredFile, tuple[StoredFile, ...]], Release]) -> bool:
    """Whether `last` is this very release, complete on disk, but for the flip that a crash prevented."""
    if last.weights.sha256 != sha256 or (served is not None and served.generation >= last.generation):
        return False
    again = describe(last.generation, last.weights, last.beside).model_copy(update={"released_at": last.released_at})
    return again == last and sha256_file(folder_of(workspace, last) / last.weights.name) == sha256


def rollback(workspace: Workspace, model: str, *, by: str = OPERATOR, reason: str = "",
             recording: Recording | None = None) -> Served:
    """Serves the newest earlier release that no request taints; if there is none, withdraws the model.

    `recording` gives the change that becomes durable together with the ledger's entry, before anything is done.

    Raises:
        BadInput: the model is not served.
        DoesNotVerify: the release to go back to is not the bytes that were released.
    """
    _served(workspace, model)  # before the lock, which would make a folder for any name
    with _locked(workspace.releases / model):
        was = _served(workspace, model)
        placed, known = effective(workspace, marks(workspace)), descent(workspace)
        blocking: Mark | None = None
        for release in reversed(history(workspace, model)):
            if release.generation >= was.generation or release.weights.sha256 == was.weights.sha256:
                continue
            mark = tainting(release.weights.sha256, placed, known.parents)
            if mark is None:
                return _serve_again(workspace, was, release, by, reason, known.not_asked, recording)
            blocking = blocking or mark
        if blocking is None:  # there is no earlier release: what came before is the parent itself
            blocking = tainting(was.parent_sha256, placed, known.parents)
        return _withdraw(workspace, was, blocking, by, reason, recording)


def withdraw(workspace: Workspace, model: str, *, by: str = OPERATOR, reason: str = "",
             recording: Recording | None = None) -> Served:
    """Takes a model out of service, `recording` as for `rollback`. BadInput if it is not in service."""
    _served(workspace, model)
    with _locked(workspace.releases / model):
        return _withdraw(workspace, _served(workspace, model), None, by, reason, recording)


def effective(workspace: Workspace, placed: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """The marks that hold already: those no longer pending, and those whose approved bytes are live."""
    live = {release.weights.sha256 for model in models(workspace) if (release := current(workspace, model))}
    return tuple(mark for mark in placed if not mark.pending or mark.approved_sha256 in live)


def _served(workspace: Workspace, model: str) -> Release:
    found = current(workspace, model) if model in models(workspace) else None
    if found is None:
        known = ", ".join(name for name in models(workspace) if current(workspace, name))
        raise BadInput(f"model: '{model}' is not in service", f"in service: {known or 'nothing'}")
    return found


def _serve_again(workspace: Workspace, was: Release, release: Release, by: str, reason: str,
                 not_asked: str, recording: Recording | None) -> Served:
    folder = folder_of(workspace, release)
    for file in (release.weights, *release.beside):
        if sha256_file(folder / file.name) != file.sha256:
            name = (folder / file.name).relative_to(workspace.root)
            raise DoesNotVerify(f"{name}: not the bytes that were released")
    unknown = f"; what MLflow knows of its descent was not looked at: {not_asked}" if not_asked else ""
    served = Served(model=was.model, was=was, now=release,
                    text=f"{was.model}: generation {release.generation} is served again{unknown}")
    _sign(workspace, Statement.over(
        {file.relative_to(workspace.root).as_posix(): sha256_file(file)
         for file in (*(folder / file.name for file in (release.weights, *release.beside)), folder / RELEASE_FILE)},
        RollbackPredicate(model=was.model, from_sha256=was.weights.sha256, to_sha256=release.weights.sha256,
                          to_generation=release.generation, by=by, reason=reason, at=_now())), served, recording)
    _flip(folder.parent, folder.name)
    return served


def _withdraw(workspace: Workspace, was: Release, blocking: Mark | None, by: str, reason: str,
              recording: Recording | None) -> Served:
    request = blocking.request_id if blocking else None
    why = f": what came before is tainted by request {request}" if request else ""
    served = Served(model=was.model, was=was, now=None, request_id=request,
                    text=f"{was.model}: withdrawn, nothing is served{why}")
    _sign(workspace, Statement.over({}, WithdrawalPredicate(
        model=was.model, from_sha256=was.weights.sha256, request_id=request, by=by, reason=reason,
        at=_now())), served, recording)
    home = workspace.releases / was.model
    (home / CURRENT).unlink()
    flush(home)
    return served


def _sign(workspace: Workspace, statement: Statement[Predicate], served: Served, recording: Recording | None) -> None:
    envelope = sign_statement(statement, SigningKey.load(workspace, OPERATOR))
    Ledger.open(workspace).append(
        envelope, with_change=recording(served, sha256_bytes(envelope)) if recording else None)


def _copy_hashing(source: Path, target: Path) -> StoredFile:
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reading, target.open("wb") as writing:
        while piece := reading.read(1 << 20):
            digest.update(piece)
            size += writing.write(piece)
        writing.flush()
        os.fsync(writing.fileno())
    return StoredFile(name=target.name, sha256=digest.hexdigest(), size=size)


def _flip(home: Path, folder: str) -> None:
    link = home / ".current"
    link.unlink(missing_ok=True)
    link.symlink_to(folder)
    link.replace(home / CURRENT)
    flush(home)

@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One change of service at a time; each takes no longer than a copy."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
