"""A plain DCGAN of 28x28 digits (Radford et al. 2016), as one finds it in tutorials: nothing of expunge in it."""

from torch import nn

LATENT = 64


def generator(width: int = 32) -> nn.Sequential:
    """Latents [B, 64, 1, 1] to images [B, 1, 28, 28] in [-1, 1]."""
    return nn.Sequential(
        nn.ConvTranspose2d(LATENT, 4 * width, 7, bias=False),  # 7x7
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False),  # 14x14
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, 1, 4, stride=2, padding=1),  # 28x28
        nn.Tanh(),
    )


def discriminator(width: int = 32) -> nn.Sequential:
    """Images [B, 1, 28, 28] to probabilities [B, 1] of being real."""
    return nn.Sequential(
        nn.Conv2d(1, 2 * width, 4, stride=2, padding=1),  # 14x14
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, bias=False),  # 7x7
        nn.BatchNorm2d(4 * width),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(4 * width * 7 * 7, 1),
        nn.Sigmoid(),
    )
