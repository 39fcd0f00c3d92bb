"""Filters that smooth, and sampling up and down through them: insert zeros, pad, convolve, keep every n-th.

Sampling without a filter folds fine detail into coarse (aliasing). StyleGAN2 filters with the outer product of
[1, 3, 3, 1] with itself wherever a resolution changes (Karras et al. 2020, section 2.1 and appendix B). A filter is
the same for every channel, hence a depthwise convolution, which was many times faster on a processor than folding
channels into the batch. Kernels are buffers: a checkpoint brings its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TAPS = (1.0, 3.0, 3.0, 1.0)


def filter_of(taps: Sequence[float], gain: float = 1.0) -> Tensor:
    """The kernel [n, n]: outer product of the taps with themselves, of sum `gain`."""
    line = torch.tensor(taps, dtype=torch.float32)
    kernel = torch.outer(line, line)
    return kernel * (gain / kernel.sum())


class Smooth(nn.Module):
    """Pads, filters, and keeps every `step`-th row and column of images [B, C, H, W]."""

    kernel: Tensor

    def __init__(self, pad: tuple[int, int], gain: float = 1.0, step: int = 1) -> None:
        super().__init__()
        self.register_buffer("kernel", filter_of(TAPS, gain))
        self.pad, self.step = pad, step

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H', W'], H' = floor((H + sum(pad) - n) / step) + 1 for a kernel of n."""
        channels = x.shape[1]
        kernel = self.kernel.flip(0, 1).expand(channels, 1, -1, -1)  # conv2d correlates, a filter convolves
        if self.pad[0] == self.pad[1]:
            return F.conv2d(x, kernel, stride=self.step, padding=self.pad[0], groups=channels)
        return F.conv2d(F.pad(x, 2 * self.pad), kernel, stride=self.step, groups=channels)


class Enlarge(nn.Module):
    """Images [B, C, H, W] at twice the side: zeros between the pixels, filtered at a gain that keeps the brightness."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", filter_of(TAPS, gain=4.0))

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, 2H, 2W]."""
        channels, margin = x.shape[1], len(self.kernel) // 2 - 1
        kernel = self.kernel.expand(channels, 1, -1, -1)
        return F.conv_transpose2d(x, kernel, stride=2, padding=margin, groups=channels)
