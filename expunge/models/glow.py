"""A small multi-scale Glow (Kingma and Dhariwal 2018), made of the blocks of `normflows`.

A level squeezes 2x2 pixels into channels, takes some steps (actnorm, invertible 1x1 convolution, coupling), and, but
for the deepest, hands half of its channels out as latents (ibid., figure 2b). What is drawn a latent's numbers from
is a normal distribution with a learned mean and scale each; the paper's depends on the other half, which `normflows`
does not offer.

`normflows` initialises actnorm by whatever batch comes first, in either direction, which would let a first look at a
fresh model decide its weights. Here only `initialise` does that, and a model that was loaded is never touched.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from expunge.errors import BadInput
from expunge.models.flow import Flow

if TYPE_CHECKING:
    from normflows import MultiscaleFlow

HALF = 0.5  # pixels lie in [-0.5, 0.5], as in the paper's code


class Glow(nn.Module):
    """Points [B, C, H, W] in [-0.5, 0.5] to latents and back, with the exact density.

    Attributes:
        flow: the levels, from the deepest to the one nearest to the image, as `normflows` keeps them.
        temperature: factor on the scale of the latents that `sample` draws.
    """

    def __init__(self, flow: MultiscaleFlow, temperature: float) -> None:
        super().__init__()
        self.flow, self.temperature = flow, temperature
        self._set_initialised(True)

    def _set_initialised(self, is_so: bool) -> None:
        for module in self.flow.modules():
            if hasattr(module, "data_dep_init_done"):
                module.data_dep_init_done = torch.tensor(float(is_so), device=module.data_dep_init_done.device)

    @torch.no_grad()
    def initialise(self, points: Tensor) -> None:
        """Sets every actnorm so that its output on these points has mean 0 and variance 1 per channel (section 3.1)."""
        self._set_initialised(False)
        self.flow.inverse_and_log_det(points)

    def log_prob(self, points: Tensor) -> Tensor:
        """Log-density [B], in nats, of points [B, C, H, W]."""
        found: Tensor = self.flow.log_prob(points, None)
        return found

    def forward(self, points: Tensor) -> tuple[list[Tensor], Tensor]:
        """Latents of each level, the deepest first, and log|det d latents / d points| [B]."""
        latents, log_det = self.flow.inverse_and_log_det(points)
        return latents, log_det

    def inverse(self, latents: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Points [B, C, H, W] of latents, and log|det d points / d latents| [B]."""
        points, log_det = self.flow.forward_and_log_det(latents)
        return points, log_det

    def from_noise(self, noise: Tensor) -> Tensor:
        """Points [B, C, H, W] of standard normal numbers [B, C * H * W], the deepest level's first."""
        latents, taken = [], 0
        for base in self.flow.q0:
            size = math.prod(base.shape)
            part = noise[:, taken : taken + size].view(-1, *base.shape).to(base.loc)
            latents.append(base.loc + base.log_scale.exp() * self.temperature * part)
            taken += size
        return self.inverse(latents)[0]

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Points [count, C, H, W]. `normflows` draws from the global stream; here the noise is drawn apart."""
        size = sum(math.prod(base.shape) for base in self.flow.q0)
        return self.from_noise(torch.randn(count, size, generator=generator, device=generator.device))


def build_glow(
    channels: int = 1, side: int = 28, levels: int = 2, steps: int = 4, hidden: int = 32, bits: int = 8,
    affine: bool = True, temperature: float = 1.0,
) -> Flow:
    """A Glow for square images.

    Args:
        channels: image channels.
        side: height and width of an image in pixels; must be divisible by two, `levels` times.
        levels: how often the image is squeezed (L).
        steps: steps of flow per level (K).
        hidden: channels in the couplings' networks.
        bits: depth of the images.
        affine: couplings scale as well as shift; without it they are additive.
        temperature: factor on the scale of the latents when drawing (section 5.2).

    Raises:
        BadInput: the side cannot be halved so often, a count is not positive, or `normflows` is not installed.
    """
    if min(channels, side, levels, steps, hidden) < 1 or side % 2**levels:
        raise BadInput(f"side: {side} pixels cannot be halved {levels} times (levels)",
                       "use fewer levels, or pad the images; every count is at least 1")
    if not temperature > 0:
        raise BadInput(f"temperature: {temperature}", "use a number above 0, such as 1")
    try:
        import normflows
    except ImportError as error:
        raise BadInput("architecture 'glow' needs the package normflows",
                       "install it: pip install 'expunge[flows]'") from error
    bases, flows, merges = [], [], []
    for depth in range(levels, 0, -1):  # the deepest first
        wide = channels * 2 ** (depth + 1)  # what a level works on; half of it goes deeper
        with warnings.catch_warnings():  # it factorises by a function that torch has another name for by now
            warnings.filterwarnings("ignore", message="torch.lu is deprecated")
            blocks = [normflows.flows.GlowBlock(wide, hidden, scale=affine) for _ in range(steps)]
        flows.append([*blocks, normflows.flows.Squeeze()])
        if depth < levels:
            merges.append(normflows.flows.Merge())
        own = wide if depth == levels else wide // 2
        bases.append(normflows.distributions.DiagGaussian((own, side >> depth, side >> depth)))
    flow = normflows.MultiscaleFlow(bases, flows, merges, class_cond=False)
    return Flow(Glow(flow, temperature), (channels, side, side), bits, range=(-HALF, HALF))
