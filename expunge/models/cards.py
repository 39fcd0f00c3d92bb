"""What is known of a classifier that was trained here: a frozen record beside its weights."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from expunge.contracts import ClassName, Compute, Digest, Measurement, Record, StoredFile
from expunge.measure.screening import ClassScreening, Confusion

Role = Literal["oracle", "judge"]


class ClassifierCard(Record):
    """A classifier, what it was trained on, and how well it tells each class on images that it never saw.

    Attributes:
        data_sha256: over all images and labels given, in whatever order they came.
        duplicates: images left out because an equal one is there.
        contradictory: images left out because an equal one has another label.
        splits: how many images of each class each part has; the parts share no image.
        epochs: trained; `kept` is the one with the lowest loss on the validation part.
        log_loss: mean -log p(true class) on the held-out images.
        overlooked: of the held-out images, those whose own class gets so small a probability that curation
            would take them for clearly wanted if that class were unwanted.
        confusion: [true class][first choice], on the held-out images; rates of classes are counted from it.
    """

    SCHEMA: ClassVar[str] = "expunge/classifier-card/v1"

    role: Role
    weights: StoredFile
    architecture: str
    config: dict[str, int]
    classes: tuple[ClassName, ...]
    image_shape: tuple[int, int, int]  # channels, height, width
    data_sha256: Digest
    duplicates: Annotated[int, Field(ge=0)]
    contradictory: Annotated[int, Field(ge=0)]
    splits: dict[str, dict[ClassName, int]]
    seed: int
    epochs: int
    kept: int
    compute: Compute
    accuracy: Measurement
    log_loss: float
    overlooked: Measurement
    screening: tuple[ClassScreening, ...]
    confusion: Confusion
