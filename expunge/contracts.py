"""The records that pass from room to room.

Every record is frozen, refuses keys it does not know, carries its schema's name and version, and names the
digests of all it was made from: lineage is a walk over digests. A digest is the SHA-256 of *stored bytes*;
nobody re-serialises a record to check one. Law: ``read_record(kind, write_record(folder, record)) == record``.
"""

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from expunge.digests import canonical_json, sha256_file, write_atomically
from expunge.documents import read_document
from expunge.errors import BadInput

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Person = Annotated[str, Field(min_length=1, max_length=254, pattern=r"^[^\s/\\]+$")]

RECORD_FILE = "record.json"

# What a release may say of itself by the method that made it. Never "proved forgotten".
Claim = Literal["retrained", "approximate removal", "output suppression"]

Reason = Literal["privacy", "safety", "copyright", "bias"]


class Frozen(BaseModel):
    """A value that cannot change after it was made, and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Record(Frozen):
    """A frozen value with a schema name: what one room hands to the next."""

    SCHEMA: ClassVar[str]
    # `schema` would shadow a pydantic method, hence the alias.
    schema_name: str = Field(default="", alias="schema")

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_schema(cls, data: Any) -> Any:
        if isinstance(data, dict) and "schema" not in data and "schema_name" not in data:
            return {**data, "schema": cls.SCHEMA}
        return data

    @field_validator("schema_name")
    @classmethod
    def _schema_is_ours(cls, value: str) -> str:
        if value != cls.SCHEMA:
            raise ValueError(f"is {value!r}, this version reads {cls.SCHEMA!r}")
        return value

    def to_bytes(self) -> bytes:
        """The record as RFC 8785 JSON: what is stored, and what digests are taken of."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))


AnyRecord = TypeVar("AnyRecord", bound=Record)


def parse_record(kind: type[AnyRecord], data: Any, origin: str) -> AnyRecord:
    """Builds a record from plain data; a wrong field is one line that names it and `origin`."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise BadInput(*describe(error, origin)) from None


def shorten(text: str, length: int = 200) -> str:
    """The text, cut to what fits on a line."""
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if len(text) <= length else text[: length - 1] + "…"


_KIND = re.compile(r"int|str|constrained-\w+|function-.+|.+\[.+")


def describe(error: ValidationError, origin: str) -> tuple[str, str]:
    """The first complaint of a validation error as (problem naming the field, remedy)."""
    first = error.errors()[0]
    # Where a field takes one of two kinds, pydantic adds the kind's own name to the place; nobody wrote that.
    place = [str(part) for part in first["loc"] if not _KIND.fullmatch(str(part))]
    field = ".".join(place) or "the document"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{origin}: unknown key '{field}'{more}", "remove it or correct its spelling"
    if first["type"] == "missing":
        return f"{origin}: '{field}' is missing{more}", "add it"
    return f"{origin}: '{field}' {_lower_first(first['msg'])}{more}", "correct it"


def _lower_first(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def read_record(kind: type[AnyRecord], path: Path) -> AnyRecord:
    """Reads a record from its file, or from the `record.json` of its folder."""
    file = path / RECORD_FILE if path.is_dir() else path
    data = read_document(file)
    if not isinstance(data, dict):
        raise BadInput(f"{file}: holds {type(data).__name__}, not a {kind.__name__}", "write key: value lines")
    return parse_record(kind, data, str(file.name if file.name != RECORD_FILE else file.parent.name))


class Absent(Record):
    """In the place of a record that a run need not have: said, so that nobody takes a lost one for none."""

    SCHEMA: ClassVar[str] = "expunge/absent/v1"

    reason: str


def read_record_if_any(kind: type[AnyRecord], path: Path) -> AnyRecord | None:
    """Reads a record, or None where an `Absent` stands in its place. BadInput if there is neither."""
    file = path / RECORD_FILE if path.is_dir() else path
    data = read_document(file)
    if isinstance(data, dict) and data.get("schema") == Absent.SCHEMA:
        parse_record(Absent, data, file.parent.name)
        return None
    return read_record(kind, path)


def write_record(path: Path, record: Record) -> Path:
    """Writes a record to `path`, or to `record.json` if `path` is a folder. Returns the file."""
    file = path / RECORD_FILE if path.is_dir() else path
    write_atomically(file, record.to_bytes())
    return file


# ---------------------------------------------------------------------------------------------- request


class Source(Frozen):
    """Where something comes from, pinned by the digest of its bytes once a run has begun."""

    uri: Annotated[str, Field(min_length=1, max_length=4096)]
    sha256: Digest | None = None


class DataSource(Source):
    """Where labelled images, or labels, come from."""

    @model_validator(mode="before")
    @classmethod
    def _as_written_by_0_1(cls, data: Any) -> Any:
        """Version 0.1 wrote a model's two fields, empty, into every source."""
        if isinstance(data, dict) and not data.get("architecture") and not data.get("config"):
            return {key: value for key, value in data.items() if key not in ("architecture", "config")}
        return data


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] >= limits[1]:
        raise ValueError(f"goes from {limits[0]:g} to {limits[1]:g}: give the lower value first")
    return limits


