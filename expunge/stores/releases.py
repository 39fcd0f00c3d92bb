"""What is served: release folders, and `current`, which points at one of them and is replaced in one step.

A release is ``releases/<model>/<generation>-<first 12 digits of the weights' digest>/`` with the files
``model.safetensors`` (or as the library of the weights' format calls it) and ``release.json``, and those that this
library reads beside them, such as ``config.json``. It is finished in a scratch folder, flushed to disk and renamed.
Then it is brought to where it is served from, if that is elsewhere, and only then is `current` flipped: a reader never
sees half of one and a crash leaves the old one. Rollback and withdrawal are signed and in the ledger before they are
done.

Where it is served from is a `ReleaseStore`: the workspace itself, or S3 (``releases_s3.py``), or KServe that reads from
there (``releases_kserve.py``), if ``config.yaml`` says so. Either way the workspace keeps every release that it made:
evidence is checked, and gone back to, from there.

Where a release is in service at once, one step changes what is served. KServe starts servers first, and may try them on
a share of the requests: such a rollout is begun in one step, may take long, and is settled in another; until then the
release before it is the one in service. Nobody waits for that with the lock in hand, so that it can be ended.
"""

import fcntl
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.configuration import Configuration
from expunge.contracts import Frozen, Release, StoredFile, read_record
from expunge.digests import flush, sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify, NotServed, Refused, WorkspaceBusy
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

Tell = Callable[[str], None]  # one line for whoever watches


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
    """The release in service, or None.

    Raises:
        DoesNotVerify: `current` points at nothing that was released here.
        ExpungeError: where it is served from cannot be reached.
    """
    return store_of(workspace).current(model)[0]


def folder_of(workspace: Workspace, release: Release) -> Path:
    """Where a release lies in the workspace."""
    return workspace.releases / release.model / folder_name(release)


def folder_name(release: Release) -> str:
    """What a release's folder is called, wherever it is."""
    return f"{release.generation}-{release.weights.sha256[:12]}"


@dataclass(frozen=True)
class Pointed:
    """What `current` said at one moment. A change names it, and is not made if it says something else by then."""

    folder: str | None = None  # None: nothing is served
    release_sha256: str | None = None  # of that folder's release.json, where `current` says it
    tag: str | None = None  # of this very content, which never comes again
    change: int = 0  # how often it was changed before, where it counts that
    underway: str | None = None  # the folder of a release that is being rolled out, and is not in service yet


class ReleaseStore(ABC):
    """Where releases are served from. What was released is in the workspace already, complete; `model` is locked."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def require_ready(self) -> None:  # noqa: B027 - most places always are
        """ExpungeError if nothing could be served safely from here. Asked before anything is changed."""

    @abstractmethod
    def pointer(self, model: str) -> str:
        """The address of a model's `current`, for people."""

    @abstractmethod
    def served_at(self, release: Release, name: str) -> str:
        """Where a file of the release in service is read: relative to the workspace, or with its scheme."""

    @abstractmethod
    def pointed(self, model: str) -> Pointed:
        """What `current` says now. DoesNotVerify if it is none of ours."""

    @abstractmethod
    def newest_generation(self, model: str) -> int:
        """The highest generation that anything there is of, 0 if there is nothing."""

    @abstractmethod
    def place(self, release: Release) -> None:
        """Brings a release from the workspace to where it is served from. Harmless if it is there."""

    @abstractmethod
    def discard(self, release: Release) -> None:
        """Takes away what `place` brought, of a release that never was in service. No harm if it cannot."""

    @abstractmethod
    def serve(self, model: str, release: Release | None, before: Pointed) -> None:
        """Changes in one step what is served: a release that was placed, or nothing. Or begins to: see `settle`.

        Raises:
            WorkspaceBusy: `current` is not as it was `before`; it stays as it is.
        """

    def settle(self, model: str, release: Release | None, tell: Tell) -> None:  # noqa: B027 - most places are at once
        """Waits until what `serve` began is so. Whoever was killed meanwhile calls both again.

        Raises:
            NotServed: the release does not become ready; what was in service before still is.
            WorkspaceBusy: somebody else has changed it meanwhile.
        """

    @abstractmethod
    def digest(self, release: Release, file: StoredFile, by_bytes: bool = True) -> str | None:
        """The SHA-256 of a file of a release as it is served; None if it is missing.

        Without `by_bytes`, it is taken for what was released if nothing but reading it would tell: its size is right.
        """

    def current(self, model: str) -> tuple[Release | None, Pointed]:
        """The release in service, if any, and what `current` said. DoesNotVerify if it was not released here."""
        pointed = self.pointed(model)
        if pointed.folder is None:
            return None, pointed
        file = self.workspace.releases / model / pointed.folder / RELEASE_FILE
        if not file.is_file():
            raise DoesNotVerify(f"{self.pointer(model)}: points at no release of this workspace",
                                "run 'expunge audit verify'")
        if pointed.release_sha256 not in (None, sha256_file(file)):
            raise DoesNotVerify(f"{self.pointer(model)}: points at another {pointed.folder} than this workspace made",
                                "run 'expunge audit verify'")
        return read_record(Release, file), pointed

    @abstractmethod
    def require_whole(self, release: Release) -> None:
        """DoesNotVerify names the first file that would not be what was released, were it served again."""


