"""A discriminator for images of any size: for generators that come without the one they were trained against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.models.dcgan import minibatch_stddev

GRID = 4  # side of the coarsest feature map
WIDEST = 256  # channels


class Discriminator(nn.Module):
    """Images [B, C, H, W] to realness logits [B]: strided convolutions down to 4x4 (Radford et al. 2016)."""

    def __init__(self, image_shape: tuple[int, int, int], width: int = 48) -> None:
        super().__init__()
        channels, *sides = image_shape
        layers: list[nn.Module] = []
        side = min(sides)
        while side > GRID:
            layers += [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            channels, width, side = width, min(2 * width, WIDEST), side // 2
        self.shrink = nn.Sequential(*layers)
        self.mix = nn.Conv2d(channels + 1, channels, 3, padding=1)
        self.summarise = nn.Linear(channels * GRID * GRID, channels)
        self.score = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Realness logits [B] for images [B, C, H, W]."""
        x = self.shrink(x)
        x = F.leaky_relu(self.mix(torch.cat([x, minibatch_stddev(x)], dim=1)), 0.2)
        x = F.adaptive_avg_pool2d(x, GRID).flatten(1)
        logits: Tensor = self.score(F.leaky_relu(self.summarise(x), 0.2))
        return logits.squeeze(1)


def fresh_discriminator(image_shape: tuple[int, int, int]) -> Discriminator:
    """An untrained one, the same every time, which leaves the caller's random stream alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Discriminator(image_shape)
