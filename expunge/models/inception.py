"""InceptionV3 as the Frechet inception distance was defined on: the TensorFlow graph of 5 December 2015.

The network is that of Szegedy et al. 2016, "Rethinking the Inception architecture", figures 5 to 7. The graph that
Heusel et al. 2017 measured with differs from it, and so does this module:

- average pooling inside a block leaves padded pixels out of the average;
- the last block pools by maximum, not by average;
- there are 1008 outputs, some without a class, and no auxiliary classifier;
- images are resized to 299 x 299 as TensorFlow 1 did it, see `resized`, and a pixel p of 0 to 255 enters as
  (p - 128) / 128.

Tensors are called as in the public weights file `pt_inception-2015-12-05-6726825d.pth` (that of pytorch-fid and of
torch-fidelity), which is read as it is. Our reading: pixels are not rounded to whole numbers first, as tools do that
measure image files; what a generator drew is measured as it drew it, and a gradient can pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import BadInput
from expunge.models.classifiers import Classifier

SIZE = 299  # pixels, either way
FEATURES, CLASSES = 2048, 1008
AT_ONCE = 16  # images: the widest layers take some 16 MB for each
POOL = "branch_pool"

Layer = tuple[int, int | tuple[int, int]]
"""Channels that a convolution puts out, and its kernel: rows and columns, or the side of a square."""
Branches = Mapping[str, tuple[tuple[Layer, ...], ...]]
"""Steps of each branch, one after the other. A step of two layers splits: each gets the same, and both go on."""


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, layer: Layer, stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        outputs, kernel = layer
        rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (rows // 2, columns // 2) if padded else 0
        self.conv = nn.Conv2d(inputs, outputs, (rows, columns), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H', W']."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Branches side by side, their outputs stacked by channel; one of them may begin with pooling.

    `pool` says what it begins with. With `halves` each branch ends with a stride of two, without padding, and the
    input's maxima are stacked below.
    """

    def __init__(self, inputs: int, branches: Branches, pool: Literal["mean", "max"] = "mean",
                 halves: bool = False) -> None:
        super().__init__()
        self._pool, self._halves = pool, halves
        self._steps: dict[str, list[list[str]]] = {}
        for branch, steps in branches.items():
            width, self._steps[branch] = inputs, []
            for number, layers in enumerate(steps, 1):
                last = halves and number == len(steps)
                names = [f"{branch}{f'_{number}' if len(steps) > 1 else ''}{part}"
                         for part in ("ab" if len(layers) > 1 else ("",))]
                for name, layer in zip(names, layers, strict=True):
                    self.add_module(name, Unit(width, layer, stride=2 if last else 1, padded=not last))
                self._steps[branch].append(names)
                width = sum(outputs for outputs, _ in layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H', W']."""
        found = []
        for branch, steps in self._steps.items():
            h = self._pooled(x) if branch == POOL else x
            for names in steps:
                parts = [self.get_submodule(name)(h) for name in names]
                h = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            found.append(h)
        if self._halves:
            found.append(F.max_pool2d(x, 3, stride=2))
        return torch.cat(found, dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self._pool == "max":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _fine(pooled: int) -> Branches:
    """35 x 35 (figure 5)."""
    return {"branch1x1": (((64, 1),),), "branch5x5": (((48, 1),), ((64, 5),)),
            "branch3x3dbl": (((64, 1),), ((96, 3),), ((96, 3),)), POOL: (((pooled, 1),),)}


def _middle(width: int) -> Branches:
    """17 x 17, sevens taken apart into rows and columns (figure 6)."""
    row, column = (1, 7), (7, 1)
    return {"branch1x1": (((192, 1),),), "branch7x7": (((width, 1),), ((width, row),), ((192, column),)),
            "branch7x7dbl": (((width, 1),), ((width, column),), ((width, row),), ((width, column),), ((192, row),)),
            POOL: (((192, 1),),)}


_COARSE: Branches = {  # 8 x 8, threes side by side as a row and a column (figure 7)
    "branch1x1": (((320, 1),),), "branch3x3": (((384, 1),), ((384, (1, 3)), (384, (3, 1)))),
    "branch3x3dbl": (((448, 1),), ((384, 3),), ((384, (1, 3)), (384, (3, 1)))), POOL: (((192, 1),),)}
_TO_MIDDLE: Branches = {"branch3x3": (((384, 3),),), "branch3x3dbl": (((64, 1),), ((96, 3),), ((96, 3),))}
_TO_COARSE: Branches = {"branch3x3": (((192, 1),), ((320, 3),)),
                        "branch7x7x3": (((192, 1),), ((192, (1, 7)),), ((192, (7, 1)),), ((192, 3),))}


class InceptionV3(Classifier):
    """Images of any size, grey or of three colours, to 2048 features and 1008 logits.

    In evaluation a batch is looked at few images at a time, so that memory does not grow with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, (32, 3), stride=2, padded=False)
        self.Conv2d_2a_3x3 = Unit(32, (32, 3), padded=False)
        self.Conv2d_2b_3x3 = Unit(32, (64, 3))
        self.Conv2d_3b_1x1 = Unit(64, (80, 1))
        self.Conv2d_4a_3x3 = Unit(80, (192, 3), padded=False)
        self.Mixed_5b = Mixed(192, _fine(32))
        self.Mixed_5c = Mixed(256, _fine(64))
        self.Mixed_5d = Mixed(288, _fine(64))
        self.Mixed_6a = Mixed(288, _TO_MIDDLE, halves=True)
        self.Mixed_6b = Mixed(768, _middle(128))
        self.Mixed_6c = Mixed(768, _middle(160))
        self.Mixed_6d = Mixed(768, _middle(160))
        self.Mixed_6e = Mixed(768, _middle(192))
        self.Mixed_7a = Mixed(768, _TO_COARSE, halves=True)
        self.Mixed_7b = Mixed(1280, _COARSE)
        self.Mixed_7c = Mixed(2048, _COARSE, pool="max")
        self.fc = nn.Linear(FEATURES, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """The last pooling's output [B, 2048]. BadInput for images of other than one or three channels."""
        if x.shape[1] not in (1, 3):
            raise BadInput(f"images have {x.shape[1]} channels, inception-v3 looks at 1 or 3", "use another extractor")
        parts = (x,) if self.training else x.split(AT_ONCE)
        return torch.cat([self._pooled(part) for part in parts])

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, 2048] and logits [B, 1008] from one pass."""
        features = self.features(x)
        return features, self.fc(features)

    def _pooled(self, x: Tensor) -> Tensor:
        x = (resized((x.expand(-1, 3, -1, -1) + 1) * 127.5) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        for block in (self.Mixed_5b, self.Mixed_5c, self.Mixed_5d, self.Mixed_6a, self.Mixed_6b, self.Mixed_6c,
                      self.Mixed_6d, self.Mixed_6e, self.Mixed_7a, self.Mixed_7b, self.Mixed_7c):
            x = block(x)
        return x.mean(dim=(2, 3))


def resized(x: Tensor) -> Tensor:
    """Images [B, C, H, W] as [B, C, 299, 299], bilinear as in TensorFlow 1 without aligned corners.

    Pixel i of the result lies at i H / 299 of the image: the first pixels' corners meet, not their centres, and
    beyond the last pixel it is repeated. Today's interpolation lays centres on each other and gives another FID.
    """
    for axis in (3, 2):
        length = x.shape[axis]
        at = torch.arange(SIZE, dtype=torch.float32, device=x.device) * (length / SIZE)
        before = at.long()
        lower = x.index_select(axis, before)
        upper = x.index_select(axis, (before + 1).clamp_max(length - 1))
        x = lower + (upper - lower) * (at - before).view(-1, *(1,) * (3 - axis))
    return x


def build_inception_v3() -> InceptionV3:
    """The network without its weights: nothing can be measured with it before they are loaded."""
    return InceptionV3()
