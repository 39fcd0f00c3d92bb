"""What rooms hand on: models, sample sets, what a method learned, candidates; each with the files beside its record."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from expunge.contracts.records import Claim, Digest, Frozen, Identifier, Record
from expunge.contracts.sources import Bits, ClassName, Family, Hidden, LatentShape, Output, ValueRange
from expunge.digests import sha256_file


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
