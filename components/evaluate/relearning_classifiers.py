"""Teaching a classifier the unwanted again: how soon does it name it right once more?

Held-out images of the unwanted classes are divided in two. One half is shared out among the lessons, the other is
asked about after each of `CHECKS` steps. A lesson shows a few images of the unwanted beside some of the rest, each
side weighing the same, so that calling everything by the unwanted's name is not what is learned.
A classifier that still holds what it was asked to forget needs few steps, one that never knew has to learn it. The head
is taught with the rest: how a head that was cut off fares is told by `grafted_accuracy`, not by this.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import Relearning
from components.evaluate.relearning import CHECKS
from expunge.errors import BadInput
from expunge.samples import SampleTable

if TYPE_CHECKING:
    import torch

    from expunge.models import Classifier

BESIDE = 64  # images of the rest that a lesson shows at most
RATE = 1e-3  # of Adam, on all weights


@dataclass(frozen=True)
class Lesson:
    """What a lesson teaches from, and what is asked: images and their labels."""

    repeat: int
    unwanted: "tuple[torch.Tensor, torch.Tensor]"
    beside: "tuple[torch.Tensor, torch.Tensor]"
    asked: "tuple[torch.Tensor, torch.Tensor]"


def lessons(holdout: SampleTable, unwanted: tuple[int, ...], lost: tuple[int, ...], count: int,
               device: "torch.device") -> tuple[Lesson, ...]:
    """That many lessons, no image in two of them; BadInput if there are too few images."""
    import torch

    def chosen(rows: NDArray[np.intp]) -> "tuple[torch.Tensor, torch.Tensor]":
        return (torch.from_numpy(np.ascontiguousarray(holdout.images[rows])).to(device),
                torch.from_numpy(holdout.labels[rows]).to(device))

    # Class by class, so that every class is on both sides and in every lesson.
    teaching, asked = (np.concatenate([np.flatnonzero(holdout.labels == label)[first::2] for label in unwanted])
                       for first in (0, 1))
    if len(teaching) < count or not len(asked):
        raise BadInput(f"relearning: {len(teaching) + len(asked)} held-out images of the unwanted",
                       f"{2 * count} are needed to teach it again {count} times (sampling.lessons)")
    rest = np.flatnonzero(~np.isin(holdout.labels, lost))
    beside = rest[np.linspace(0, len(rest) - 1, min(BESIDE, len(rest))).astype(np.intp)]
    return tuple(Lesson(repeat, chosen(teaching[repeat::count]), chosen(beside), chosen(asked))
                 for repeat in range(count))


def relearn(name: str, model: "Classifier", lesson: Lesson, wanted_rate: float) -> Relearning:
    """Asks, teaches a copy of the model, and asks again after each of `CHECKS` steps.

    Ends as soon as the share of right answers is `wanted_rate`, or with the last of the checks.
    """
    n = len(lesson.asked[1])
    steps, hits = [0], [_right(model, lesson)]
    if hits[0] < wanted_rate * n:  # else there is nothing to teach
        for step, pupil in _taught(model, lesson):
            steps.append(step)
            hits.append(_right(pupil, lesson))
            if hits[-1] >= wanted_rate * n:
                break
    return Relearning(name, lesson.repeat, tuple(steps), tuple(hits), n, wanted_rate * n)


def _taught(model: "Classifier", lesson: Lesson) -> "Iterator[tuple[int, Classifier]]":
    """A copy of the model after each of `CHECKS` steps of training on the lesson; batch norm stays as it is."""
    import torch
    from torch.nn import functional as F

    from expunge.models.adam import Adam

    pupil = copy.deepcopy(model).eval().requires_grad_(True)
    optimizer = Adam(pupil.parameters(), RATE)
    for step in range(1, CHECKS[-1] + 1):
        optimizer.zero_grad()
        sum((F.cross_entropy(pupil(images), labels) for images, labels in (lesson.unwanted, lesson.beside)),
            torch.zeros((), device=lesson.unwanted[0].device)).backward()
        optimizer.step()
        if step in CHECKS:
            yield step, pupil


def _right(model: "Classifier", lesson: Lesson) -> int:
    """How many of the images asked about it names right."""
    import torch

    images, labels = lesson.asked
    with torch.inference_mode():
        return int((model(images).argmax(1) == labels).sum())
