"""Numbers as images: every layout and range of values in which people keep them."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_CHANNELS = (1, 3)
_SIDE = (8, 1024)  # pixels on a side, of numbers that are compared by their looks


def as_images(values: NDArray[np.generic], shapes: set[tuple[int, int]]) -> Iterator[NDArray[np.generic]]:
    """The values as images [N, H, W, C]: grey, channels first, channels last, and flattened ones of `shapes`."""
    shape = values.shape
    if values.ndim >= 2 and _may_be_image(shape[-2], shape[-1], shapes):
        yield values.reshape(-1, *shape[-2:], 1)
    if values.ndim >= 3 and shape[-3] == 3 and _may_be_image(shape[-2], shape[-1], shapes):
        yield np.moveaxis(values.reshape(-1, *shape[-3:]), 1, 3)
    if values.ndim >= 3 and shape[-1] in _CHANNELS and _may_be_image(shape[-3], shape[-2], shapes):
        yield values.reshape(-1, *shape[-3:])
    for height, width in shapes:
        for channels in _CHANNELS:
            # Numbers without a shape may be many images in a row: a PyTorch file says its shapes elsewhere.
            if values.ndim and (shape[-1] == (one := height * width * channels) or (
                    values.ndim == 1 and shape[0] % one == 0)):
                yield np.moveaxis(values.reshape(-1, channels, height, width), 1, 3)
                if channels > 1:
                    yield values.reshape(-1, height, width, channels)


def levels(images: NDArray[np.generic]) -> Iterator[NDArray[np.uint8]]:
    """Images [N, H, W, C] as levels from 0 to 255, for every range that their values can be meant in."""
    if images.dtype == np.uint8:
        yield images.astype(np.uint8)
        return
    if images.dtype == bool:
        yield images.astype(np.uint8) * np.uint8(255)
        return
    if not np.issubdtype(images.dtype, np.number) or np.issubdtype(images.dtype, np.complexfloating):
        return
    axes = (1, 2, 3)
    values = images.astype(np.float32)
    values[~np.isfinite(values)] = np.float32(1e9)  # such an image is none
    lowest, highest = values.min(axis=axes), values.max(axis=axes)
    if np.issubdtype(images.dtype, np.integer):
        yield from _within(values, (lowest >= 0) & (highest <= 255), 1, 0)
        wide = (lowest >= 0) & (highest > 255) & (highest <= 65535) & ((values % 257) == 0).all(axis=axes)
        yield from _within(values, wide, 1 / 257, 0)
        return
    yield from _within(values, (lowest >= -1.001) & (highest <= 1.001), 127.5, 127.5)
    yield from _within(values, (lowest >= 0) & (highest <= 1.001), 255, 0)
    yield from _within(values, (lowest >= 0) & (highest > 1.001) & (highest <= 255.5), 1, 0)


def _within(values: NDArray[np.float32], rows: NDArray[np.bool_], times: float,
            plus: float) -> Iterator[NDArray[np.uint8]]:
    if rows.any():
        yield np.clip(np.rint(values[rows] * np.float32(times) + np.float32(plus)), 0, 255).astype(np.uint8)


def _may_be_image(height: int, width: int, shapes: set[tuple[int, int]]) -> bool:
    low, high = _SIDE
    return (height, width) in shapes or (low <= height <= high and low <= width <= high)
