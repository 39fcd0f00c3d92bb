"""Marked sets: drawn samples that a person has looked at and said of what they show, to stand in a request's `labels`.

A set is one folder ``marked/<request>/<name>/`` with its record. The samples are encrypted under the key of the request
that they are for, so that whoever disposes of the request disposes of them, and versioned by DVC. Each keeps the latent
that it was drawn from: by that, and not by its place in a draw, a label finds its sample again.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError

from expunge.contracts import (
    RECORD_FILE,
    ClassName,
    Digest,
    Identifier,
    Person,
    Record,
    Shard,
    read_record,
    shorten,
    write_record,
)
from expunge.errors import BadInput, DoesNotVerify
from expunge.samples.encryption import RequestKey
from expunge.samples.labels import UNKNOWN
from expunge.samples.sample_sets import keyed_root, read_table, write_tables
from expunge.samples.table import SampleTable
from expunge.settings import Workspace

SCHEME = "marked"
FOLDER = "marked"  # of the workspace
WALL = "wall"  # in what a set was made from: where it was marked
_AS_DRAWN = 2.0  # levels of 255 by which a sample may differ on the average from the one that was looked at


class MarkedSet(Record):
    """What a person said of a generator's samples; only ciphertext lies anywhere."""

    SCHEMA: ClassVar[str] = "expunge/marked-set/v1"

    request_id: Identifier
    set_id: Digest  # HMAC root of the items under the request's key
    count: Annotated[int, Field(ge=1)]
    by_person: Annotated[int, Field(ge=0)]  # of them, how many a person has marked; the oracle said the others
    class_counts: dict[str, int]  # by the oracle's number
    classes: tuple[ClassName, ...]
    image_shape: tuple[int, int, int]
    marked_by: Person
    made_from: dict[str, Digest]  # checkpoint and oracle, whose samples and whose numbers these are, and the wall
    remote: str
    shards: tuple[Shard, ...]
    marked_at: str


def keep_marked(workspace: Workspace, request_id: str, table: SampleTable, *, by: str, by_person: int,
                made_from: Mapping[str, str], classes: tuple[str, ...] = ()) -> str:
    """Encrypts, versions and records samples with a person's labels; returns the URI for a request's `labels`.

    Raises:
        ExpungeError: DVC could not store them.
    """
    assert table.latents is not None
    key = RequestKey.load_or_create(workspace, request_id)
    set_id = keyed_root(key, table)
    uri, folder = f"{SCHEME}://{request_id}/{set_id[:16]}", _folder(workspace, request_id, set_id[:16])
    if (folder / RECORD_FILE).is_file():  # the same marks again: another ciphertext would make it another request
        return uri
    stem = f"{request_id}/marked-{set_id[:16]}"
    shards = write_tables(workspace, key, {stem: table}, f"{request_id}: {len(table)} samples marked")[stem]
    record = MarkedSet(
        request_id=request_id, set_id=set_id, count=len(table), by_person=by_person,
        class_counts=table.class_counts(), classes=classes, image_shape=table.images.shape[1:], marked_by=by,
        made_from=dict(made_from), remote=workspace.sample_remote.name, shards=shards,
        marked_at=datetime.now(UTC).isoformat(timespec="seconds"))
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder, record)
    return uri


def marked_file(workspace: Workspace, uri: str) -> Path:
    """The record of a marked set: its digest stands for the set, whose shards and root it names.

    Raises:
        BadInput: there is no such set.
    """
    request_id, _, name = uri.partition("://")[2].partition("/")
    try:
        TypeAdapter(Identifier).validate_python(request_id)
        TypeAdapter(Identifier).validate_python(name)
    except ValidationError:
        raise BadInput(f"{shorten(uri)}: names no marked set", f"write {SCHEME}://request/set") from None
    file = _folder(workspace, request_id, name) / RECORD_FILE
    if not file.is_file():
        raise BadInput(f"{shorten(uri)}: no such set was marked here", "mark samples in the console")
    return file


def labels_of(workspace: Workspace, file: Path, drawn: SampleTable, count: int) -> NDArray[np.int64]:
    """The labels [N] of drawn samples by a marked set's record; `UNKNOWN` for those that are not in it.

    Args:
        workspace: Where the set lies.
        file: The set's record.
        drawn: The samples of this request's draw, with their latents.
        count: How many classes the oracle knows.

    Raises:
        BadInput: a sample of the set is not of this draw, or of a class that the oracle does not know.
        DoesNotVerify: the set is not what was recorded.
    """
    record = read_record(MarkedSet, file)
    key = RequestKey.load(workspace, record.request_id)
    table = read_table(workspace, key, record.remote, record.shards)
    if keyed_root(key, table) != record.set_id:
        raise DoesNotVerify(f"the marked set of request '{record.request_id}' is not the one recorded",
                            "mark the samples again")
    assert drawn.latents is not None
    assert table.latents is not None
    places = {latent.tobytes(): row for row, latent in enumerate(_flat(drawn.latents))}
    rows = [places.get(latent.tobytes()) for latent in _flat(table.latents)]
    if None in rows or table.images.shape[1:] != drawn.images.shape[1:]:
        raise BadInput("labels: a marked sample is not among those that were drawn",
                       "leave seed and sampling.curate as they were when the samples were marked")
    there = np.array(rows, np.int64)
    apart = np.abs(drawn.images[there] - table.images).mean(axis=(1, 2, 3)) * 127.5
    if (apart > _AS_DRAWN).any():
        raise BadInput(f"labels: {int((apart > _AS_DRAWN).sum())} of {len(there)} samples look otherwise than those "
                       "that were marked", "mark what this checkpoint draws")
    if table.labels.min() < 0 or table.labels.max() >= count:
        raise BadInput(f"labels: a sample is of class {int(table.labels.max())}, the oracle knows 0 to {count - 1}",
                       "mark the samples by this oracle")
    labels = np.full(len(drawn), UNKNOWN)
    labels[there] = table.labels
    return labels


def marked_sets(workspace: Workspace, request_id: str | None = None) -> Iterator[tuple[Path, MarkedSet]]:
    """The records of marked sets, of one request or of all, each with its file."""
    for file in sorted((workspace.root / FOLDER).glob(f"{request_id or '*'}/*/{RECORD_FILE}")):
        yield file, read_record(MarkedSet, file)


def _flat(latents: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(latents.reshape(len(latents), -1), np.float32)


def _folder(workspace: Workspace, request_id: str, name: str) -> Path:
    return workspace.root / FOLDER / request_id / name
