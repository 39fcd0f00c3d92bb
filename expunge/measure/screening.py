"""How well a classifier tells each class from the rest, on labelled images that it was not trained on.

Everything is counted from the confusion matrix, so that somebody else can count it again, also for several
classes taken together. The rule is the classifier's first choice. Intervals are exact (Clopper-Pearson, see
`proportions`). Real images say nothing certain about generated ones: the numbers may not carry over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from expunge.contracts import ClassName, Frozen, Measurement
from expunge.errors import BadInput
from expunge.measure.proportions import clopper_pearson, exact_bounds

CONFIDENCE = 0.95
LOWEST_SENSITIVITY = 0.8  # a classifier that may overlook one in five is no ruler for a residual rate near 1 %

Count = Annotated[int, Field(ge=0)]
Confusion: TypeAlias = tuple[tuple[Count, ...], ...]  # [true class][first choice], counts of images


class ClassScreening(Frozen):
    """How a classifier does on one class.

    Attributes:
        name: the class.
        sensitivity: of the images of the class, the share that is seen as it.
        specificity: of all other images, the share that is not.
    """

    name: ClassName
    sensitivity: Measurement
    specificity: Measurement


def confusion(labels: ArrayLike, choices: ArrayLike, classes: int) -> Confusion:
    """Counts [classes][classes] of true labels [N] against first choices [N], both in 0 .. classes - 1.

    Raises:
        BadInput: the two have different lengths, or name a class that there is not.
    """
    true, chosen = np.asarray(labels), np.asarray(choices)
    if true.shape != chosen.shape or true.ndim != 1:
        raise BadInput(f"choices: {chosen.shape}, labels: {true.shape}", "give one of each per image")
    both = np.concatenate([true, chosen])
    if both.size and not (both.min() >= 0 and both.max() < classes):
        raise BadInput(f"labels, choices: go from {both.min()} to {both.max()}", f"use 0 to {classes - 1}")
    counts = np.bincount(true * classes + chosen, minlength=classes * classes).reshape(classes, classes)
    return tuple(tuple(int(count) for count in row) for row in counts)


def accuracy(counts: Confusion) -> Measurement:
    """The share of images whose first choice is right."""
    table = np.asarray(counts)
    return _share("accuracy", int(np.trace(table)), int(table.sum()), "there is no image")


def screen(counts: Confusion, wanted: Collection[int], name: str) -> ClassScreening:
    """Sensitivity and specificity for one class, or for several taken as one.

    Raises:
        BadInput: a class is asked for that the matrix does not have.
    """
    table, chosen = np.asarray(counts), np.zeros(len(counts), np.bool_)
    if not wanted or not all(0 <= number < len(counts) for number in wanted):
        raise BadInput(f"classes: {sorted(wanted)}", f"use 0 to {len(counts) - 1}")
    chosen[list(wanted)] = True
    of_it, of_others = table[chosen], table[~chosen]
    return ClassScreening(
        name=name,
        sensitivity=_share(
            "sensitivity", int(of_it[:, chosen].sum()), int(of_it.sum()), "there is no image of the class"
        ),
        specificity=_share(
            "specificity", int(of_others[:, ~chosen].sum()), int(of_others.sum()), "there is no other image"
        ),
    )


def screen_each(counts: Confusion, names: Sequence[str]) -> tuple[ClassScreening, ...]:
    """Every class against the rest, in their order."""
    return tuple(screen(counts, (number,), name) for number, name in enumerate(names))


def worst(screenings: Sequence[ClassScreening]) -> ClassScreening | None:
    """The class with the lowest sensitivity that was measured; None if none was."""
    measured = [(found.sensitivity.estimate, _lower(found.sensitivity), number)
                for number, found in enumerate(screenings) if found.sensitivity.estimate is not None]
    return screenings[min(measured)[2]] if measured else None


def doubts(screenings: Sequence[ClassScreening]) -> Iterator[str]:
    """One line per class whose sensitivity is not shown to be at least `LOWEST_SENSITIVITY`."""
    for found in screenings:
        n, measured = found.sensitivity.n or 0, found.sensitivity
        if n < fewest_to_say():
            yield (f"class {found.name}: {n} held-out images cannot show a sensitivity of "
                   f"{LOWEST_SENSITIVITY:.0%}, {fewest_to_say()} could")
        elif _lower(measured) < LOWEST_SENSITIVITY:
            yield (f"class {found.name}: its sensitivity may be as low as {_lower(measured):.1%} "
                   f"({measured.estimate:.1%} on {n} held-out images)")


def fewest_to_say() -> int:
    """How many images of a class it takes to show `LOWEST_SENSITIVITY` if every one of them is seen."""
    return next(n for n in range(1, 10_000) if exact_bounds(n, n, CONFIDENCE)[0] >= LOWEST_SENSITIVITY)


def _share(name: str, hits: int, n: int, otherwise: str) -> Measurement:
    if not n:
        return Measurement(name=name, missing=otherwise, n=0)
    return Measurement(name=name, estimate=hits / n, interval=clopper_pearson(hits, n, CONFIDENCE), n=n)


def _lower(measured: Measurement) -> float:
    return measured.interval.lower if measured.interval is not None else 0.0
