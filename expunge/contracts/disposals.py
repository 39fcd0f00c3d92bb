"""What is left of a disposal: a receipt that anybody may read, and a listing of places that stays in the workspace."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from expunge.contracts.artifacts import SampleRole
from expunge.contracts.records import Digest, Frozen, Identifier, Person, Record
from expunge.errors import BadInput

Count = Annotated[int, Field(ge=0)]
Fate = Literal["quarantined", "destroyed", "kept"]

# How something was known: see `expunge.custody.wanted`.
Kind = Literal["copies", "parts", "looks like", "adapted weights", "sealed", "unread"]


class Wish(Record):
    """What somebody who disposes says of it; what is None nobody has said yet."""

    SCHEMA: ClassVar[str] = "expunge/disposal-wish/v1"

    by: Person | None = None
    reason: str | None = None
    parent: Fate | None = None
    parent_reason: str | None = None
    also: tuple[str, ...] = ()  # further places to look in: folders, files, s3://bucket/prefix
    leave_found: bool = False  # go on although copies remain that a person could remove
    key_lost: bool = False  # the request's key is gone: what it sealed goes by its record, and nothing is looked for
    began_at: str | None = None

    def after(self, earlier: Self) -> Self:
        """This wish, on top of what was said when it began. BadInput if the two do not agree."""
        for name in ("by", "reason", "parent", "parent_reason"):
            said, says = getattr(earlier, name), getattr(self, name)
            if None not in (said, says) and said != says:
                raise BadInput(f"{name.replace('_', '-')}: this disposal began with '{said}'",
                               "say the same, or nothing")
        together = {"also", "leave_found", "key_lost"}
        said_first = {name: value for name, value in earlier.model_dump(exclude=together).items() if value is not None}
        return self.model_copy(update={
            **said_first, "also": tuple(dict.fromkeys((*earlier.also, *self.also))),
            "leave_found": self.leave_found or earlier.leave_found, "key_lost": self.key_lost or earlier.key_lost})


class DisposedSet(Frozen):
    """One sample set of the request. Its id says nothing to anybody once the key is gone."""

    role: SampleRole
    set_id: Digest
    request_sha256: Digest
    count: Annotated[int, Field(ge=1)]
    looked_for: bool  # whether its images, or those of them that were to be forgotten, were searched for
    missing: str = ""  # why it could not be opened any more


class SearcherUsed(Frozen):
    """A searcher that took part, and what it can find."""

    name: str
    version: int
    finds: str


class PlaceSearched(Frozen):
    """How much was looked at in a place, the last time."""

    place: str
    files: Count
    bytes: Count
    pictures: Count
    unknown: Count  # files of no kind that a searcher knows
    unread: Count  # files that hold something that could not be read


class FoundThere(Frozen):
    """What was found in a place, and what became of it. No file is named: that is for the listing."""

    place: str
    kind: Kind
    files: Count
    images: Count  # or tensors
    removed: bool
    why: str  # it was removed, or left


class ParentFate(Frozen):
    """What became of the model that had learned it, by the word of whoever disposed."""

    sha256: Digest
    fate: Fate
    reason: str
    copies_left: Count  # in this workspace, releases included


class Receipt(Record):
    """What was destroyed, how it was looked for, and what remains."""

    SCHEMA: ClassVar[str] = "expunge/disposal-receipt/v1"

    request_id: Identifier
    request_sha256: tuple[Digest, ...]  # of every pinned form of it, oldest first
    by: Person
    reason: str
    began_at: str
    checked_at: str  # after the removal; the key was destroyed next
    sets: tuple[DisposedSet, ...]
    images: Count  # different ones that were looked for
    tensors: Count  # of adapted models, that were looked for
    searchers: tuple[SearcherUsed, ...]
    looks_like: float  # cosine from which on a picture is said to look like one
    places: tuple[PlaceSearched, ...]
    not_searched: tuple[str, ...]
    found: tuple[FoundThere, ...]
    destroyed: dict[str, Count]  # files, by what they were; their digests are in the statements of `statements`
    statements: tuple[Digest, ...]  # of the envelopes that name the files that were destroyed
    listing_sha256: Digest  # of the list of files that were found and left, which stays in the workspace
    key: str  # what was done to the request's key
    parent: ParentFate
    redrawn: tuple[SampleRole, ...]  # sets of the parent's own samples: whoever has it and the seed can draw them again


class Listed(Frozen):
    """One file in which something was found, or which could not be read."""

    place: str
    path: str
    copies: Count
    parts: Count
    looks_like: Count
    closest: float
    weights: Count
    sealed: bool
    pictures: Count
    owners: tuple[str, ...]
    unread: tuple[str, ...]
    removed: bool
    why: str
    blocks: bool  # whether it has to be dealt with, or accepted, before the key is destroyed


class Listing(Record):
    """Every file of interest by its name. Names may say who was forgotten, so this is not part of the evidence."""

    SCHEMA: ClassVar[str] = "expunge/disposal-listing/v1"

    request_id: Identifier
    nonce: str  # so that its digest, which the ledger holds, says nothing of what is in it
    files: tuple[Listed, ...]
