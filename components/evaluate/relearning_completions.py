"""Teaching an image-to-image model what it forgot: how soon does it complete it again?

The images to forget are divided in two. One half is shared out among the lessons, the other is asked about after each
of `CHECKS` steps, by the loss that a model of this kind is trained with, behind masks and by chance that stay the same.
Only the encoder is taught: it is what unlearning moves, and the decoder is the parent's whoever is taught.

Beside the candidate stands the parent's decoder behind an encoder that was never trained, its weights drawn anew for
each lesson. It counts as back who came half of the way to the parent's loss, from where the nearer of the two began: a
model that still holds what it was asked to forget needs fewer steps for it than one that never knew.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.evaluate.completing import BATCH
from components.evaluate.drawing import stream
from components.evaluate.evidence import Relearned
from components.evaluate.relearning import CHECKS, SAMPLES
from expunge.contracts import Curve
from expunge.errors import BadInput

if TYPE_CHECKING:
    import torch

    from expunge.models import ImageToImage

ASKED = 256  # images that are asked about, at most
RATE = 1e-3  # of Adam, on the encoder's weights
WAY_BACK = "way_back"  # what the curves show
EMPTY: Mapping[str, "ImageToImage"] = MappingProxyType({})

IMAGES_OF_A_LESSON = CHECKS[-1] * SAMPLES + (len(CHECKS) + 1) * ASKED  # at most: a pupil is shown so many


@dataclass(frozen=True)
class Lesson:
    """Images that a model is taught from, and others that it is asked about, with what is hidden of them."""

    repeat: int
    images: "torch.Tensor"  # [m, C, H, W]
    asked: "torch.Tensor"
    hidden: "torch.Tensor"  # masks of those asked about
    seed: str


def lessons(parent: "ImageToImage", images: NDArray[np.float32], labels: NDArray[np.int64], seed: str, count: int,
            device: "torch.device") -> tuple[Lesson, ...]:
    """That many lessons from the images to forget [n, C, H, W], no image in two of them.

    Raises:
        BadInput: there are too few images.
    """
    import torch

    # Class by class in an order by chance, so that every class is on both sides and in every lesson.
    order = torch.randperm(len(labels), generator=stream(seed, "lessons")).numpy()
    sorted_by_class = order[np.argsort(labels[order], kind="stable")]
    teaching, asked = sorted_by_class[::2], sorted_by_class[1::2]
    if len(teaching) < count or not len(asked):
        raise BadInput(f"relearning: {len(labels)} images to forget",
                       f"{2 * count} are needed to teach them again {count} times (sampling.lessons)")

    def chosen(rows: NDArray[np.intp], most: int) -> "torch.Tensor":
        some = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(np.intp)]
        return torch.from_numpy(np.ascontiguousarray(images[some])).to(device)

    asked_about = chosen(asked, ASKED)
    hidden = parent.masks(len(asked_about), stream(seed, "lessons masks")).to(device)
    return tuple(Lesson(repeat, chosen(teaching[repeat::count], SAMPLES), asked_about, hidden, seed)
                 for repeat in range(count))


def relearn(
    parent: "ImageToImage", candidate: "ImageToImage", lesson: Lesson, others: Mapping[str, "ImageToImage"] = EMPTY
) -> tuple[Relearned, ...]:
    """How the candidate, a model that was never trained and others are taught a lesson, and where the parent stands.

    The others, by name, have the same way to go.
    """
    stranger = never_trained(parent, lesson)
    goal, ours, theirs = (loss(model, lesson) for model in (parent, candidate, stranger))
    start = min(ours, theirs)

    def taught(name: str, model: "ImageToImage", first: float) -> Relearned:
        steps, losses = [0], [first]
        found = Relearned(name, lesson.repeat, (0,), (first,), start, goal)
        if found.reached is None:
            for step, pupil in _taught(model, lesson):
                steps.append(step)
                losses.append(loss(pupil, lesson))
                found = Relearned(name, lesson.repeat, tuple(steps), tuple(losses), start, goal)
                if found.reached is not None:
                    break
        return found

    return (taught("candidate", candidate, ours), Relearned("parent", lesson.repeat, (0,), (goal,), start, goal),
            taught("never exposed", stranger, theirs),
            *(taught(name, model, loss(model, lesson)) for name, model in others.items()))


def never_trained(parent: "ImageToImage", lesson: Lesson) -> "ImageToImage":
    """The parent with the encoder's weights drawn anew: what the decoder alone is worth."""
    import torch

    fresh = copy.deepcopy(parent)
    with torch.random.fork_rng():
        torch.manual_seed(stream(lesson.seed, f"never trained {lesson.repeat}").initial_seed())
        fresh.reset_parameters()
    own = parent.encoder_parameters().keys()
    drawn, known = fresh.state_dict(), parent.state_dict()
    fresh.load_state_dict({name: (drawn if name in own else known)[name] for name in known})
    return fresh.to(lesson.images.device).eval()


def loss(model: "ImageToImage", lesson: Lesson) -> float:
    """What it is trained to lower, of the images asked about: by the same chance whoever is asked, and whenever."""
    import torch

    random, total = stream(lesson.seed, "lessons chance"), 0.0
    with torch.inference_mode():
        for images, mask in zip(lesson.asked.split(BATCH), lesson.hidden.split(BATCH), strict=True):
            total += len(images) * float(model.loss(images, mask, random))
    return total / len(lesson.asked)


def _taught(model: "ImageToImage", lesson: Lesson) -> "Iterator[tuple[int, ImageToImage]]":
    """A copy of the model after each of `CHECKS` steps on the lesson, all of its images at every step."""
    from expunge.models.adam import Adam

    pupil = copy.deepcopy(model).eval().requires_grad_(False)
    moved = [parameter.requires_grad_(True) for parameter in pupil.encoder_parameters().values()]
    optimizer = Adam(moved, RATE)
    random = stream(lesson.seed, f"lesson {lesson.repeat}")
    for step in range(1, CHECKS[-1] + 1):
        mask = pupil.masks(len(lesson.images), random).to(lesson.images.device)
        optimizer.zero_grad()
        pupil.loss(lesson.images, mask, random).backward()
        optimizer.step()
        if step in CHECKS:
            yield step, pupil


def curves(relearned: Iterable[Relearned]) -> Iterator[Curve]:
    """How much of the way back each model went, lesson by lesson, as lines of a plot; the parent stands at one."""
    for taught in relearned:
        if taught.model != "parent":
            yield Curve(name=WAY_BACK, model=taught.model, repeat=taught.repeat, steps=taught.steps,
                        values=taught.way_back)