class LocalReleases(ReleaseStore):
    """Served from the workspace: `current` is a link to a folder beside it."""

    def pointer(self, model: str) -> str:
        """The link, relative to the workspace."""
        return f"releases/{model}/{CURRENT}"

    def served_at(self, release: Release, name: str) -> str:
        """By the link."""
        return f"releases/{release.model}/{CURRENT}/{name}"

    def pointed(self, model: str) -> Pointed:
        """Where the link leads."""
        link = self.workspace.releases / model / CURRENT
        return Pointed(os.readlink(link)) if link.is_symlink() else Pointed()

    def newest_generation(self, model: str) -> int:
        """None but what the workspace's history has."""
        return 0

    def place(self, release: Release) -> None:
        """Nothing: it is there."""

    def discard(self, release: Release) -> None:
        """Nothing: the workspace's copy is not this store's."""

    def serve(self, model: str, release: Release | None, before: Pointed) -> None:
        """Replaces the link, or removes it. The workspace's lock is what keeps others from it."""
        home = self.workspace.releases / model
        if self.pointed(model) != before:
            raise WorkspaceBusy(f"{self.pointer(model)}: somebody else has changed it meanwhile",
                                "give the same command again")
        if release is not None:
            _flip(home, folder_name(release))
        else:
            (home / CURRENT).unlink(missing_ok=True)
            flush(home)

    def require_whole(self, release: Release) -> None:
        """By the files in its folder."""
        for file in (release.weights, *release.beside):
            if self.digest(release, file) != file.sha256:
                raise DoesNotVerify(f"releases/{release.model}/{folder_name(release)}/{file.name}: "
                                    "not the bytes that were released")

    def digest(self, release: Release, file: StoredFile, by_bytes: bool = True) -> str | None:
        """Of the file in its folder."""
        there = folder_of(self.workspace, release) / file.name
        if not there.is_file():
            return None
        if by_bytes or there.stat().st_size != file.size:
            return sha256_file(there)
        return file.sha256


def store_of(workspace: Workspace) -> ReleaseStore:
    """Where this workspace serves from. BadInput if its configuration cannot be read."""
    told = Configuration.load(workspace)
    if told.releases is None:
        return LocalReleases(workspace)
    if told.kserve is not None:
        from expunge.stores.releases_kserve import KServeReleases

        return KServeReleases(workspace, told.releases, told.kserve)
    from expunge.stores.releases_s3 import S3Releases

    return S3Releases(workspace, told.releases)


