"""Walls: samples drawn, or images read, for one person to look at and mark. Never imports torch. See docs/console.md.

The console asks for one, a worker of the queue makes it, the console shows it to whoever asked. Each is a folder called
by the digest of its order, under ``walls/`` beside the queue of requests: in the workspace, or on S3 as that one::

    <sha256>/order.json       what is to be drawn: never changed
    <sha256>/ticket.json      how far it is, claimed and tried again as a filed request
    <sha256>/about.sealed     how many there are, and what the oracle says of each
    <sha256>/sheet-0.sealed   thumbnails, a few hundred in one PNG
    <sha256>/samples.sealed   the samples themselves, of a generator
    <sha256>/marks.sealed     what its owner has marked so far

All but order and ticket is encrypted under a key of the wall's own, which is destroyed with it: when its owner says so,
or when nobody has touched it for `KEPT_DAYS`.
"""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from expunge.contracts import (
    ClassifierSource,
    ClassName,
    DataSource,
    Digest,
    Frozen,
    ParentSource,
    Person,
    Record,
    parse_record,
)
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, DoesNotVerify
from expunge.samples.encryption import RequestKey
from expunge.settings import Workspace
from expunge.stores.queue import TICKET_FILE, Queue, Seen, Ticket, now, numbered, store_of

FOLDER = "walls"
ORDER_FILE, ABOUT_FILE, SAMPLES_FILE, MARKS_FILE = "order.json", "about.sealed", "samples.sealed", "marks.sealed"
KEPT_DAYS = 7  # without a mark
MOST = 20_000  # on one wall: more than anybody looks at
PER_SHEET = 250  # thumbnails in one picture
OWN_MOST = 20  # walls of one person at a time
_OWNER = "_walls"  # of keys: no request can have this id
_DAY = 86_400.0

Mark = Literal["u", "w", "."]  # unwanted, wanted, not said
Marks = Annotated[str, Field(max_length=MOST, pattern=r"^[uw.]*$")]  # one for each of the wall, in order


class WallOrder(Record):
    """What somebody wants to look at: what a generator draws, or the labelled images of a data set."""

    SCHEMA: ClassVar[str] = "expunge/wall-order/v1"

    by: Person
    of: Literal["samples", "images"]
    checkpoint: ParentSource  # that is to forget; of images nothing is asked of it
    oracle: ClassifierSource | None = None  # that says what each sample shows
    training: DataSource | None = None  # the images
    count: Annotated[int, Field(ge=100, le=MOST)] = 1_000  # samples
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # of the latents, and of the request that comes of it
    pictures: bool = True  # of images: whether they are shown, or only counted by class
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] = Field(default_factory=lambda: secrets.token_hex(16))

    @model_validator(mode="after")
    def _has_what_it_draws_from(self) -> Self:
        if self.of == "samples" and (self.oracle is None or self.training is not None or not self.pictures):
            raise ValueError("of samples needs an oracle, no training images, and pictures")
        if self.of == "images" and (self.training is None or self.oracle is not None):
            raise ValueError("of images needs training, and no oracle")
        return self


class About(Frozen):
    """What a wall holds."""

    count: Annotated[int, Field(ge=0)]  # that can be marked
    total: int  # of a data set that is larger than a wall: all of its images
    image_shape: tuple[int, int, int]  # of what is drawn
    thumbnail: tuple[int, int]  # height and width of one on a sheet
    columns: int  # of a sheet
    sheets: int
    known: int  # classes that the oracle, or the data set, has
    names: tuple[ClassName, ...] = ()  # of these
    counts: dict[str, int]  # of all, by the class's number: as labelled, or as the oracle's first choice
    shown: tuple[int, ...]  # classes whose probabilities are held, the most frequent first
    likeliest: tuple[int, ...]  # for each that can be marked: its class
    probabilities: str = ""  # base64 of uint8 [count, shown]: 255 is certain; none of images
    files: tuple[str, ...] = ()  # what each image's file is called, where it has one
    checkpoint_sha256: Digest | None = None  # of what was drawn from
    oracle_sha256: Digest | None = None


@dataclass(frozen=True)
class Wall:
    """One wall as it was at one moment."""

    sha256: str
    order: WallOrder
    seen: Seen

    @property
    def state(self) -> Literal["waits", "is drawn", "ready", "failed"]:
        """How far it is."""
        stage = self.seen.ticket.stage
        return {"closed": "ready", "failed": "failed", "claimed": "is drawn"}.get(stage, "waits")  # type: ignore[return-value]


