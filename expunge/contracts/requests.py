"""The request: what is to be forgotten, by which method, and how it is to be judged."""

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from expunge.contracts.records import Digest, Frozen, Identifier, Person, Reason, Record, shorten
from expunge.contracts.sources import ClassifierSource, ClassName, DataSource, DiscriminatorSource, Family, ParentSource
from expunge.errors import BadInput

Classes = Annotated[tuple[Annotated[int, Field(ge=0)] | ClassName, ...], Field(max_length=1000)]


MOST_IMAGES = 100_000  # single ones of a request
Rows = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=MOST_IMAGES)]


class Forget(Frozen):
    """What is unwanted: classes by name, or by number where all who are asked number them alike.

    The names are the oracle's and the judge's; a classifier's own where it is a classifier that is to forget.
    A flow or an image-to-image model may forget single images of these classes: `images` are their numbers in
    `training`, which begin at 0. `files` is a text file that names some by their files; when a run begins, what it
    lists is among the numbers, and the names are gone.
    """

    classes: Annotated[Classes, Field(min_length=1)]
    # What earlier requests made the checkpoint forget, and has to stay forgotten; what is asked for again is in both.
    # What this workspace knows of it is filled in when a run begins.
    earlier: Classes = ()
    images: Rows = ()  # all of them if none
    files: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    earlier_images: Rows = ()  # single images, in the same numbers, that earlier requests made it forget; filled in too

    @field_validator("classes", "earlier", "images", "earlier_images", mode="before")
    @classmethod
    def _no_booleans(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and any(isinstance(item, bool) for item in value):
            raise ValueError("holds a truth value: quote it if it is a class's name")
        return value

    def numbers(self, who: str, names: Sequence[str], count: int) -> tuple[int, ...]:
        """The unwanted classes as `who` numbers them, ascending; BadInput if it does not know one.

        `names` may be empty: then only numbers below `count` are known.
        """
        return _numbers("classes", self.classes, who, names, count)

    def earlier_numbers(self, who: str, names: Sequence[str], count: int) -> tuple[int, ...]:
        """The same of what was forgotten before."""
        return _numbers("earlier", self.earlier, who, names, count)


def _numbers(field: str, classes: Sequence[int | str], who: str, names: Sequence[str], count: int) -> tuple[int, ...]:
    found = set()
    for wanted in classes:
        if isinstance(wanted, str) and wanted in names:
            found.add(list(names).index(wanted))
        elif isinstance(wanted, int) and wanted < count:
            found.add(wanted)
        else:
            known = ", ".join(names) if names else f"0 to {count - 1}"
            raise BadInput(f"forget.{field}: {who} does not know class {wanted!r}", f"it knows {shorten(known)}")
    return tuple(sorted(found))


class EarlierRequest(Frozen):
    """One request that was carried out on the way from the first model of a chain to the checkpoint."""

    request_id: str
    request_sha256: Digest
    candidate_sha256: Digest  # of the weights that came of it
    classes: Classes
    images: Annotated[int, Field(ge=0)] = 0  # how many single ones of these; 0: the classes as wholes


AUTO = "auto"  # in the place of a method's name: whichever suits the request


class MethodChoice(Frozen):
    """Which method, starting from which preset, with which parameters changed.

    A request may write the name alone: ``method: auto``. Once a run has begun, no `auto` is left: `name` is what it
    came to, and `chosen` says why.
    """

    name: str = "adapt_then_unlearn"
    preset: str = "default"
    params: dict[str, Any] = Field(default_factory=dict)
    chosen: str | None = None  # why this method, where the request left it to us; written when a run begins

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_a_choice(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _parameters_are_a_methods_own(self) -> Self:
        if self.params and (self.name == AUTO or self.chosen is not None):
            raise ValueError("has params, and 'auto' has no parameters of its own: name the method that they are for")
        return self


class Sampling(Frozen):
    """How many samples are drawn, and for what."""

    curate: Annotated[int, Field(ge=100, le=1_000_000)] = 6_000
    evaluate: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    sequential: bool = False  # draw in steps and stop once the verdict is decided; `evaluate` is then the most
    search: Annotated[int, Field(ge=0, le=100_000)] = 200  # latents from which the unwanted is searched for
    lessons: Annotated[int, Field(ge=0, le=1_000)] = 6  # times that each model is taught it again; 6 give an interval


class Request(Record):
    """What somebody asks to be forgotten, by which means, and how it is to be judged."""

    SCHEMA: ClassVar[str] = "expunge/request/v1"
    LEFT_OUT: ClassVar[frozenset[str]] = frozenset({"retain_until"})

    id: Identifier
    requester: Person
    reason: Reason
    due: date | None = None  # the day by which it is to be released; nothing happens by itself when it passes
    # The last day on which what is to be forgotten may be kept for this request; `expunge dispose` is what ends it.
    retain_until: date | None = None
    model: Identifier  # the name under which the result is released
    checkpoint: ParentSource
    # Where it is in a file of its own; a generator that comes without one gets a fresh one, warmed up first.
    discriminator: DiscriminatorSource | None = None
    forget: Forget
    oracle: ClassifierSource | None = None  # a generator needs both, a classifier neither
    judge: ClassifierSource | None = None
    holdout: DataSource
    labels: DataSource | None = None  # a person's labels of the drawn samples, in place of the oracle's
    # Labelled images that training may read: what the parent learned from, or images like them. Most methods need none.
    training: DataSource | None = None
    # Labelled images that stand in for those to keep, which are not read then: `training` need not hold any.
    proxy: DataSource | None = None
    members: DataSource | None = None  # labelled images that the parent was trained on; only evaluation sees them
    reference: ParentSource | None = None  # retrained without the forget data, where there is such a model
    extractor: ClassifierSource | None = None  # whose features distances are measured in; the judge's if not given
    # The first model of the chain, where earlier requests stand between it and the checkpoint: drift is measured from
    # it. Like `forget.earlier`, what this workspace knows is filled in when a run begins.
    origin: ParentSource | None = None
    came_before: tuple[EarlierRequest, ...] = ()  # the earlier requests, oldest first: written when a run begins
    # Whether the report may show what the parent drew: the policy and the reason decide, `false` forbids it.
    show_before: bool | None = None
    method: MethodChoice = MethodChoice()
    sampling: Sampling = Sampling()
    policy: Identifier = "standard"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    threads: Annotated[int, Field(ge=1, le=256)] = 2

    @property
    def family(self) -> Family:
        """Of the model that is to forget. Requests that were pinned before there was a second family name none."""
        return self.checkpoint.family or "gan"
