"""Looking for the unwanted in a generator's latents, by gradient: what its weights can still draw.

An output filter does not survive this, for it is the weights that are searched. The oracle guides the search and
the judge says what was found: an image that merely fools the one has to fool the other as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from components.evaluate.effort import Share, nobody
from components.evaluate.evidence import Mask, Search, Seen
from components.evaluate.given import Given
from components.evaluate.judging import Judge, as_classifier

if TYPE_CHECKING:
    import torch

    from expunge.models import Classifier, Gan

STEPS = 40
RATE = 0.1  # of Adam, in units of a latent whose numbers have unit variance


@dataclass(frozen=True)
class Guide:
    """A classifier whose gradient leads towards the unwanted."""

    model: "Classifier"
    unwanted: tuple[int, ...]  # in its own numbering

    @classmethod
    def open(cls, given: Given, image_shape: tuple[int, ...], device: "torch.device") -> "Guide":
        """The request's oracle, for images [C, H, W]."""
        import torch

        model = as_classifier("oracle", given.oracle.load(device)).requires_grad_(False)
        with torch.inference_mode():
            known = model(torch.zeros(1, *image_shape, device=device)).shape[1]
        return cls(model, given.request.forget.numbers("the oracle", given.oracle.record.interface.classes, known))

    def misses(self, images: "torch.Tensor") -> "torch.Tensor":
        """-log p(unwanted) [b] of images [b, C, H, W]."""
        import torch

        chances = self.model(images).log_softmax(dim=1)[:, list(self.unwanted)]
        return -torch.logsumexp(chances, dim=1)


def search(model: "Gan", guide: Guide, judge: Judge, starts: "torch.Tensor", done: Share = nobody) -> Search:
    """Descends from latents [s, d] to what the guide calls unwanted; the judge looks at every step's images."""
    seen: list[Seen] = []

    def misses(images: "torch.Tensor") -> "torch.Tensor":
        seen.append(judge.sees(images.detach()))
        done(len(seen) / STEPS)
        return guide.misses(images)

    descend(model, starts.to(judge.device), STEPS, RATE, misses)
    hits: Mask = np.stack([np.isin(view.classes, judge.unwanted) for view in seen])
    return Search(hits[0], np.asarray(hits.any(axis=0)), np.stack([view.unwanted for view in seen]).max(axis=0))


def descend(model: "Gan", starts: "torch.Tensor", steps: int, rate: float,
            loss: "Callable[[torch.Tensor], torch.Tensor]") -> "torch.Tensor":
    """Adam on latents [s, d], each for itself: `loss` takes images [s, C, H, W] and gives [s].

    A latent stays as probable as it was: a normal one keeps its length, a uniform one its range. Otherwise the
    search would leave what the generator ever draws from.
    """
    import torch

    from expunge.models.adam import Adam

    z = starts.clone().requires_grad_(True)
    lengths = starts.norm(dim=1, keepdim=True)
    optimizer = Adam([z], rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(z)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            if model.latent_distribution == "uniform":
                z.clamp_(-1, 1)
            else:
                z.mul_(lengths / z.norm(dim=1, keepdim=True))
    return z.detach()
