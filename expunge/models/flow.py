"""What every normalizing flow offers, whatever its architecture: the exact likelihood of an image, and samples.

A flow has a density over points; an image has levels. An image of `bits` bits is laid out as the house lays out all
images, with level 0 at -1 and the highest at 1, and every level stands for a bin of equal width. Where in its bins an
image lies is drawn anew (uniform dequantisation, Theis et al. 2016, section 3.1), so that the mean of the points'
log-densities bounds the log-probability of the image from below.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from expunge.errors import BadInput
from expunge.models.adam import Adam

if TYPE_CHECKING:
    from expunge.methods.training import Session

MOST_BITS = 8  # of an image as samples are stored
ROUNDED = 0.01  # levels by which a pixel may miss its level by rounding alone
TRIED = 16  # images that a flow is tried out with
COOLING = 0.4  # last part of a training over which the rate falls to 0
LONGEST = 1.0  # bits/dim per unit of the parameters: the norm of a gradient that is followed as it is
RETURNS_WITHIN = 0.25  # levels by which inverse(forward(x)) may miss x: an image then comes back as itself


class Flow(nn.Module):
    """A normalizing flow of images.

    Whoever uses it speaks in points [B, C, H, W] in [-1, 1], the coordinates of all images here; what it wraps may
    have been trained in another range, and is spoken to in that.

    Attributes:
        inner: a module with log_prob(points [B, C, H, W]) -> nats [B], and sample(count, generator) -> points
            [count, C, H, W]; both of them in `range`. Where it offers forward(points) and inverse(latents) as well,
            they may return the logarithm of a determinant beside their result; where it offers from_noise(noise
            [B, C * H * W]) -> points, it can be told from which latents something was drawn.
        image_shape: (C, H, W) of one image.
        bits: depth of the images that it was trained on: each pixel has 2^bits levels.
        range: from the lower edge of the lowest level's bin to the upper edge of the highest one's.
        file_names: where the weights' file names its tensors in its own way: its names, and ours for the same.
    """

    def __init__(
        self,
        inner: nn.Module,
        image_shape: tuple[int, int, int],
        bits: int = 8,
        range: tuple[float, float] = (-1.0, 1.0),
        file_names: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= bits <= MOST_BITS:
            raise BadInput(f"bits: {bits} bits per pixel", f"use 1 to {MOST_BITS}")
        self.inner, self.image_shape, self.bits, self.range = inner, image_shape, bits, range
        self.file_names = file_names

    @property
    def dimensions(self) -> int:
        """Numbers in one image."""
        return math.prod(self.image_shape)

    # ------------------------------------------------------------------------- images, levels and points

    def levels(self, images: Tensor) -> Tensor:
        """The level of each pixel, as whole numbers from 0 to 2^bits - 1, of images [N, C, H, W] in [-1, 1].

        Raises:
            BadInput: they are of another shape, outside of the range, or of another depth than it was trained on.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != tuple(self.image_shape) or not len(images):
            raise BadInput(f"images: {_size(images.shape)}, the flow was trained on {_size(self.image_shape)}",
                           "bring at least one image, of that size")
        lowest, highest = images.min().item(), images.max().item()
        if not (lowest >= -1 - 1e-4 and highest <= 1 + 1e-4):  # also what is not a number
            raise BadInput(f"images: values from {lowest:.4g} to {highest:.4g}, outside of the trained range",
                           "scale them to -1 for the lowest level and 1 for the highest")
        exact = (images + 1) * ((2**self.bits - 1) / 2)
        levels = exact.round()
        # An image of fewer bits that was stored with eight is off by up to half of one of theirs.
        stored = 0.5 * (2**self.bits - 1) / (2**MOST_BITS - 1) if self.bits < MOST_BITS else 0.0
        astray = ((exact - levels).abs() > stored + ROUNDED).sum().item()
        if astray:
            raise BadInput(
                f"images: {astray} pixels lie between the {2**self.bits} levels of the {self.bits} bits that the "
                "flow was trained on",
                f"reduce the images to {self.bits} bits first (expunge samples import NAME PATH --bits {self.bits}), "
                "or name the flow's bits")
        return levels

    def reduced(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] of eight bits with the flow's levels: the lower bits are cut off."""
        levels = ((images + 1) * (255 / 2)).round().div(2 ** (MOST_BITS - self.bits)).floor()
        return self._laid_out(levels)

    def points(self, levels: Tensor, random: torch.Generator | None = None) -> Tensor:
        """A point of each image's bins, in [-1, 1]: drawn uniformly, or its middle if there is no `random`."""
        if random is None:
            within: Tensor | float = 0.5
        else:
            within = torch.rand(levels.shape, generator=random, device=random.device).to(levels)
        return (levels + within) * (2 / 2**self.bits) - 1

    def images(self, points: Tensor) -> Tensor:
        """The images in whose bins the points lie; what lies outside of all bins is moved to the nearest."""
        return self._laid_out(((points + 1) * (2**self.bits / 2)).floor().clamp(0, 2**self.bits - 1))

    def _laid_out(self, levels: Tensor) -> Tensor:
        return levels * (2 / (2**self.bits - 1)) - 1

    # ------------------------------------------------------------------------------- likelihood, samples

    def log_prob(self, points: Tensor) -> Tensor:
        """Exact log-density [B], in nats, of points [B, C, H, W] in [-1, 1]."""
        low, high = self.range
        stretch = (high - low) / 2
        found: Tensor = self.inner.log_prob((points + 1) * stretch + low)  # type: ignore[operator]
        return found + self.dimensions * math.log(stretch)

    def bits_per_dim(self, log_prob: Tensor) -> Tensor:
        """Bits per dimension from the log-densities of points: what one number of the image costs to encode.

        A bin is 2 / 2^bits wide in the coordinates of the points, so -log2 of its mass is, per dimension,
        -log_prob / (D ln 2) + bits - 1 (Theis et al. 2016; with bins over an interval of one, as Glow has it, there is
        no last term: Kingma and Dhariwal 2018, eq. 2).
        """
        return -log_prob / (self.dimensions * math.log(2)) + self.bits - 1

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Points [count, C, H, W] by the caller's own random stream; gradients pass where `inner` lets them."""
        low, high = self.range
        points: Tensor = self.inner.sample(count, generator)  # type: ignore[operator]
        return (points - low) * (2 / (high - low)) - 1

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Images [count, C, H, W] in [-1, 1], of the flow's levels."""
        return self.images(self.draw(count, generator))

    @property
    def latent_dim(self) -> int:
        """Length of a latent: as long as an image has numbers."""
        return self.dimensions

    def draw_latents(self, count: int, generator: torch.Generator) -> Tensor:
        """Latents [count, latent_dim], standard normal, from the caller's own random stream; as a `Gan` has them."""
        return torch.randn(count, self.latent_dim, generator=generator, device=generator.device)

    def forward(self, latents: Tensor) -> Tensor:
        """Points [B, C, H, W] of latents [B, latent_dim]: what two flows draw from the same ones can be compared.

        Raises:
            BadInput: the flow draws, and cannot be told from which noise.
        """
        if not callable(getattr(self.inner, "from_noise", None)):
            raise BadInput("checkpoint: the flow has no from_noise()",
                           "give it one that turns standard normal numbers [B, C * H * W] into points [B, C, H, W]")
        low, high = self.range
        points: Tensor = self.inner.from_noise(latents)  # type: ignore[operator]
        return (points - low) * (2 / (high - low)) - 1

    def as_in_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state of this model under the names that its file uses."""
        if self.file_names is None:
            return dict(state)
        return {theirs: state[ours] for theirs, ours in self.file_names.items()}


def as_flow(
    module: nn.Module, image_shape: tuple[int, int, int] | None = None, bits: int = 8,
    range: tuple[float, float] = (-1.0, 1.0),
) -> Flow:
    """A user's own flow, as its factory built it and its file filled it; ours as they are.

    Args:
        module: with log_prob() and sample(), as `Flow.inner` has them.
        image_shape: (C, H, W); None: that of what it draws.
        bits: depth of the images that it was trained on.
        range: of its points.

    Raises:
        BadInput: it cannot say how likely an image is, or cannot draw one from a given random stream.
    """
    if isinstance(module, Flow):
        return module
    for name, takes in (("log_prob", "points [B, C, H, W] and returns nats [B]"),
                        ("sample", "a count and a torch.Generator, and returns points [count, C, H, W]")):
        if not callable(getattr(module, name, None)):
            raise BadInput(f"checkpoint: the flow has no {name}()", f"give it one that takes {takes}")
    try:
        inspect.signature(module.sample).bind(1, torch.Generator())  # type: ignore[arg-type]
    except TypeError:
        raise BadInput("checkpoint: its sample() does not take a count and a torch.Generator",
                       "let it draw from the generator that it is given, so that runs can be repeated") from None
    names = {name: f"inner.{name}" for name in module.state_dict()}
    module.eval()
    return Flow(module, image_shape or _shape_of_a_draw(module), bits, range, file_names=names).eval()


@torch.no_grad()
def _shape_of_a_draw(module: nn.Module) -> tuple[int, int, int]:
    try:
        drawn = module.sample(2, torch.Generator().manual_seed(0))  # type: ignore[operator]
    except BadInput:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"checkpoint: its sample() raised {type(error).__name__}: {said}", "mend the factory") from error
    if not isinstance(drawn, Tensor) or drawn.ndim != 4 or len(drawn) != 2 or drawn.shape[1] not in (1, 3):
        found = list(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
        raise BadInput(f"checkpoint: sample() of two gave {found}, not points [2, 1 or 3, height, width]",
                       "let the factory build a flow of images")
    _, channels, height, width = drawn.shape
    return channels, height, width


def levels_of(field: str, flow: Flow, images: Tensor) -> Tensor:
    """`Flow.levels` of the images [N, C, H, W] of a request's field, which is named in every complaint."""
    try:
        return flow.levels(images)
    except BadInput as error:
        raise BadInput(f"{field}: {error.problem.removeprefix('images: ')}", error.remedy) from None


