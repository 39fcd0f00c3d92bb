"""How a StyleGAN2 is trained (Karras et al. 2020, appendix B), one step at a time; the loop is the caller's.

Logistic losses; R1 on every 16th step of D and path lengths on every 4th of G, each in an update of its own and as
much stronger as it is rarer (lazy regularisation, section 4.2); nine of ten batches with two latents (style mixing);
fresh noise; an average of G. The settings are the public PyTorch implementation's. Where that draws the batch of the
path lengths anew, so does this: half as many images are enough, for it differentiates twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expunge.models.adversarial import Average, PathLength, discriminator_loss, generator_loss, r1_penalty
from expunge.models.gan import Gan
from expunge.models.stylegan2 import Stylegan2Generator


@dataclass(frozen=True)
class Stylegan2Settings:
    """Settings of the training: rates are Adam's, counts are of steps, except where they are of images.

    Attributes:
        rate: of both players.
        r1_weight: of R1 (gamma).
        r1_every: steps of D between its penalties.
        path_weight: of the path lengths; 0 leaves them out.
        path_every: steps of G between its penalties.
        path_shrink: how many times smaller the batch of the path lengths is.
        mixing: part of the batches that are drawn from two latents each.
        average_images: images in which what the average of G knew half fades.
    """

    rate: float = 0.002
    r1_weight: float = 10.0
    r1_every: int = 16
    path_weight: float = 2.0
    path_every: int = 4
    path_shrink: int = 2
    mixing: float = 0.9
    average_images: float = 10_000


class Stylegan2Training:
    """Both players, their optimizers, and what the penalties and the average remember.

    Attributes:
        gan: what is trained, in place.
        average: the generator to draw from when the training is over: `average.put_into(gan.generator)`.
    """

    def __init__(self, gan: Gan, batch: int, settings: Stylegan2Settings | None = None) -> None:
        if not isinstance(gan.generator, Stylegan2Generator):
            raise TypeError(f"{type(gan.generator).__name__} is not led by styles")
        self.gan, self.generator, self.batch = gan, gan.generator, batch
        self.settings = settings = settings or Stylegan2Settings()
        self.painter = _adam(gan.generator, settings.rate, settings.path_every if settings.path_weight else None)
        self.teller = _adam(gan.discriminator, settings.rate, settings.r1_every)
        self.length = PathLength()
        self.average = Average(gan.generator, 0.5 ** (batch / settings.average_images))

    def step(self, step: int, real: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """One update of each player, and the penalties that are due at `step` (counted from 0).

        Args:
            step: which one.
            real: images [batch, C, H, W] in [-1, 1].
            random: where latents and noise are drawn from.

        Returns:
            The losses: `discriminator`, `generator`, and `r1` and `path` where they were due.
        """
        told = self._teach(step, real, random)
        drawn = self._draw(step, random)
        self.average.update(self.generator, step)
        return told | drawn

    def parts(self) -> dict[str, Any]:
        """What must be saved to continue, besides the random stream."""
        return {"gan": self.gan, "painter": self.painter, "teller": self.teller, "length": self.length,
                "average": self.average}

    def styles(self, count: int, random: torch.Generator) -> Tensor:
        """Latents in W [count, layers, latent_dim] of as many images, now and then of two latents each."""
        device = next(self.generator.parameters()).device
        first, second = (self.generator.per_layer(self.generator.style(latents.to(device)))
                         for latents in self.gan.draw_latents(2 * count, random).split(count))
        mixes = torch.rand((), generator=random, device=random.device).item() < self.settings.mixing
        crossover = int(torch.randint(1, self.generator.layers, (), generator=random, device=random.device))
        return torch.cat([first[:, :crossover], second[:, crossover:]], dim=1) if mixes else first

    def _teach(self, step: int, real: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        discriminator = self.gan.discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = self.generator.synthesise(self.styles(self.batch, random), random)
        loss = discriminator_loss(discriminator(real), discriminator(fake))
        _update(self.teller, loss)
        losses = {"discriminator": loss.detach()}
        if step % self.settings.r1_every == 0:
            penalty = self.settings.r1_weight * r1_penalty(discriminator, real)
            _update(self.teller, penalty * self.settings.r1_every)
            losses["r1"] = penalty.detach()
        return losses

    def _draw(self, step: int, random: torch.Generator) -> dict[str, Tensor]:
        discriminator = self.gan.discriminator.requires_grad_(False)
        loss = generator_loss(discriminator(self.generator.synthesise(self.styles(self.batch, random), random)))
        _update(self.painter, loss)
        losses = {"generator": loss.detach()}
        if self.settings.path_weight and step % self.settings.path_every == 0:
            w = self.styles(max(1, self.batch // self.settings.path_shrink), random)
            penalty = self.settings.path_weight * self.length(
                lambda styles: self.generator.synthesise(styles, random), w, random)
            _update(self.painter, penalty * self.settings.path_every)
            losses["path"] = penalty.detach()
        return losses


def _adam(player: nn.Module, rate: float, every: int | None) -> torch.optim.Adam:
    """Adam whose memory lasts as long as without the updates by a penalty on every so-many-th step."""
    part = 1.0 if every is None else every / (every + 1)
    return torch.optim.Adam(player.parameters(), lr=rate * part, betas=(0.0, 0.99**part))


def _update(optimizer: torch.optim.Adam, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
