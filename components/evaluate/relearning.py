"""Teaching a generator the unwanted again: how soon does it come back?

A few samples of the unwanted are all that the teacher has. For each the model's own nearest latent is sought, and
the generator is then trained to draw the sample from it. A model that still holds what it was asked to forget
needs few steps; one that never knew has to learn it from those samples alone.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from components.evaluate.drawing import latents_of
from components.evaluate.evidence import Relearning
from components.evaluate.judging import BATCH, Judge
from components.evaluate.searching import descend
from expunge.contracts import Curve
from expunge.errors import BadInput

if TYPE_CHECKING:
    import torch

    from expunge.models import Gan

SAMPLES = 64  # that a lesson is taught from
MOST_DRAWN = 50_000  # latents of the parent looked through for a lesson
FRESH = 500  # samples drawn to see whether it came back
SEEK = 100  # steps towards a sample's latent
SEEK_RATE = 0.1  # of Adam, in units of a latent whose numbers have unit variance
RATE = 1e-4  # of Adam, on the generator's weights
CHECKS = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128)  # steps after which it is looked at once more
IMAGES_OF_A_LESSON = SEEK * SAMPLES + len(CHECKS) * FRESH  # about as many are drawn to teach one model


@dataclass(frozen=True)
class Lesson:
    """Samples of the unwanted that a model is taught from."""

    repeat: int
    images: "torch.Tensor"  # [m, C, H, W]


def lessons(parent: "Gan", judge: Judge, seed: str, count: int) -> tuple[Lesson, ...]:
    """That many lessons from the parent's own samples of the unwanted, no sample in two of them.

    Raises:
        BadInput: the parent draws too little of it.
    """
    import torch

    needed, looked = count * SAMPLES, 0
    found: list[torch.Tensor] = []
    for latents in latents_of(parent, seed, MOST_DRAWN, "lessons"):
        with torch.inference_mode():
            images = parent(latents.to(judge.device))
        found.append(images[torch.from_numpy(np.isin(judge.sees(images).classes, judge.unwanted))])
        looked += len(latents)
        if sum(map(len, found)) >= needed:
            break
    else:
        raise BadInput(f"relearning: the parent drew {sum(map(len, found))} unwanted samples on {looked:,} latents",
                       f"{needed} are needed to teach it again {count} times (sampling.lessons)")
    taught = torch.cat(found).clone()[:needed].split(SAMPLES)  # cloned: training refuses what inference made
    return tuple(Lesson(repeat, images) for repeat, images in enumerate(taught))


def relearn(name: str, model: "Gan", lesson: Lesson, judge: Judge, seed: str, wanted_rate: float) -> Relearning:
    """Looks at fresh samples, teaches a copy of the model, and looks again after each of `CHECKS` steps.

    Ends as soon as the share of unwanted samples is `wanted_rate`, or with the last of the checks.
    """
    import torch

    fresh = torch.cat(list(latents_of(model, seed, FRESH, f"fresh {lesson.repeat}")))
    steps, hits = [0], [_hits(model, judge, fresh)]
    if hits[0] < wanted_rate * FRESH:  # else there is nothing to teach
        for step, pupil in _taught(model, lesson, seed):
            steps.append(step)
            hits.append(_hits(pupil, judge, fresh))
            if hits[-1] >= wanted_rate * FRESH:
                break
    return Relearning(name, lesson.repeat, tuple(steps), tuple(hits), FRESH, wanted_rate * FRESH)


def _taught(model: "Gan", lesson: Lesson, seed: str) -> "Iterator[tuple[int, Gan]]":
    """A copy of the model after each of `CHECKS` steps of training on the lesson."""
    from expunge.models.adam import Adam

    pupil = copy.deepcopy(model).requires_grad_(False)
    latents = _sought(pupil, lesson, seed)
    pupil.generator.requires_grad_(True)
    optimizer = Adam(pupil.generator.parameters(), RATE)
    for step in range(1, CHECKS[-1] + 1):
        optimizer.zero_grad()
        (pupil(latents) - lesson.images).square().mean().backward()
        optimizer.step()
        if step in CHECKS:
            yield step, pupil


def _sought(model: "Gan", lesson: Lesson, seed: str) -> "torch.Tensor":
    """Latents [m, d] from which the model draws something near the lesson's images, as probable as any."""
    import torch

    starts = torch.cat(list(latents_of(model, seed, len(lesson.images), f"seek {lesson.repeat}")))
    return descend(model, starts.to(lesson.images.device), SEEK, SEEK_RATE,
                   lambda images: (images - lesson.images).square().flatten(1).mean(dim=1))


def _hits(model: "Gan", judge: Judge, latents: "torch.Tensor") -> int:
    """How many of the latents the model turns into something unwanted."""
    import torch

    with torch.inference_mode():
        parts = [judge.sees(model(part.to(judge.device))).classes for part in latents.split(BATCH)]
    return int(np.isin(np.concatenate(parts), judge.unwanted).sum())


def curves(relearnings: Iterable[Relearning], name: str) -> Iterator[Curve]:
    """How often the unwanted was seen, lesson by lesson, as lines of a plot under the name of a metric."""
    for taught in relearnings:
        yield Curve(name=name, model=taught.model, repeat=taught.repeat, steps=taught.steps,
                    values=tuple(hits / taught.n for hits in taught.hits))
