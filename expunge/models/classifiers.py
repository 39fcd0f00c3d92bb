"""Two small classifiers of different architecture, so that oracle and judge do not share their mistakes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Classifier(nn.Module):
    """Images [B, C, H, W] in [-1, 1] to class logits [B, K], through features [B, F]."""

    head: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations [B, F]: the space in which FID and KID are measured."""
        raise NotImplementedError

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F] and class logits [B, K] from one pass."""
        features = self.features(x)
        return features, self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits [B, K]."""
        return self.look(x)[1]


class LeNet(Classifier):
    """Convolution and pooling, twice, then two dense layers (LeCun et al. 1998) for 16x16 images."""

    def __init__(self, channels: int, width: int, features: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 5, padding=2)
        self.second = nn.Conv2d(width, 2 * width, 5, padding=2)
        self.dense = nn.Linear(2 * width * 4 * 4, features)
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations [B, F]."""
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return F.relu(self.dense(x.flatten(1)))


class ResidualBlock(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))), pre-activation (He et al. 2016b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(4, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x` [B, width, H, W]."""
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        return x + h


class ResNet(Classifier):
    """Strided stem, residual blocks at 8x8 and 4x4, global average pooling, for 16x16 images."""

    def __init__(self, channels: int, width: int, features: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.block1 = ResidualBlock(width)
        self.down = nn.Conv2d(width, features, 3, stride=2, padding=1)
        self.block2 = ResidualBlock(features)
        self.norm = nn.GroupNorm(4, features)
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations [B, F]."""
        x = self.block1(self.stem(x))
        x = self.block2(self.down(x))
        return F.relu(self.norm(x)).mean(dim=(2, 3))


def build_lenet(channels: int = 1, width: int = 16, features: int = 48, classes: int = 10) -> LeNet:
    """A LeNet for 16x16 images with `features` penultimate units."""
    return LeNet(channels, width, features, classes)


def build_resnet(channels: int = 1, width: int = 32, features: int = 48, classes: int = 10) -> ResNet:
    """A small residual network for 16x16 images; `features` must be a multiple of 4 (group normalisation)."""
    return ResNet(channels, width, features, classes)
