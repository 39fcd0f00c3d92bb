"""Where what a request names comes from, and what its file does not say of itself."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from expunge.contracts.records import Digest, Frozen


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
