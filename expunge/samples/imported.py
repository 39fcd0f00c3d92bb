"""Imported sets: labelled images that live in the workspace, encrypted from the first byte and versioned by DVC.

A set is one folder `imports/<name>/`: its record, written last, the keyed digests of its images, what their files are
called, and the list of what was left out. Each set is encrypted under a key of its own; the digests, by which an image
is found in another set, are taken under one key for all sets.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from expunge.contracts import (
    RECORD_FILE,
    ClassName,
    Digest,
    Identifier,
    Record,
    Shard,
    StoredFile,
    read_record,
    shorten,
    write_record,
)
from expunge.digests import sha256_file, sweep_halves, write_atomically
from expunge.errors import BadInput, DoesNotVerify
from expunge.events import Event
from expunge.room import exclusive
from expunge.samples.encryption import RequestKey
from expunge.samples.formats import Skipped
from expunge.samples.images import Channels, LabelledImages, read_images
from expunge.samples.sample_sets import keyed_root, read_table, write_tables
from expunge.samples.table import SampleTable
from expunge.settings import Workspace

SCHEME = "samples://"
SKIPPED_FILE = "skipped.jsonl"
_DIGESTS_FILE, _NAMES_FILE = "digests", "names.sealed"
_OWNER = "_imports"  # of keys and shards: no request can have this id
_DIGEST_SIZE = 32
_ROWS_AT_ONCE = 1024  # whose pixels are in memory a second time


class ImportedSet(Record):
    """A set of labelled images that somebody brought, by the keyed root of its items; only ciphertext lies anywhere."""

    SCHEMA: ClassVar[str] = "expunge/imported-set/v1"

    name: Identifier
    set_id: Digest  # HMAC root of the items under the set's key
    count: Annotated[int, Field(ge=1)]
    classes: tuple[ClassName, ...]  # names of its labels, where they have any
    class_counts: dict[str, int]  # by the label's number
    image_shape: tuple[int, int, int]  # channels, height, width
    remote: str
    shards: tuple[Shard, ...]
    digests: StoredFile  # keyed digests of the images' pixels, 32 bytes each, in order
    names: StoredFile | None = None  # what their files are called, encrypted; absent where none has a file
    skipped: Annotated[int, Field(ge=0)]  # images that could not be used
    duplicates: Annotated[int, Field(ge=0)]  # images that were in the set already
    imported_at: str

    @property
    def counts_by_name(self) -> dict[str, int]:
        """How many images each class has, by its name, or by its number where it has none."""
        if not self.classes:
            return self.class_counts
        return {name: self.class_counts.get(str(label), 0) for label, name in enumerate(self.classes)}


@dataclass(frozen=True)
class Imported:
    """How an import ended."""

    record: ImportedSet
    folder: Path
    left_out: tuple[Skipped, ...]  # what could not be used, and what was there twice
    already: bool  # whether the same set had been imported before


def import_images(workspace: Workspace, name: str, path: Path, *, size: int | None = None,
                  channels: Channels | None = None, bits: int | None = None,
                  watch: Callable[[Event], None] = lambda event: None) -> Imported:
    """Brings the labelled images at `path` into the workspace as the set `name`.

    An interrupted import leaves no set; the same call does it again. A set that is there already with the same
    content is left as it is.

    Raises:
        BadInput: the name cannot be one or is taken by other content, nothing can be read, or an image is in
            another set.
        WorkspaceBusy: another import is under way.
    """
    _check(name)
    with importing_alone(workspace):
        sweep_halves([_folder(workspace, name)])  # what an import of this name left that was killed
        with _Stage(watch, "read images") as stage:
            found = read_images(path, size=size, channels=channels, bits=bits, strict=False, watch=stage.progress)
        with _Stage(watch, "compare"):
            key = RequestKey.load_or_create(workspace, _OWNER)
            found, digests, twice = _without_duplicates(key, found)
            if record := _taken(workspace, name, found):
                return Imported(record, _folder(workspace, name), (*found.skipped, *twice), already=True)
            _refuse_known(workspace, name, digests)
        with _Stage(watch, "encrypt") as stage:
            record = _store(workspace, name, found, digests, twice, stage)
    return Imported(record, _folder(workspace, name), (*found.skipped, *twice), already=False)


def open_imported(workspace: Workspace, name: str) -> LabelledImages:
    """Fetches, decrypts and checks an imported set.

    Raises:
        BadInput: there is no such set, or its key is gone.
        DoesNotVerify: what lies there is not what was imported.
    """
    record = _known(workspace, name)
    key = _key_of(workspace, name)
    table = read_table(workspace, key, record.remote, record.shards)
    if _identity(key, table, record.classes) != record.set_id:
        raise DoesNotVerify(f"{SCHEME}{name} is not the set that was imported", "import it anew under another name")
    return LabelledImages(table, record.classes, ())


def names_in(workspace: Workspace, name: str) -> tuple[str, ...]:
    """What the files of an imported set's images are called, in order; none where they had no files.

    Raises:
        BadInput: there is no such set, or its key is gone.
        DoesNotVerify: what lies there is not what was imported.
    """
    record = _known(workspace, name)
    if record.names is None:
        return ()
    file = _folder(workspace, name) / record.names.name
    if not file.is_file() or sha256_file(file) != record.names.sha256:
        raise DoesNotVerify(f"{SCHEME}{name}: its names are not those of its record", f"restore {file}")
    return tuple(json.loads(_key_of(workspace, name).open(file.read_bytes(), file.name)))


def importing_alone(workspace: Workspace) -> AbstractContextManager[None]:
    """One import at a time, and none while somebody removes what no record needs."""
    return exclusive(workspace.root / "imports.lock", f"samples: an import works in {workspace.root}",
                     "wait for it, or stop it")


def imported_sets(workspace: Workspace) -> list[ImportedSet]:
    """The records of all imported sets, by name."""
    return [_read(workspace, file.parent.name) for file in sorted(workspace.imports.glob(f"*/{RECORD_FILE}"))]


class _Stage:
    """One stretch of an import, as events that a display can show."""

    def __init__(self, watch: Callable[[Event], None], title: str) -> None:
        self._watch, self._title, self._began, self._said = watch, title, monotonic(), 0.0

    def __enter__(self) -> "_Stage":
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is None:
            self._watch(Event(room=self._title, kind="finished", seconds=monotonic() - self._began))

    def progress(self, done: int, total: int) -> None:
        """Says how far it is, at most five times a second."""
        if done == total or monotonic() - self._said > 0.2:
            self._said = monotonic()
            self._watch(Event(room=self._title, kind="progress", step=done, total=total))


def _check(name: str) -> None:
    try:
        TypeAdapter(Identifier).validate_python(name)
    except ValidationError:
        raise BadInput(f"{SCHEME}{shorten(name, 80)}: cannot be the name of a set",
                       "use letters, digits, dot, dash and underscore, at most 63, a letter or digit first") from None


def _folder(workspace: Workspace, name: str) -> Path:
    return workspace.imports / name


def _read(workspace: Workspace, name: str) -> ImportedSet:
    return read_record(ImportedSet, _folder(workspace, name))


def _known(workspace: Workspace, name: str) -> ImportedSet:
    """The record of the set of that name. BadInput if there is none."""
    _check(name)
    if not (_folder(workspace, name) / RECORD_FILE).is_file():
        known = ", ".join(record.name for record in imported_sets(workspace))
        raise BadInput(f"{SCHEME}{name}: no set of that name was imported",
                       f"use one of {shorten(known)}" if known else "import it: 'expunge samples import NAME PATH'")
    return _read(workspace, name)


def _key_of(workspace: Workspace, name: str) -> RequestKey:
    key_id = f"{_OWNER}/{name}"
    if not RequestKey.file(workspace, key_id).exists():
        raise BadInput(f"{SCHEME}{name}: its key is not at {RequestKey.file(workspace, key_id)}",
                       "restore it, or import the images under another name")
    return RequestKey.load(workspace, key_id)


def _identity(key: RequestKey, table: SampleTable, classes: Sequence[str]) -> str:
    """The keyed root of the items and of what their labels are called."""
    return key.digest(bytes.fromhex(keyed_root(key, table)), json.dumps(classes).encode())


def _digests(key: RequestKey, table: SampleTable) -> Iterator[bytes]:
    """The keyed digest of each image's shape and pixels, whatever its label."""
    shape = repr(table.images.shape[1:]).encode()
    for first in range(0, len(table), _ROWS_AT_ONCE):
        for pixels in table[first : first + _ROWS_AT_ONCE].pixels:
            yield bytes.fromhex(key.digest(shape, pixels.tobytes()))