class Walls:
    """All walls of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._store = store_of(workspace, FOLDER)
        self._store.require_ready(workspace)
        self.queue = Queue(self._store)

    def ask(self, order: WallOrder) -> Wall:
        """Asks for a wall. BadInput if its owner has too many."""
        if len(self.of(order.by)) >= OWN_MOST:
            raise BadInput(f"wall: {order.by} has {OWN_MOST} already", "delete one")
        data = order.to_bytes()
        sha256 = sha256_bytes(data)
        RequestKey.load_or_create(self.workspace, f"{_OWNER}/{sha256}")
        self._store.keep(f"{sha256}/{ORDER_FILE}", data)
        ticket = numbered(Ticket(request_sha256=sha256, request_id=f"wall-{sha256[:12]}", model="wall",
                                 filed_by=order.by, filed_at=now()))
        tag = self._store.write(f"{sha256}/{TICKET_FILE}", ticket.to_bytes(), None)
        return Wall(sha256, order, Seen(ticket, tag, 0.0))

    def order(self, ticket: Ticket) -> WallOrder:
        """What was asked for. DoesNotVerify if it is not what its digest says."""
        found = self._store.read(f"{ticket.request_sha256}/{ORDER_FILE}")
        if found is None or sha256_bytes(found[0]) != ticket.request_sha256:
            raise DoesNotVerify(f"{ticket.request_id}: its order is not what was asked for", "ask for it again")
        return parse_record(WallOrder, json.loads(found[0]), ticket.request_id)

    def of(self, person: str) -> list[Wall]:
        """Those of one person, the latest first."""
        return [Wall(seen.ticket.request_sha256, self.order(seen.ticket), seen)
                for seen in reversed(self.queue.all()) if seen.ticket.filed_by == person]

    def find(self, sha256: str, person: str) -> Wall:
        """The wall of a person; BadInput if there is none, or it is somebody else's: nobody learns which."""
        seen = self.queue.seen(sha256)
        if seen is None or seen.ticket.filed_by != person:
            raise BadInput(f"wall {sha256[:12]}: is not known", "ask for another: they are kept for "
                                                                f"{KEPT_DAYS} days")
        return Wall(sha256, self.order(seen.ticket), seen)

    def keep(self, sha256: str, name: str, data: bytes) -> None:
        """Encrypts and keeps a part of a wall, in the place of what was there."""
        sealed = RequestKey.load(self.workspace, f"{_OWNER}/{sha256}").seal(data)
        there = self._store.read(f"{sha256}/{name}")
        self._store.write(f"{sha256}/{name}", sealed, there[1] if there else None)

    def read(self, sha256: str, name: str) -> bytes | None:
        """A part of a wall, decrypted; None if there is none (yet)."""
        found = self._store.read(f"{sha256}/{name}")
        if found is None:
            return None
        return RequestKey.load(self.workspace, f"{_OWNER}/{sha256}").open(found[0], name)

    def about(self, wall: Wall) -> About:
        """What a wall holds. BadInput if it is not there yet."""
        found = self.read(wall.sha256, ABOUT_FILE) if wall.state == "ready" else None
        if found is None:
            raise BadInput(f"wall {wall.sha256[:12]}: is not drawn yet", "'expunge queue work' draws it")
        return About.model_validate_json(found)

    def marks(self, wall: Wall, count: int) -> str:
        """What its owner has marked so far, one mark for each of `count`."""
        found = self.read(wall.sha256, MARKS_FILE)
        return found.decode() if found else "." * count

    def mark(self, wall: Wall, marks: str) -> None:
        """Keeps what its owner has marked. BadInput if these are not as many as the wall has."""
        count = self.about(wall).count
        if len(marks) != count:
            raise BadInput(f"marks: {len(marks)}, and the wall has {count}", "send one for each")
        self.keep(wall.sha256, MARKS_FILE, marks.encode())

    def delete(self, sha256: str) -> None:
        """Destroys a wall's key, then removes what lies there."""
        RequestKey.file(self.workspace, f"{_OWNER}/{sha256}").unlink(missing_ok=True)
        self._store.remove_all(sha256)

    def expire(self) -> int:
        """Deletes what nobody has touched for `KEPT_DAYS`; returns how many these were."""
        old = [seen.ticket.request_sha256 for seen in self._every() if self._untouched(seen) > KEPT_DAYS * _DAY]
        for sha256 in old:
            self.delete(sha256)
        return len(old)

    def _every(self) -> Iterator[Seen]:
        yield from (seen for seen in self.queue.all() if seen.ticket.stage != "claimed" or seen.may_be_taken)

    def _untouched(self, seen: Seen) -> float:
        marks = self._store.read(f"{seen.ticket.request_sha256}/{MARKS_FILE}")
        return min(seen.age, marks[2]) if marks else seen.age


def sheet_file(number: int) -> str:
    """What a sheet of thumbnails is called."""
    return f"sheet-{number}.sealed"
