"""Two ways to ask of an image whether it is bold: one number each, yes if it is above 0."""

from torch import Tensor, nn


class Ink(nn.Module):
    """How dark images are on average: [N, C, H, W] in [-1, 1] to [N, 1]. Gradients lead back to the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        """The mean of all pixels."""
        return images.flatten(1).mean(dim=1, keepdim=True)


class Area(nn.Module):
    """Which part of them is more than half dark: [N, C, H, W] to [N, 1]. A judge needs no gradient."""

    def forward(self, images: Tensor) -> Tensor:
        """The share of pixels above 0."""
        return (images > 0).float().flatten(1).mean(dim=1, keepdim=True)


def by_ink() -> nn.Module:
    """The oracle: the linear layer holds the threshold and how sharp it is."""
    return nn.Sequential(Ink(), nn.Linear(1, 1))


def by_area() -> nn.Module:
    """The judge, which looks at something else."""
    return nn.Sequential(Area(), nn.Linear(1, 1))