def publish(workspace: Workspace, model: str, weights: Path, sha256: str,
            describe: Callable[[int, StoredFile, tuple[StoredFile, ...]], Release],
            beside: Mapping[str, bytes], name: str = WEIGHTS, tell: Tell = lambda _: None) -> Release:
    """Puts `weights` into service as the next generation; what is served already stays as it is.

    `describe` makes the release's record from its generation, its file and the files `beside` it, which are given as
    their content by name; the weights' own file is called `name`. The bytes are hashed while they are copied: what is
    served is what was hashed, whatever happens to `weights` meanwhile.

    Raises:
        Refused: the bytes are not those of `sha256`.
        WorkspaceBusy: somebody else has changed meanwhile what is served, or is about to; nothing of this release is
            left.
        NotServed: it does not become ready where it would be served; nothing of it is left.
        ExpungeError: where it is served from cannot be reached. The same call goes on from there.
    """
    home, store = workspace.releases / model, store_of(workspace)
    with _locked(home):
        store.require_ready()
        served, before = store.current(model)
        if served is not None and served.weights.sha256 == sha256 and before.underway is None:
            return served
        earlier = history(workspace, model)
        last = earlier[-1] if earlier else None
        unfinished = last if last is not None and _is_unfinished(workspace, last, served, sha256, describe) else None
        if before.underway is not None and (unfinished is None or folder_name(unfinished) != before.underway):
            raise WorkspaceBusy(f"{store.pointer(model)}: {before.underway} is being rolled out",
                                f"wait for it, or end it with 'expunge rollback {model}'")
        if unfinished is not None:
            release = unfinished
        else:
            generation = max(last.generation if last else 0, store.newest_generation(model)) + 1
            release = _keep(workspace, model, generation, weights, sha256, describe, beside, name)
        try:
            store.place(release)
            store.serve(model, release, before)
        except WorkspaceBusy:  # what was approved may not hold beside what the other released: it is looked at again
            _forget(store, release)
            raise
    try:
        store.settle(model, release, tell)
    except (WorkspaceBusy, NotServed):
        with _locked(home):
            _forget(store, release)
        raise
    return release


def _forget(store: ReleaseStore, release: Release) -> None:
    store.discard(release)
    shutil.rmtree(folder_of(store.workspace, release))


def _keep(workspace: Workspace, model: str, generation: int, weights: Path, sha256: str,
          describe: Callable[[int, StoredFile, tuple[StoredFile, ...]], Release],
          beside: Mapping[str, bytes], name: str) -> Release:
    """Makes the workspace's own folder of a release, in one step."""
    home = workspace.releases / model
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
    return release


def _is_unfinished(workspace: Workspace, last: Release, served: Release | None, sha256: str,
                   describe: Callable[[int, StoredFile, tuple[StoredFile, ...]], Release]) -> bool:
    """Whether `last` is this very release, complete in the workspace, but for the flip that a crash prevented."""
    if last.weights.sha256 != sha256 or (served is not None and served.generation >= last.generation):
        return False
    again = describe(last.generation, last.weights, last.beside).model_copy(update={"released_at": last.released_at})
    return again == last and sha256_file(folder_of(workspace, last) / last.weights.name) == sha256


def rollback(workspace: Workspace, model: str, *, by: str = OPERATOR, reason: str = "",
             recording: Recording | None = None, tell: Tell = lambda _: None) -> Served:
    """Serves the newest earlier release that no request taints; if there is none, withdraws the model.

    `recording` gives the change that becomes durable together with the ledger's entry, before anything is done. A
    release that is being rolled out was never in service: ending that changes nothing that is.

    Raises:
        BadInput: the model is not served.
        DoesNotVerify: the release to go back to is not the bytes that were released.
        NotServed: the release to go back to does not become ready; what was in service before still is.
    """
    store = store_of(workspace)
    _served(store, model)  # before the lock, which would make a folder for any name
    with _locked(workspace.releases / model):
        store.require_ready()
        was, before = _served(store, model)
        if was is None or (before.underway is not None and not tainted_by(workspace, was)):
            done = _end_rollout(store, model, was, before)
        else:
            done = _go_back(store, was, before, by, reason, recording)
    store.settle(model, done.now, tell)
    return done


def _end_rollout(store: ReleaseStore, model: str, was: Release | None, before: Pointed) -> Served:
    store.serve(model, was, before)
    still = f"generation {was.generation} is in service, as before" if was else "nothing is served, as before"
    return Served(model=model, was=was, now=was, text=f"{model}: the rollout of {before.underway} is ended; {still}")


