"""What every generator model offers, whatever its architecture."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gan(nn.Module):
    """A generator and the discriminator it was trained against.

    Attributes:
        generator: maps latents [B, latent_dim] to images [B, C, H, W] in [-1, 1].
        discriminator: maps images [B, C, H, W] to realness logits [B].
        latent_dim: length of a latent; latents are standard normal.
        image_shape: (C, H, W) of one image.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        latent_dim: int,
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = latent_dim
        self.image_shape = image_shape

    def forward(self, z: Tensor) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] for latents [B, latent_dim]."""
        images: Tensor = self.generator(z)
        return images

    def draw_latents(self, count: int, generator: torch.Generator) -> Tensor:
        """Latents [count, latent_dim], standard normal, from the caller's own random stream."""
        return torch.randn(count, self.latent_dim, generator=generator, device=generator.device)