ValueRange = Annotated[tuple[float, float], AfterValidator(_ascending)]
Bits = Annotated[int, Field(ge=1, le=8)]  # of a pixel's value: samples are stored with eight
LatentShape = Annotated[tuple[Annotated[int, Field(ge=1, le=2**20)], ...], Field(min_length=1, max_length=4)]
ClassName = Annotated[str, Field(min_length=1, max_length=200)]
Output = Literal["logit", "probability"]
Family = Literal["gan", "classifier", "flow", "image_to_image"]  # of models that can be asked to forget
MaskKind = Literal["centre", "border", "random"]


class Hidden(Frozen):
    """What an image-to-image model is not shown of an image, and completes: see `expunge.models.masks`."""

    mask: MaskKind = "centre"
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.25  # of the image's area
    cell: Annotated[int, Field(ge=0, le=4096)] = 0  # side in pixels of what is hidden as a whole; 0: the model's own


class ModelSource(Source):
    """Where a model comes from, and what its file does not say of itself."""

    # A built-in name or `path/to/file.py:factory`, with its keyword arguments.
    architecture: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    factory_sha256: Digest | None = None  # of the factory's file, pinned once a run has begun
    range: ValueRange | None = None  # lowest and highest pixel value; -1 to 1 if not given
    channels: Literal[1, 3] | None = None  # grey or colour; as the generator draws if not given


class ParentSource(ModelSource):
    """The model that is to forget, or another of its kind: the one that never knew, the first of a chain.

    Each family has fields of its own; one that says something of another family is refused (`expunge.families`).
    """

    family: Family | None = None  # as its file says, and a generator's where it does not; pinned once a run has begun

    # A generator, alone or together with its discriminator.
    # Shape of one latent: `100` and `[100]` are a vector, `[100, 1, 1]` suits transposed convolutions.
    latent: LatentShape | None = None
    latent_distribution: Literal["normal", "uniform"] = "normal"  # uniform is over -1 to 1
    discriminator_output: Output = "logit"  # of the discriminator that came in the same file, if one did

    # A normalizing flow: of the images that it was trained on, the depth.
    bits: Bits | None = None  # as a built-in one says of itself, and 8 where nobody says it

    # An image-to-image model: behind which masks it is trained and measured; half of each side, in the middle, if none.
    hidden: Hidden | None = None

    # A classifier, as in `ClassifierSource`.
    output: Output = "logit"
    classes: tuple[ClassName, ...] = ()
    features: str | None = None

    @field_validator("latent", mode="before")
    @classmethod
    def _a_number_is_a_vector(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) and not isinstance(value, bool) else value


class DiscriminatorSource(ModelSource):
    """The discriminator that a generator was trained against, in a file of its own."""

    output: Output = "logit"


class ClassifierSource(ModelSource):
    """A classifier: what it puts out, and what its classes are called."""

    output: Output = "logit"
    classes: tuple[ClassName, ...] = ()  # in the order of its outputs
    features: str | None = None  # the submodule whose output is compared; else what enters the last linear layer


