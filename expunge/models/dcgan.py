"""A small DCGAN (Radford et al. 2016): images of 16, 28, 32 or 64 pixels from a latent, and logits from images.

No batch normalisation: its running statistics would be a second, untrained copy of the data that unlearning
cannot reach by gradient. Pixel normalisation (Karras et al. 2018, eq. 2) keeps the generator's activations
bounded without any state. A small mapping network turns the latent before the image is drawn (Karras et al.
2019), and the discriminator scores an image by the evidence it finds for each class (Salimans et al. 2016,
section 5): without the two, a third of the 16x16 samples lay between two digits; with them, 3 %.

Every size has the two coarse maps of the smallest; larger images get further maps, each with half the channels
of the one before, so that no map takes much more time than another.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import BadInput
from expunge.models import ranks
from expunge.models.gan import Gan

# For each side of an image: that of its coarsest feature map, and how often that is doubled beyond twice.
SIDES = {16: (4, 0), 28: (7, 0), 32: (4, 1), 64: (4, 2)}


class PixelNorm(nn.Module):
    """Scales each pixel's channel vector to unit root mean square (Karras et al. 2018, eq. 2)."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x` [B, C, H, W]."""
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class DcganGenerator(nn.Module):
    """Latents [B, latent_dim] to images [B, channels, side, side] in [-1, 1]."""

    def __init__(self, latent_dim: int, channels: int, width: int, mapping: int, side: int = 16) -> None:
        super().__init__()
        self.grid, further = SIDES[side]
        self.mapping = nn.Sequential(
            nn.Linear(latent_dim, mapping),
            nn.LeakyReLU(0.2),
            nn.Linear(mapping, mapping),
            nn.LeakyReLU(0.2),
            nn.Linear(mapping, mapping),
            nn.LeakyReLU(0.2),
        )
        self.project = nn.Linear(mapping, 2 * width * self.grid * self.grid)
        self.grow = nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)
        self.refine = nn.Conv2d(width, width, 3, padding=1)
        self.further = nn.ModuleList(
            nn.ConvTranspose2d(width >> level, width >> level + 1, 4, stride=2, padding=1) for level in range(further)
        )
        self.paint = nn.ConvTranspose2d(width >> further, channels, 4, stride=2, padding=1)
        self.norm = PixelNorm()
        self.width = width

    def forward(self, z: Tensor) -> Tensor:
        """Images [B, channels, side, side] in [-1, 1] for latents [B, latent_dim]."""
        x = self.project(self.mapping(z)).view(-1, 2 * self.width, self.grid, self.grid)
        x = self.norm(F.leaky_relu(x, 0.2))
        for convolution in (self.grow, self.refine, *self.further):
            x = self.norm(F.leaky_relu(convolution(x), 0.2))
        return torch.tanh(self.paint(x))


class DcganDiscriminator(nn.Module):
    """Images [B, channels, side, side] to realness logits [B]; larger means more like the training data."""

    def __init__(self, channels: int, width: int, classes: int, side: int = 16) -> None:
        super().__init__()
        grid, further = SIDES[side]
        self.look = nn.Conv2d(channels, width >> further, 4, stride=2, padding=1)
        self.further = nn.ModuleList(
            nn.Conv2d(width >> level, width >> level - 1, 4, stride=2, padding=1) for level in range(further, 0, -1)
        )
        self.shrink = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.mix = nn.Conv2d(2 * width + 1, 2 * width, 3, padding=1)
        self.summarise = nn.Linear(2 * width * grid * grid, width)
        self.score = nn.Linear(width, classes)

    def class_scores(self, x: Tensor) -> Tensor:
        """Evidence [B, classes] that an image is a real one of each class; classes may stay unnamed."""
        for convolution in (self.look, *self.further, self.shrink):
            x = F.leaky_relu(convolution(x), 0.2)
        x = torch.cat([x, minibatch_stddev(x)], dim=1)
        x = F.leaky_relu(self.mix(x), 0.2)
        x = F.leaky_relu(self.summarise(x.flatten(1)), 0.2)
        scores: Tensor = self.score(x)
        return scores

    def forward(self, x: Tensor) -> Tensor:
        """Realness logits [B] for images [B, channels, side, side]."""
        return self.class_scores(x).logsumexp(dim=1)


def minibatch_stddev(x: Tensor) -> Tensor:
    """One channel that says how varied the batch is, against collapse (Karras et al. 2018, section 3)."""
    spread = (ranks.whole_batch(x).var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return spread.expand(x.shape[0], 1, *x.shape[2:])


def build_dcgan(
    latent_dim: int = 32,
    channels: int = 1,
    width: int = 32,
    mapping: int = 128,
    discriminator_width: int = 48,
    classes: int = 10,
    side: int = 16,
) -> Gan:
    """A DCGAN for square images.

    Args:
        latent_dim: length of a latent.
        channels: image channels.
        width: generator channels of the second coarsest map; twice that in the coarsest, half in each finer one.
        mapping: units per layer of the mapping network.
        discriminator_width: the same of the discriminator.
        classes: how many evidences the discriminator sums; 1 is a plain discriminator.
        side: height and width of an image in pixels.

    Raises:
        BadInput: there is no such side, or a width cannot be halved as often as it has to be.
    """
    if side not in SIDES:
        raise BadInput(f"side: a DCGAN of {side} pixels", f"use {', '.join(map(str, SIDES))}, or pad the images")
    finest = 1 << SIDES[side][1]
    for name, given in (("width", width), ("discriminator_width", discriminator_width)):
        if given < finest or given % finest:
            raise BadInput(f"{name}: {given} channels, for {side} pixels", f"use a multiple of {finest}")
    return Gan(
        generator=DcganGenerator(latent_dim, channels, width, mapping, side),
        discriminator=DcganDiscriminator(channels, discriminator_width, classes, side),
        latent_dim=latent_dim,
        image_shape=(channels, side, side),
    )