# ---------------------------------------------------------------------------------- training, trying one out


def fit_likelihood(
    flow: Flow, images: Tensor, steps: int, batch: int, rate: float, random: torch.Generator,
    session: Session | None = None,
) -> list[float]:
    """Trains a flow, in place, to maximum likelihood of images [N, C, H, W] by Adam; bits/dim of each step's batch.

    What `inner` initialises by data (`initialise(points)` in its own range, where it offers that) is initialised by the
    first batch. The rate falls to 0 over the last two fifths of the steps. An update whose gradient is longer than
    `LONGEST` is shortened to that: early couplings can throw a batch far off. With a session that keeps its state, it
    goes on where it was stopped, and tells the steps from there.

    Raises:
        BadInput: the images are not of the flow's shape, range or depth.
        NonFiniteLoss: a loss is not finite; names the step.
    """
    from expunge.methods.training import Loop, Session  # here, because methods are made of models

    device = next(flow.parameters()).device
    levels = flow.levels(images)
    optimizer = Adam(flow.parameters(), lr=rate)
    found = []

    def one_step(step: int) -> dict[str, Tensor]:
        points = flow.points(levels[torch.randint(len(levels), (batch,), generator=random)], random).to(device)
        if step == 0 and callable(getattr(flow.inner, "initialise", None)):
            low, high = flow.range
            flow.inner.initialise((points + 1) * ((high - low) / 2) + low)  # type: ignore[operator]
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (1 - step / steps) / COOLING)
        loss = flow.bits_per_dim(flow.log_prob(points)).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), LONGEST)
        optimizer.step()
        found.append(loss.item())
        return {"bits/dim": loss.detach()}

    Loop(session or Session(0), "train", steps, {"flow": flow, "optimizer": optimizer}, random).run(one_step)
    return found


