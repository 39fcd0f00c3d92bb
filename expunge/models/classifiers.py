"""Two small classifiers of different architecture, so that oracle and judge do not share their mistakes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import BadInput

COARSEST = 8  # pixels: the longest side at which an image is summed up


class Classifier(nn.Module, ABC):
    """Images [B, C, H, W] in [-1, 1] to class logits [B, K], through features [B, F]."""

    head: nn.Linear

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations [B, F]: the space in which FID and KID are measured."""

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F] and class logits [B, K] from one pass."""
        features = self.features(x)
        return features, self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """Class logits [B, K]."""
        return self.look(x)[1]

    def as_in_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state of this model under the names that its file uses."""
        return dict(state)

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of a file's tensors this model is made of."""
        return dict(state)


class Embedder(Classifier):
    """Images to features alone. It tells no classes apart, and can be nothing but an extractor."""

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F], and logits of no class [B, 0]."""
        features = self.features(x)
        return features, features.new_zeros(len(features), 0)


def last_linear(model: nn.Module) -> nn.Linear | None:
    """The linear layer that a model holds last, which by custom turns features into logits; None if it has none."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


class LeNet(Classifier):
    """Convolution and pooling, `halvings` times, then two dense layers (LeCun et al. 1998)."""

    def __init__(
        self, channels: int, width: int, features: int, classes: int, rows: int, columns: int, halvings: int
    ) -> None:
        super().__init__()
        _refuse_too_small(rows, columns, halvings)
        self.first = nn.Conv2d(channels, width, 5, padding=2)
        self.second = nn.Conv2d(width, 2 * width, 5, padding=2)
        self.further = nn.ModuleList(nn.Conv2d(2 * width, 2 * width, 5, padding=2) for _ in range(halvings - 2))
        self.dense = nn.Linear(2 * width * (rows >> halvings) * (columns >> halvings), features)
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations [B, F]."""
        for convolution in (self.first, self.second, *self.further):
            x = F.relu(F.max_pool2d(convolution(x), 2))  # the same as the other way round, on a quarter of the pixels
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
    """Strided convolutions, `halvings` of them, a residual block after each, then global average pooling."""

    def __init__(self, channels: int, width: int, features: int, classes: int, halvings: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.block1 = ResidualBlock(width)
        self.down = nn.Conv2d(width, features, 3, stride=2, padding=1)
        self.block2 = ResidualBlock(features)
        self.further = nn.ModuleList(
            nn.Sequential(nn.Conv2d(features, features, 3, stride=2, padding=1), ResidualBlock(features))
            for _ in range(halvings - 2)
        )
        self.norm = nn.GroupNorm(4, features)
        self.head = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations [B, F]."""
        x = self.block1(self.stem(x))
        x = self.block2(self.down(x))
        for stage in self.further:
            x = stage(x)
        return F.relu(self.norm(x)).mean(dim=(2, 3))


def halvings_for(rows: int, columns: int) -> int:
    """How often an image is halved before it is summed up: until its longer side is at most eight pixels.

    Twice at least, which is what 16x16, 28x28 and 32x32 images get; 64x64 ones are halved three times.
    """
    return max(2, math.ceil(math.log2(max(rows, columns) / COARSEST)))


def build_lenet(
    channels: int = 1, width: int = 16, features: int = 48, classes: int = 10,
    rows: int = 16, columns: int = 16, halvings: int = 2,
) -> LeNet:
    """A LeNet for images of `rows` x `columns` pixels with `features` penultimate units."""
    return LeNet(channels, width, features, classes, rows, columns, halvings)


def build_resnet(
    channels: int = 1, width: int = 32, features: int = 48, classes: int = 10, halvings: int = 2
) -> ResNet:
    """A small residual network for images of any size.

    `width` and `features` must be multiples of 4 (group normalisation).
    """
    return ResNet(channels, width, features, classes, halvings)


def _refuse_too_small(rows: int, columns: int, halvings: int) -> None:
    if min(rows, columns) >> halvings < 1:
        raise BadInput(
            f"rows, columns: {rows}x{columns} pixels cannot be halved {halvings} times", "use larger images"
        )
