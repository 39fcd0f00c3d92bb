"""A flow at work: how likely it finds images, by points of their bins that come from the report's seed."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.evaluate.drawing import stream
from components.evaluate.evidence_of_flows import Likely
from expunge.errors import BadInput

if TYPE_CHECKING:
    import torch

    from expunge.models import Flow

BATCH = 100  # images at a time: a flow keeps all of its channels; draws come in such batches, so it is part of them
WORN = 0.25  # of a worn image's pixels, how many are drawn at random
NEAREST = 5  # neighbours of each forget image


def gauge(name: str, flow: "Flow", levels: "torch.Tensor", points: int, seed: str, purpose: str,
          device: "torch.device", done: Callable[[int], None] = lambda count: None) -> Likely:
    """Bits per dimension of images, given by their levels [n, C, H, W], each at so many points of its bins.

    The points come from the seed and the purpose: whoever is asked with the same ones is asked at the same points.
    `done` is called with how many passes of an image were made since the last call. A likelihood that is no finite
    number stays what it is.

    Raises:
        BadInput: it cannot look at such images; named by `name`.
    """
    import torch

    random, parts = stream(seed, purpose), []
    for some in levels.split(BATCH):
        found = torch.stack([_bits(name, flow, flow.points(some, random).to(device)) for _ in range(points)]).numpy()
        with np.errstate(invalid="ignore"):
            parts.append((found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(points)))
        done(points * len(some))
    bits, errors = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Likely(name, bits, errors, points)


def _bits(name: str, flow: "Flow", points: "torch.Tensor") -> "torch.Tensor":
    import torch

    try:
        with torch.inference_mode():
            found = flow.bits_per_dim(flow.log_prob(points))
    except Exception as error:  # a user's own code may raise anything
        raise BadInput(f"{name}: it cannot say how likely images of {'x'.join(map(str, points.shape[1:]))} are "
                       f"({' '.join(str(error).split())[:120]})", "bring one for such images") from error
    if tuple(found.shape) != (len(points),):
        raise BadInput(f"{name}: log_prob() of {len(points)} images gives {list(found.shape)}",
                       "return one number per image, in nats")
    return found.double().cpu()


def noise_of(flow: "Flow", count: int, seed: str) -> "torch.Tensor":
    """Levels [count, C, H, W] of images in which every pixel is drawn at random."""
    import torch

    return torch.randint(2**flow.bits, (count, *flow.image_shape), generator=stream(seed, "noise")).float()


def worn(flow: "Flow", levels: "torch.Tensor", seed: str) -> "torch.Tensor":
    """Levels [n, C, H, W] of the same images, of which a quarter of the pixels is drawn at random."""
    import torch

    random = stream(seed, "wear")
    chosen = torch.rand(levels.shape, generator=random) < WORN
    return torch.where(chosen, torch.randint(2**flow.bits, levels.shape, generator=random).float(), levels)


def draws(flow: "Flow", count: int, seed: str, device: "torch.device") -> "Iterator[torch.Tensor]":
    """Images [b, C, H, W] that it draws, on the CPU.

    From the same latents whichever flow it is, if it can be told from which; else from the same random stream.
    """
    import torch

    random, told = stream(seed), callable(getattr(flow.inner, "from_noise", None))
    for first in range(0, count, BATCH):
        some = min(BATCH, count - first)
        with torch.inference_mode():
            points = flow(flow.draw_latents(some, random).to(device)) if told else flow.draw(some, random)
            images = flow.images(points).cpu()
        yield images  # not in that mode, which would be the caller's as well


def nearest(points: NDArray[np.float32], cloud: NDArray[np.float32]) -> NDArray[np.intp]:
    """Which of the cloud [m, d] are among the five nearest to one of the points [k, d], ascending."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEAREST, len(cloud))
    found = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(cloud).kneighbors(points, return_distance=False)
    return np.unique(found)