def _go_back(store: ReleaseStore, was: Release, before: Pointed, by: str, reason: str,
             recording: Recording | None) -> Served:
    workspace = store.workspace
    placed, known = effective(workspace, marks(workspace)), descent(workspace)
    blocking: Mark | None = None
    for release in reversed(history(workspace, was.model)):
        if release.generation >= was.generation or release.weights.sha256 == was.weights.sha256:
            continue
        mark = tainting(release.weights.sha256, placed, known.parents)
        if mark is None:
            return _serve_again(store, was, before, release, by, reason, known.not_asked, recording)
        blocking = blocking or mark
    if blocking is None:  # there is no earlier release: what came before is the parent itself
        blocking = tainting(was.parent_sha256, placed, known.parents)
    return _withdraw(store, was, before, blocking, by, reason, recording)


def withdraw(workspace: Workspace, model: str, *, by: str = OPERATOR, reason: str = "",
             recording: Recording | None = None, tell: Tell = lambda _: None) -> Served:
    """Takes a model out of service, `recording` as for `rollback`. BadInput if it is not in service."""
    store = store_of(workspace)
    _served(store, model)
    with _locked(workspace.releases / model):
        store.require_ready()
        was, before = _served(store, model)
        done = _end_rollout(store, model, None, before) if was is None else _withdraw(
            store, was, before, None, by, reason, recording)
    store.settle(model, None, tell)
    return done


def tainted_by(workspace: Workspace, release: Release) -> Mark | None:
    """The mark by which a release may not be served now, or None."""
    return tainting(release.weights.sha256, effective(workspace, marks(workspace)), descent(workspace).parents)


def effective(workspace: Workspace, placed: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """The marks that hold already: those no longer pending, and those whose approved bytes are live."""
    live = {release.weights.sha256 for model in models(workspace) if (release := current(workspace, model))}
    return tuple(mark for mark in placed if not mark.pending or mark.approved_sha256 in live)


def _served(store: ReleaseStore, model: str) -> tuple[Release | None, Pointed]:
    """What is in service; None if that is a rollout alone."""
    known = models(store.workspace)
    found, pointed = store.current(model) if model in known else (None, Pointed())
    if found is None and pointed.underway is None:
        served = ", ".join(name for name in known if store.current(name)[0])
        raise BadInput(f"model: '{model}' is not in service", f"in service: {served or 'nothing'}")
    return found, pointed


def _serve_again(store: ReleaseStore, was: Release, before: Pointed, release: Release, by: str, reason: str,
                 not_asked: str, recording: Recording | None) -> Served:
    workspace = store.workspace
    folder = folder_of(workspace, release)
    store.require_whole(release)
    unknown = f"; what MLflow knows of its descent was not looked at: {not_asked}" if not_asked else ""
    served = Served(model=was.model, was=was, now=release,
                    text=f"{was.model}: generation {release.generation} is served again{unknown}")
    _sign(workspace, Statement.over(
        {file.relative_to(workspace.root).as_posix(): sha256_file(file)
         for file in (*(folder / file.name for file in (release.weights, *release.beside)), folder / RELEASE_FILE)},
        RollbackPredicate(model=was.model, from_sha256=was.weights.sha256, to_sha256=release.weights.sha256,
                          to_generation=release.generation, by=by, reason=reason, at=_now())), served, recording)
    store.serve(was.model, release, before)
    return served


def _withdraw(store: ReleaseStore, was: Release, before: Pointed, blocking: Mark | None, by: str, reason: str,
              recording: Recording | None) -> Served:
    request = blocking.request_id if blocking else None
    why = f": what came before is tainted by request {request}" if request else ""
    served = Served(model=was.model, was=was, now=None, request_id=request,
                    text=f"{was.model}: withdrawn, nothing is served{why}")
    _sign(store.workspace, Statement.over({}, WithdrawalPredicate(
        model=was.model, from_sha256=was.weights.sha256, request_id=request, by=by, reason=reason,
        at=_now())), served, recording)
    store.serve(was.model, None, before)
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
