"""Where files lie: folders of this machine, prefixes in S3, and what MLflow keeps elsewhere."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from expunge.contracts import shorten
from expunge.custody.contents import Content
from expunge.errors import BadInput, ExpungeError
from expunge.stores import s3
from expunge.stores.addresses import scheme, shown
from expunge.stores.tracking import Tracking

_S3 = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,254})(?:/(?P<prefix>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Lying:
    """A file in a place: its content, or why there is none to look into."""

    path: str  # relative to its place
    size: int
    content: Content | None
    why: str = ""


@dataclass(frozen=True)
class Folder:
    """A folder with all below it, or a single file. Links are not followed: where they lead is said instead."""

    name: str
    root: Path
    skip: tuple[Path, ...] = ()

    def files(self) -> Iterator[Lying]:
        """Every file, in the order of their names. What cannot be listed is named like what cannot be read."""
        if not self.root.is_dir():
            yield self._lying(self.root)
            return
        blocked: list[OSError] = []
        for here, folders, names in os.walk(self.root, onerror=blocked.append):
            linked = [name for name in folders if Path(here, name).is_symlink()]
            folders[:] = sorted(name for name in folders if name not in linked and Path(here, name) not in self.skip)
            for name in sorted([*names, *linked]):
                if Path(here, name) not in self.skip:
                    yield self._lying(Path(here, name))
        for error in blocked:
            yield Lying(os.path.relpath(error.filename, self.root), 0, None, f"cannot be listed ({error.strerror})")

    def _lying(self, file: Path) -> Lying:
        path = file.name if file == self.root else file.relative_to(self.root).as_posix()
        try:
            found = file.lstat()
        except OSError as error:
            return Lying(path, 0, None, f"cannot be read ({error.strerror})")
        if stat.S_ISLNK(found.st_mode):
            inside = Path(os.path.realpath(file)).is_relative_to(os.path.realpath(self.root))
            return Lying(path, 0, None, "" if inside else "is a link that leads out of the place")
        if not stat.S_ISREG(found.st_mode):
            return Lying(path, 0, None)  # a pipe or a socket holds nothing
        return Lying(path, found.st_size, Content("", lambda: file.open("rb"), found.st_size, file))


@dataclass(frozen=True)
class Prefix:
    """All objects of a bucket whose keys begin alike. Each is fetched, looked into and let go."""

    name: str
    bucket: str
    prefix: str

    def files(self) -> Iterator[Lying]:
        """Every object that is there now; earlier versions of a bucket that keeps them are not."""
        for key, size in s3.listing(self.bucket, self.prefix):
            if size == 0:
                continue
            with s3.fetched(self.bucket, key) as file:
                yield Lying(key, size, Content("", lambda file=file: file.open("rb"), size, file))  # type: ignore[misc]


@dataclass(frozen=True)
class Artifacts:
    """All that MLflow keeps below an address. Each file is fetched by its own client, looked into and let go."""

    name: str
    tracking: Tracking
    store: str

    def files(self) -> Iterator[Lying]:
        """Every file. What cannot be listed or fetched is named like what cannot be read."""
        try:
            for path, size in self.tracking.listing(self.store):
                try:
                    with self.tracking.fetched(self.store, path) as file:
                        size = file.stat().st_size
                        yield Lying(path, size, Content("", lambda file=file: file.open("rb"), size, file))  # type: ignore[misc]
                except ExpungeError as error:
                    yield Lying(path, size or 0, None, f"cannot be fetched ({error.problem})")
        except ExpungeError as error:
            yield Lying(".", 0, None, f"cannot be listed ({error.problem})")


Place = Folder | Prefix | Artifacts


def kept_by(tracking: Tracking, store: str) -> Place | None:
    """What MLflow keeps below an address; None if nothing was ever written there.

    Raises:
        ExpungeError: it cannot be reached from here.
    """
    name, folder = f"MLflow: {shown(store)}", tracking.folder_of(store)
    if folder is None:
        next(tracking.listing(store), None)
        return Artifacts(name, tracking, store)
    if not folder.exists() and scheme(tracking.uri) in ("http", "https"):
        raise ExpungeError("a folder of the server's own, if it is there", "look on that machine")
    return Folder(name, folder) if folder.exists() else None


def place_of(given: str) -> Place:
    """A place that somebody names: a folder, a file, or ``s3://bucket/prefix``. BadInput if there is nothing."""
    found = _S3.fullmatch(given)
    if found is not None:
        return Prefix(shown(given), found["bucket"], found["prefix"] or "")
    path = Path(given).absolute()
    if not path.exists():
        raise BadInput(f"--also: {shorten(given)}: no such file or folder", "check the path")
    return Folder(str(path), path)
