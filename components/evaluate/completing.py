"""Completing images: who draws what is hidden, behind which masks, and what the judge makes of the outcome.

Images come in batches of one size, and masks and chance from streams of the report's seed and a purpose: who is asked
changes neither, so that all are asked the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from components.evaluate.drawing import stream
from components.evaluate.evidence_of_completions import Completed
from components.evaluate.judging import Judge
from expunge.errors import BadInput

if TYPE_CHECKING:
    import torch

    from expunge.models import ImageToImage

BATCH = 100  # images at a time: it is part of what chance they meet

Fill: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]"
"""Takes images [b, C, H, W], masks [b, 1, H, W] and a stream, and fills what is hidden: images [b, C, H, W]."""
Look: TypeAlias = "Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]"
"""Is shown a batch of images, their masks and what came of them, on the CPU."""


def noise(images: "torch.Tensor", mask: "torch.Tensor", random: "torch.Generator") -> "torch.Tensor":
    """The images with noise in their hidden part: each hidden pixel is a shown one of the same image, drawn at random.

    So the hole has the colours of what is shown, and nothing else of it: a judge is not put off by levels that it never
    saw. Every mask hides as much as every other.
    """
    import torch

    flat = images.flatten(2)
    shown = (~mask).flatten(1).expand(len(images), -1).float()
    drawn = torch.multinomial(shown, flat.shape[2], replacement=True, generator=random)
    filled = flat.gather(2, drawn[:, None].expand(-1, flat.shape[1], -1)).view_as(images)
    return torch.where(mask, filled, images)


def unchanged(images: "torch.Tensor", mask: "torch.Tensor", random: "torch.Generator") -> "torch.Tensor":
    """The images as they are."""
    return images


def of_model(name: str, model: "ImageToImage", device: "torch.device") -> Fill:
    """A model's completions; BadInput, by its name, where it makes none, or changes what it was shown."""
    import torch

    def fill(images: "torch.Tensor", mask: "torch.Tensor", random: "torch.Generator") -> "torch.Tensor":
        try:
            with torch.inference_mode():
                found = model.complete(images.to(device), mask.to(device), random).cpu()
        except Exception as error:  # a user's own code may raise anything
            raise BadInput(f"{name}: it cannot complete images of {'x'.join(map(str, images.shape[1:]))} "
                           f"({' '.join(str(error).split())[:120]})", "bring one for such images and masks") from error
        if found.shape != images.shape or not torch.equal(torch.where(mask, images, found), images):
            raise BadInput(f"{name}: what it was shown does not come out unchanged", "let complete() return the images "
                           "with nothing but their hidden part drawn")
        return found.clone()  # not in that mode, which would be the caller's as well

    return fill


@dataclass(frozen=True)
class Table:
    """Images that are completed, in the order in which they are, and what is hidden of them."""

    numbers: NDArray[np.intp]  # [n] of each image, in its set
    role: str  # names the streams that masks and chance come from
    images: NDArray[np.float32]  # [n, C, H, W]
    labels: NDArray[np.int64]  # [n] by the judge's numbers
    masks: "Callable[[int, torch.Generator], torch.Tensor]"  # the parent's
    judge: Judge
    seed: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Table":
        return replace(self, numbers=self.numbers[rows], images=self.images[rows], labels=self.labels[rows])

    def filled(self, name: str, fill: Fill, purpose: str, behind: str = "masks",
               done: Callable[[int], None] = lambda count: None, look: "Look | None" = None) -> Completed:
        """What comes of it. Chance is the stream for that purpose, masks are those of the stream `behind`.

        `done` is told how many images were filled since the last call, `look` is shown them.

        Raises:
            BadInput: as the filling; the judge makes nothing of the outcome.
        """
        import torch

        masks, random = (stream(self.seed, f"{self.role} {which}") for which in (behind, purpose))
        parts: list[Completed] = []
        for first in range(0, len(self), BATCH):
            images = torch.from_numpy(np.ascontiguousarray(self.images[first:first + BATCH]))
            mask = self.masks(len(images), masks)
            drawn = fill(images, mask, random)
            parts.append(self._seen(name, images, mask, drawn))
            if look is not None:
                look(images, mask, drawn)
            done(len(images))
        if not parts:
            return nothing(name, self.judge.classes)
        return Completed(name, *(np.concatenate([getattr(part, each) for part in parts]) for each in (
            "classes", "probabilities", "features", "errors", "spreads")))

    def _seen(self, name: str, images: "torch.Tensor", mask: "torch.Tensor", drawn: "torch.Tensor") -> Completed:
        import torch

        sound = torch.isfinite(drawn).flatten(1).all(dim=1)
        found = torch.where(sound[:, None, None, None], drawn, 0.0)
        probabilities, features = (each.float().cpu().numpy() for each in self.judge.looks(found.to(self.judge.device)))
        inside = mask.expand(len(images), 1, *mask.shape[2:])
        errors = _mean_inside((found.double() - images).square(), inside).numpy()
        spreads = np.full(len(images), np.nan)
        pairs = len(images) // 2
        first, second = (found[side:2 * pairs:2].double() for side in (0, 1))
        both = inside[0:2 * pairs:2] & inside[1:2 * pairs:2]
        spreads[0:2 * pairs:2] = _mean_inside((first - second).square() / 2, both).numpy()
        bad = ~sound.numpy()
        spreads[0:2 * pairs:2][bad[0:2 * pairs:2] | bad[1:2 * pairs:2]] = np.nan
        probabilities[bad], features[bad], errors[bad] = np.nan, np.nan, np.nan
        return Completed(name, np.where(bad, -1, probabilities.argmax(axis=1)).astype(np.int64), probabilities,
                         features, errors, spreads)


def nothing(name: str, classes: int) -> Completed:
    """Of no image at all."""
    return Completed(name, np.zeros(0, np.int64), np.zeros((0, classes), np.float32), np.zeros((0, 1), np.float32),
                     np.zeros(0), np.zeros(0))


def _mean_inside(values: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """Means [b] of values [b, C, H, W] over what masks [b, 1, H, W] hide; NaN where that is nothing."""
    inside = mask.expand_as(values).flatten(1)
    return (values.flatten(1) * inside).sum(dim=1) / inside.sum(dim=1)