def _without_duplicates(key: RequestKey, found: LabelledImages) -> tuple[LabelledImages, list[bytes], list[Skipped]]:
    """The set with each image once, the digests of what is left, and what was left out."""
    first: dict[bytes, int] = {}
    twice: list[Skipped] = []
    for row, digest in enumerate(_digests(key, found.table)):
        if (earlier := first.setdefault(digest, row)) != row:
            same = found.table.labels[row] == found.table.labels[earlier]
            twice.append(Skipped(found.places[row], f"is the same image as {found.places[earlier]}"
                                                    + ("" if same else ", whose label is another")))
    rows = np.fromiter(first.values(), np.int64)
    places, files = (tuple(some[row] for row in rows) for some in (found.places, found.files))
    table = found.table[rows] if twice else found.table
    return LabelledImages(table, found.classes, found.skipped, places, files), list(first), twice


def _taken(workspace: Workspace, name: str, found: LabelledImages) -> ImportedSet | None:
    """The record of a set of this name and the same content; BadInput if the content is another."""
    if not (_folder(workspace, name) / RECORD_FILE).is_file():
        return None
    record = _read(workspace, name)
    if _identity(_key_of(workspace, name), found.table, found.classes) != record.set_id:
        raise BadInput(f"{SCHEME}{name}: another set of {record.count:,} images has this name",
                       "choose another name: an imported set does not change")
    return record


