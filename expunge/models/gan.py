"""What every generator model offers, whatever its architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn


class Gan(nn.Module):
    """A generator and the discriminator it was trained against.

    Attributes:
        generator: maps latents [B, latent_dim] to images [B, C, H, W] in [-1, 1].
        discriminator: maps images [B, C, H, W] to realness logits [B].
        latent_dim: length of a latent.
        image_shape: (C, H, W) of one image.
        latent_distribution: of each of a latent's numbers: standard normal, or uniform over [-1, 1].
        fresh_discriminator: it has learned nothing yet; a method that needs it warms it up first.
        file_names: where the weights' file names its tensors in its own way: its names, and ours for the same.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        latent_distribution: Literal["normal", "uniform"] = "normal",
        fresh_discriminator: bool = False,
        file_names: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = latent_dim
        self.image_shape = image_shape
        self.latent_distribution = latent_distribution
        self.fresh_discriminator = fresh_discriminator
        self.file_names = file_names

    def forward(self, z: Tensor) -> Tensor:
        """Images [B, C, H, W] in [-1, 1] for latents [B, latent_dim]."""
        images: Tensor = self.generator(z)
        return images

    def draw_latents(self, count: int, generator: torch.Generator) -> Tensor:
        """Latents [count, latent_dim] from the caller's own random stream."""
        if self.latent_distribution == "uniform":
            return 2 * torch.rand(count, self.latent_dim, generator=generator, device=generator.device) - 1
        return torch.randn(count, self.latent_dim, generator=generator, device=generator.device)

    def as_in_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state of this model under the names that its file uses, and no tensor that its file did not have."""
        if self.file_names is None:
            return dict(state)
        return {theirs: state[ours] for theirs, ours in self.file_names.items()}
