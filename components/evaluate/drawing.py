"""Parent and candidate draw from the same latents; only the judge's view and a few images stay."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.evaluate.effort import Share
from components.evaluate.evidence import Seen
from components.evaluate.judging import BATCH, Judge, joined
from components.evaluate.pictures import Pictures
from expunge.digests import sha256_bytes
from expunge.errors import BadInput

if TYPE_CHECKING:
    import torch

    from expunge.models import Gan

Enough = Callable[[Seen, Seen], str | None]
"""Given both views of all drawn so far: what decides the verdict already, in words, or None."""


@dataclass(frozen=True)
class Drawn:
    """What both models drew, as the judge sees it."""

    before: Seen
    after: Seen
    pictures: Pictures
    decided: str | None  # what ended it before `count`


def draw(
    models: "tuple[Gan, Gan]",
    judge: Judge,
    seed: str,
    count: int,
    show_before: bool,
    done: Share,
    enough: Enough | None = None,
) -> Drawn:
    """Parent's and candidate's samples on `count` latents, or on as many as it takes until `enough`."""
    hidden = tuple(sorted({*judge.earlier} - {*judge.unwanted}))
    before, after, pictures = [], [], Pictures(judge.unwanted, show_before, hidden)
    first, decided = 0, None
    for latents in latents_of(models[0], seed, count):
        was, is_now = (images_of(name, model, latents, judge.device)
                       for name, model in zip(("parent", "candidate"), models, strict=True))
        before.append(judge.sees(was))
        after.append(judge.sees(is_now))
        images = was.cpu().numpy(), is_now.cpu().numpy()
        pictures.consider(first, images, (before[-1].classes, after[-1].classes))
        first += len(latents)
        done(first / count)
        if enough is not None and first < count:
            decided = enough(before[-1], after[-1])
            if decided is not None:
                break
    return Drawn(joined(before), joined(after), pictures, decided)


def images_of(name: str, model: "Gan", latents: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """What a model draws from latents [b, d]: images [b, C, H, W].

    Raises:
        BadInput: not all of it are finite numbers, by that name. A judge would call such an image something, and
            then it would count as what it is not.
    """
    import torch

    with torch.inference_mode():
        images = model(latents.to(device))
        spoiled = int((~torch.isfinite(images).flatten(1).all(dim=1)).sum())
    if spoiled:
        raise BadInput(f"{name}: {spoiled} of {len(images)} images that it draws hold NaN or infinity",
                       "check its weights")
    return images


def latents_of(model: "Gan", seed: str, count: int, purpose: str = "") -> "Iterator[torch.Tensor]":
    """Latents [b, d] in batches, from the seed's stream for that purpose."""
    random = stream(seed, purpose)
    for first in range(0, count, BATCH):
        yield model.draw_latents(min(BATCH, count - first), random)


def stream(seed: str, purpose: str = "") -> "torch.Generator":
    """Randomness from the first 63 bits of a seed; each purpose has a stream of its own."""
    import torch

    own = sha256_bytes(f"{seed} {purpose}".encode()) if purpose else seed
    return torch.Generator().manual_seed(int(own[:16], 16) >> 1)