def _refuse_known(workspace: Workspace, name: str, digests: Sequence[bytes]) -> None:
    """BadInput if an image is in another set already."""
    owners: dict[bytes, str] = {}
    for other in imported_sets(workspace):
        file = _folder(workspace, other.name) / other.digests.name
        if not file.is_file() or sha256_file(file) != other.digests.sha256:
            raise DoesNotVerify(f"{SCHEME}{other.name}: its digests are not those of its record",
                                f"restore {file}")
        data = file.read_bytes()
        owners |= {data[at : at + _DIGEST_SIZE]: other.name for at in range(0, len(data), _DIGEST_SIZE)}
    shared = Counter(owners[digest] for digest in digests if digest in owners)
    if shared:
        where = ", ".join(f"{count:,} in '{other}'" for other, count in shared.most_common(3))
        raise BadInput(
            f"{SCHEME}{name}: {shared.total():,} of {len(digests):,} images are in other imported sets already: "
            f"{where}{', …' if len(shared) > 3 else ''}",
            f"take them out of one of the two, or use {SCHEME}{shared.most_common(1)[0][0]}")


def _store(workspace: Workspace, name: str, found: LabelledImages, digests: Sequence[bytes],
           twice: Sequence[Skipped], stage: _Stage) -> ImportedSet:
    """Writes the ciphertext, then what lies beside the record, then the record: without it there is no set."""
    key = RequestKey.load_or_create(workspace, f"{_OWNER}/{name}")
    stem = f"{_OWNER}/{name}"
    shards = write_tables(workspace, key, {stem: found.table}, f"{name}: {len(found.table)} samples imported",
                          stage.progress)[stem]
    folder = _folder(workspace, name)
    write_atomically(folder / _DIGESTS_FILE, b"".join(digests))
    if any(found.files):
        write_atomically(folder / _NAMES_FILE, key.seal(json.dumps(found.files).encode()), mode=0o600)
    left_out = (*found.skipped, *twice)
    write_atomically(folder / SKIPPED_FILE, "".join(
        json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in left_out).encode(), mode=0o600)
    record = ImportedSet(
        name=name, set_id=_identity(key, found.table, found.classes), count=len(found.table), classes=found.classes,
        class_counts=found.table.class_counts(), image_shape=found.table.images.shape[1:],
        remote=workspace.sample_remote.name, shards=shards, digests=StoredFile.of(folder / _DIGESTS_FILE),
        names=StoredFile.of(folder / _NAMES_FILE) if any(found.files) else None,
        skipped=len(found.skipped), duplicates=len(twice), imported_at=datetime.now(UTC).isoformat(timespec="seconds"))
    write_record(folder, record)
    return record
