"""What is known of a classifier that was trained here: a frozen record beside its weights."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from expunge.contracts import ClassName, Compute, Digest, Frozen, Measurement, Record, StoredFile
from expunge.measure.screening import ClassScreening, Confusion

Role = Literal["oracle", "judge"]


class Calibration(Frozen):
    """What was done so that probabilities can be taken at their word, and what it changed on held-out images.

    Attributes:
        temperature: what the last layer was divided by; None if nothing helped, so nothing was done.
        log_loss_before: mean -log p(true class) on the held-out images as training left the classifier.
        log_loss: the same of the classifier as it is.
    """

    temperature: float | None
    log_loss_before: float
    log_loss: float


class ClassifierCard(Record):
    """A classifier, what it was trained on, and how well it tells each class on images that it never saw.

    Attributes:
        data_sha256: over all images and labels given, in whatever order they came.
        duplicates: images left out because an equal one is there.
        contradictory: images left out because an equal one has another label.
        splits: how many images of each class each part has; the parts share no image.
        epochs: trained; `kept` is the one with the lowest loss on the validation part.
        confusion: [true class][first choice], on the held-out images; all that is measured is counted from it.
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
    calibration: Calibration
    accuracy: Measurement
    screening: tuple[ClassScreening, ...]
    confusion: Confusion
