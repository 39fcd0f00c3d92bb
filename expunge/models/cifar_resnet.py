"""Residual networks for small images: ResNet-20, ResNet-56 and their like (He et al. 2016a, section 4.2).

A convolution, then three stages of n blocks each on ever fewer pixels and ever more channels, then the mean over the
pixels and one linear layer: 6n + 2 layers with weights. Shortcuts have nothing to learn (option A): where a stage
begins, every second pixel goes on, and the channels that are new begin as 0. Weights are drawn as each layer draws
them by itself; behind batch normalisation their scale does not matter to what a layer puts out.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import BadInput
from expunge.models.classifiers import Classifier

STAGES = 3


class BasicBlock(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))), as in the paper: the sum comes before the activation."""

    def __init__(self, entering: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(entering, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.new = stride, width - entering

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, ceil(H / stride), ceil(W / stride)] for `x` [B, entering, H, W]."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Option A: subsampled, with half of the new channels of zeros before the old ones and half behind them."""
        if not self.new and self.stride == 1:
            return x
        before = self.new // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new - before))


class CifarResNet(Classifier):
    """Three stages of blocks, `width`, 2 `width` and 4 `width` channels wide; the features are their pixels' means."""

    def __init__(self, depth: int, channels: int, width: int, classes: int) -> None:
        super().__init__()
        blocks = _blocks_of(depth)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, 1, blocks)
        self.layer2 = _stage(width, 2 * width, 2, blocks)
        self.layer3 = _stage(2 * width, 4 * width, 2, blocks)
        self.head = nn.Linear(4 * width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations [B, 4 width]."""
        x = F.relu(self.bn1(self.conv1(x)))
        features: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return features.mean(dim=(2, 3))


def build_cifar_resnet(depth: int = 20, channels: int = 3, width: int = 16, classes: int = 10) -> CifarResNet:
    """A residual network of `depth` layers for images of any size.

    Args:
        depth: 6n + 2: 20, 32, 44, 56, 110.
        channels: of the images.
        width: channels of the first stage; 16 in the paper.
        classes: of the head.

    Raises:
        BadInput: the depth is none of these.
    """
    return CifarResNet(depth, channels, width, classes)


def build_resnet_20(channels: int = 3, width: int = 16, classes: int = 10) -> CifarResNet:
    """The one of 20 layers; arguments as above."""
    return CifarResNet(20, channels, width, classes)


def build_resnet_56(channels: int = 3, width: int = 16, classes: int = 10) -> CifarResNet:
    """The one of 56 layers; arguments as above."""
    return CifarResNet(56, channels, width, classes)


def _stage(entering: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    first = BasicBlock(entering, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))


def _blocks_of(depth: int) -> int:
    """Blocks per stage, of two layers each."""
    blocks, left = divmod(depth - 2, 2 * STAGES)
    if left or blocks < 1:
        raise BadInput(f"depth: {depth} layers are not 6n + 2", "use 20, 32, 44, 56 or 110")
    return blocks