Classes = Annotated[tuple[Annotated[int, Field(ge=0)] | ClassName, ...], Field(max_length=1000)]


Rows = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=1000)]


class Forget(Frozen):
    """What is unwanted: classes by name, or by number where all who are asked number them alike.

    The names are the oracle's and the judge's; a classifier's own where it is a classifier that is to forget.
    A flow or an image-to-image model may forget single images of these classes: `images` are their numbers in
    `training`, which begin at 0.
    """

    classes: Annotated[Classes, Field(min_length=1)]
    # What earlier requests made the checkpoint forget, and has to stay forgotten; what is asked for again is in both.
    # What this workspace knows of it is filled in when a run begins.
    earlier: Classes = ()
    images: Rows = ()  # all of them if none
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

    id: Identifier
    requester: Person
    reason: Reason
    due: date | None = None  # the day by which it is to be released; nothing happens by itself when it passes
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


# ------------------------------------------------------------------------------------- what rooms hand on


class StoredFile(Frozen):
    """A file beside the record, by its name and the digest of its bytes."""

    name: str
    sha256: Digest
    size: Annotated[int, Field(ge=0)]

    @classmethod
    def of(cls, file: Path) -> Self:
        """Describes the file as it is now."""
        return cls(name=file.name, sha256=sha256_file(file), size=file.stat().st_size)


class Interface(Frozen):
    """How a model is spoken to: what ours need not say, because it is the default."""

    range: ValueRange = (-1.0, 1.0)
    channels: Literal[1, 3] | None = None
    latent: LatentShape | None = None
    latent_distribution: Literal["normal", "uniform"] = "normal"
    bits: Bits = 8
    hidden: Hidden | None = None
    output: Output = "logit"
    classes: tuple[ClassName, ...] = ()
    features: str | None = None


class StoredModel(Frozen):
    """Weights, and all that is needed to build the model that they fit."""

    architecture: str  # a built-in name, or `factory.py:name` for the file `factory` beside the record
    config: dict[str, Any]
    weights: StoredFile
    factory: StoredFile | None = None
    interface: Interface = Interface()


class Checkpoint(Record, StoredModel):
    """A model as it came in: safetensors, and the architecture that its weights fit."""

    SCHEMA: ClassVar[str] = "expunge/checkpoint/v1"

    role: Literal["parent", "oracle", "judge", "reference", "extractor", "origin"]
    request_sha256: Digest
    uri: str
    family: Family
    discriminator: StoredModel | None = None  # of a parent whose discriminator came in a file of its own


class Shard(Frozen):
    """One encrypted file of a sample set as DVC stores it: a pod without Git finds it by remote and md5."""

    path: str
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]  # of the ciphertext; DVC's own key
    sha256: Digest  # of the ciphertext
    size: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=0)]


# `negative` and `positive` are a generator's own; `forget` and `retain` are real and may be trained on; `holdout` and
# `members` are real, and only evaluation sees them.
SampleRole = Literal["negative", "positive", "forget", "retain", "holdout", "members"]


class SampleSet(Record):
    """A set of samples, identified by the keyed root of its items; only ciphertext lies anywhere."""

    SCHEMA: ClassVar[str] = "expunge/sample-set/v1"

    role: SampleRole
    set_id: Digest  # HMAC root of the items under the request's key
    request_id: Identifier
    request_sha256: Digest
    count: Annotated[int, Field(ge=1)]
    class_counts: dict[str, int]
    unwanted: tuple[int, ...]  # in the numbering of its labels
    earlier: tuple[int, ...] = ()  # what was forgotten before, in the same numbering
    classes: tuple[ClassName, ...] = ()  # names of its labels, where they have any
    image_shape: tuple[int, int, int]  # channels, height, width
    remote: str
    shards: tuple[Shard, ...]
    made_from: dict[str, Digest]  # e.g. checkpoint, oracle


class Compute(Frozen):
    """What the same weights depend on besides the seed."""

    device: str
    threads: int
    torch: str
    instruction_set: str
    machine: str


