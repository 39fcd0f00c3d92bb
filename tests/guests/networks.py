"""Two GANs of 16x16 digits that share nothing with the built-in one: what a user's factory file looks like."""

import torch
from torch import nn


def painter(width: int = 24) -> nn.Sequential:
    """A plain DCGAN generator: latents [B, 40, 1, 1] to images [B, 1, 16, 16] in [-1, 1], with batch norm."""
    return nn.Sequential(
        nn.ConvTranspose2d(40, 4 * width, 4, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, 1, 4, stride=2, padding=1),
        nn.Tanh(),
    )


def critic(width: int = 24) -> nn.Sequential:
    """Its discriminator: images to logits [B, 1]."""
    return nn.Sequential(
        nn.Conv2d(1, 2 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(16 * 4 * width, 1),
    )


class DenseGan(nn.Module):
    """Dense layers only (as in Goodfellow et al. 2014): uniform latents [B, 24], pixels and verdicts in [0, 1]."""

    latent_dim = 24

    def __init__(self, units: int = 192) -> None:
        super().__init__()
        self.netG = nn.Sequential(
            nn.Linear(24, units), nn.LeakyReLU(0.2), nn.Linear(units, units), nn.LeakyReLU(0.2),
            nn.Linear(units, 256), nn.Sigmoid(), nn.Unflatten(1, (1, 16, 16)))
        self.netD = nn.Sequential(
            nn.Flatten(), nn.Linear(256, units), nn.LeakyReLU(0.2), nn.Linear(units, units // 2), nn.LeakyReLU(0.2),
            nn.Linear(units // 2, 1), nn.Sigmoid())

    @property
    def generator(self) -> nn.Module:
        """The half that draws."""
        return self.netG

    @property
    def discriminator(self) -> nn.Module:
        """The half that judges."""
        return self.netD

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Images [B, 1, 16, 16] in [0, 1]."""
        return self.netG(z)