@torch.no_grad()
def try_flow(flow: Flow, images: Tensor | None = None) -> None:
    """Lets a flow draw, say how likely that is, and turn images there and back.

    Args:
        flow: as a run is going to use it.
        images: some of those that it was trained on, or like them; what it draws itself is tried in any case.

    Raises:
        BadInput: it draws no images of its declared shape or repeats none; a likelihood is missing, not finite, or
            depends on the neighbours; its inverse does not invert.
    """
    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    drawn = flow.draw(TRIED, seeded())
    if tuple(drawn.shape) != (TRIED, *flow.image_shape) or not torch.isfinite(drawn).all():
        raise BadInput(f"checkpoint: it draws {_size(drawn.shape[1:])}, or values that are not finite",
                       f"declare the shape of its images; {_size(flow.image_shape)} is expected")
    if not torch.allclose(flow.draw(TRIED, seeded()), drawn, atol=1e-4):
        raise BadInput("checkpoint: the same random stream gives other samples each time",
                       "let sample() draw from the generator that it is given, and from no other")
    points = [flow.points(flow.levels(flow.images(drawn)), seeded())]
    if images is not None:
        points.append(flow.points(flow.levels(images[:TRIED]), seeded()))
    for some in points:
        _try_likelihood(flow, some)
        _try_inverse(flow, some)


def _try_likelihood(flow: Flow, points: Tensor) -> None:
    found = flow.log_prob(points)
    if tuple(found.shape) != (len(points),):
        raise BadInput(f"checkpoint: log_prob() of {len(points)} images gives {list(found.shape)}",
                       "return one number per image, in nats")
    if not torch.isfinite(found).all():
        raise BadInput("checkpoint: log_prob() is not a finite number for some images",
                       "check its weights, its range and its bits")
    alone = flow.log_prob(points[:1])
    if not torch.allclose(alone, found[:1], rtol=1e-3, atol=1e-3 * flow.dimensions):
        raise BadInput("checkpoint: log_prob() of an image depends on its neighbours, or on when it is asked",
                       "sum the logarithm of the determinant per image, and leave out whatever is initialised by data")


def _try_inverse(flow: Flow, points: Tensor) -> None:
    inner, (low, high) = flow.inner, flow.range
    if type(inner).forward is nn.Module.forward or not callable(getattr(inner, "inverse", None)):
        return  # it need not offer either
    given = (points + 1) * ((high - low) / 2) + low
    returned = _result(inner.inverse(_result(inner(given))))  # type: ignore[operator]
    if not isinstance(returned, Tensor) or returned.shape != given.shape:
        raise BadInput("checkpoint: inverse() of forward() of images is no image", "let inverse() undo forward()")
    missed = (returned - given).abs().max().item() * 2**flow.bits / (high - low)
    if not missed <= RETURNS_WITHIN:
        raise BadInput(
            f"checkpoint: inverse(forward(x)) misses x by up to {missed:.3g} levels, allowed are {RETURNS_WITHIN:g}",
            "let inverse() undo forward(); a flow that is ill-conditioned may need its weights in double precision")


def _result(returned: Any) -> Any:
    """What a transformation returned, without the logarithm of a determinant [B] that may stand beside it."""
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Tensor) and returned[1].ndim <= 1:
        return returned[0]
    return returned


def _size(shape: Any) -> str:
    return "x".join(map(str, shape))