class Adaptation(Record):
    """What the method learned about what it must lose; encrypted, for it may be the unwanted thing itself."""

    SCHEMA: ClassVar[str] = "expunge/adaptation/v1"

    method: str
    params: dict[str, Any]
    seed: int
    parent_sha256: Digest
    negative_id: Digest | None = None  # of the model's own samples, if it can draw any
    forget_id: Digest | None = None  # of real images, where the request names some to train on
    retain_id: Digest | None = None
    compute: Compute
    tensors: StoredFile


class Candidate(Record, StoredModel):
    """The unlearned checkpoint, and everything it was made from."""

    SCHEMA: ClassVar[str] = "expunge/candidate/v1"

    method: str
    claim: Claim
    params: dict[str, Any]
    seed: int
    parent_sha256: Digest
    adaptation_sha256: Digest
    oracle_sha256: Digest | None
    negative_id: Digest | None = None
    positive_id: Digest | None = None
    forget_id: Digest | None = None
    retain_id: Digest | None = None
    compute: Compute
    family: str


# -------------------------------------------------------------------------------------------- measuring


class Interval(Frozen):
    """Where the true value lies, how sure, and by which method."""

    lower: float
    upper: float
    confidence: Annotated[float, Field(gt=0, lt=1)]
    method: str


class Measurement(Frozen):
    """One number of a report. Without an estimate it says why: absent is not zero."""

    name: str
    estimate: float | None = None
    interval: Interval | None = None
    n: int | None = None
    missing: str | None = None  # why there is no number
    not_applicable: bool = False  # there is none because the question has no meaning here

    @model_validator(mode="after")
    def _number_or_reason(self) -> Self:
        if (self.estimate is None) == (self.missing is None):
            raise ValueError(f"measurement {self.name!r} needs either an estimate or a reason why there is none")
        if self.not_applicable and self.missing is None:
            raise ValueError(f"measurement {self.name!r} has an estimate, so it does apply")
        return self


class Control(Frozen):
    """A candidate whose verdict is known beforehand, measured with the same ruler."""

    name: str
    must: Literal["FAIL", "not FAIL"]
    measurements: tuple[Measurement, ...]
    covers: tuple[str, ...]  # the rules that it puts to the test


class Curve(Frozen):
    """One line of a plot: how a value went while something was done to a model, step by step."""

    name: str  # of the metric
    model: str  # whose: `candidate`, `parent`, `never exposed`
    repeat: Annotated[int, Field(ge=0)]
    steps: tuple[Annotated[int, Field(ge=0)], ...]
    values: tuple[float, ...]

    @model_validator(mode="after")
    def _one_value_per_step(self) -> Self:
        if len(self.steps) != len(self.values):
            raise ValueError(f"curve {self.name!r} has {len(self.steps)} steps and {len(self.values)} values")
        return self


class Stopping(Frozen):
    """When sampling ended, of a report whose sample count was not fixed in advance."""

    planned: Annotated[int, Field(ge=1)]  # the most that would have been drawn
    drawn: Annotated[int, Field(ge=1)]
    fixed: Annotated[int, Field(ge=1)]  # of these, what was to be drawn in any case: distances use no more
    decided: str  # what ended it, in a reviewer's words
    seconds_saved: Annotated[float, Field(ge=0)]  # at the pace of what was drawn


class MadeBy(Frozen):
    """By which method a candidate was made, and what it may say of itself."""

    method: str
    preset: str
    changed: dict[str, Any]  # parameters that differ from the preset
    chosen: str | None  # why this method, where the request left the choice to us
    claim: Claim


class Report(Record):
    """What evaluation found: every number with its interval, and the files that hold the per-sample scores."""

    SCHEMA: ClassVar[str] = "expunge/report/v1"

    family: str = "gan"
    request_sha256: Digest
    parent_sha256: Digest
    candidate_sha256: Digest
    made_by: MadeBy | None = None  # absent in reports of version 0.1
    judge_sha256: Digest | None = None  # absent of a classifier, whose images' labels say what is right
    extractor_sha256: Digest | None = None  # whose features were compared; of no extractor but the judge if absent
    reference_sha256: Digest | None = None  # the model that never knew, if there was one
    origin_sha256: Digest | None = None  # the first model of the chain, if requests came before this one
    holdout_id: Digest
    members_id: Digest | None = None
    forget_id: Digest | None = None  # of real images that training could read, as the candidate names them
    retain_id: Digest | None = None
    holdout_lacks: tuple[int, ...] = ()  # retained classes of which there is something, but no real image
    latent_seed: Digest  # H(candidate digest || request digest)
    unwanted: tuple[int, ...]  # by the judge's numbers
    earlier: tuple[int, ...] = ()  # what was forgotten before, by the same numbers
    came_before: tuple[EarlierRequest, ...] = ()  # by which requests, as far as that is known; oldest first
    classes: tuple[ClassName, ...] = ()  # the judge's names, where it has any
    measurements: tuple[Measurement, ...]
    controls: tuple[Control, ...]
    shares: dict[str, tuple[float, float]]  # class -> (before, after), as fractions of all samples
    curves: tuple[Curve, ...] = ()
    stopping: Stopping | None = None  # absent: the number of samples was fixed in advance
    files: tuple[StoredFile, ...]

    def measurement(self, name: str) -> Measurement:
        """The measurement of that name."""
        for found in self.measurements:
            if found.name == name:
                return found
        raise KeyError(name)


class Rule(Frozen):
    """A limit on a metric's whole interval."""

    metric: str
    side: Literal["at most", "at least"]
    limit: float
    confidence: Annotated[float, Field(gt=0, lt=1)]
    one_sided: bool = False
    reason: str  # why this number
    families: tuple[str, ...] = ()  # of models that it is for; all of them if none is named
    breach: str | None = None  # what a model that breaks it is guilty of, where that has a name
    if_earlier: bool = False  # asked only where earlier requests made the checkpoint what it is


class Policy(Record):
    """The rules a candidate must meet and how many people must agree."""

    SCHEMA: ClassVar[str] = "expunge/policy/v1"

    name: Identifier
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]
    approvals: Annotated[int, Field(ge=1)] = 1  # distinct people, the requester never counts
    valid_days: Annotated[float, Field(gt=0)] = 30.0
    show_before: tuple[Reason, ...] = ()


Outcome = Literal["PASS", "INCONCLUSIVE", "FAIL", "INVALID"]


class RuleOutcome(Frozen):
    """How one rule came out, in words a reviewer reads."""

    rule: Rule
    outcome: Outcome
    reason: str


class Verdict(Record):
    """f(report, policy): it never changes."""

    SCHEMA: ClassVar[str] = "expunge/verdict/v1"

    outcome: Outcome
    report_sha256: Digest
    policy_sha256: Digest
    candidate_sha256: Digest
    rules: tuple[RuleOutcome, ...]
    controls: dict[str, str]  # name -> "as expected" or what went wrong


# --------------------------------------------------------------------------------------------- deciding


class Approval(Record):
    """One person's decision over named bytes. If any named digest changes, it is void."""

    SCHEMA: ClassVar[str] = "expunge/approval/v1"

    run: Identifier
    person: Person
    decision: Literal["approve", "reject"]
    request_sha256: Digest
    candidate_sha256: Digest
    report_sha256: Digest
    policy_sha256: Digest
    sample_sets: tuple[Digest, ...]
    reason_sha256: Digest
    decided_at: str  # RFC 3339, UTC
    not_after: str
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Release(Record):
    """A model in service: which bytes, from what, by whose leave."""

    SCHEMA: ClassVar[str] = "expunge/release/v1"

    model: Identifier
    generation: Annotated[int, Field(ge=1)]
    run: Identifier
    request_id: Identifier
    request_sha256: Digest
    parent_sha256: Digest
    candidate_sha256: Digest
    verdict_sha256: Digest
    report_sha256: Digest
    approvals: tuple[Digest, ...]  # digests of the decision envelopes
    weights: StoredFile
    beside: tuple[StoredFile, ...] = ()  # what the library that has this format reads with the weights
    released_at: str
