"""What is looked for: the images of a request, known by their pixels, and the tensors that a method learned from them.

Three ways to know an image again, from the strict to the vague:

*copy*: the same pixels. Both are brought to one form first: eight bits, grey as one channel even where a file repeats
it in three, opacity left aside, an image whose pixels were only repeated (enlarged without blending) made small again.
So any lossless re-encoding is a copy: another container, compression, number of channels, range of values or type.

*part*: the same pixels somewhere inside a larger picture, such as a sheet of samples. Sums over every window of the
image's size (of values, of their squares, and weighted by row and by column) are compared with the image's own; what
agrees in all four is compared pixel by pixel. Exact, at any position.

*looks like*: our reading of a robust fingerprint. Averages over 8×8 equal areas of the grey image, brought to mean 0
and length 1; a picture looks like an image if the two agree to a cosine of `LOOKS_LIKE` or more, of either sign, so
that a negative is known as well. It finds copies that lost something: JPEG, another size, another contrast. It also
finds pictures that merely look alike, so nothing is removed by it: a person looks. `benchmarks/disposal.py` measures
both.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

LOOKS_LIKE = 0.985
_AREAS = 8
_FLAT = 2.0  # levels: with a smaller standard deviation over its areas an image has nothing to be known by
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's
_MIXED = np.array([3, 5, 7], np.int64)  # one number per pixel that differs where a channel does
_ROWS = 256  # of a picture whose windows are summed at once
_MANY = 8192  # signatures that are compared at once
_VALUES = 2**22  # of images whose areas are averaged at once
_ENLARGED = range(2, 9)
_TELLING = 64  # values that a tensor must have at least, to be known by them


@dataclass
class Wanted:
    """Images by the digest of their pixels and by their signature, tensors by theirs. No pixel is kept."""

    shapes: set[tuple[int, int]] = field(default_factory=set)  # height, width
    images: dict[bytes, int] = field(default_factory=dict)  # digest -> number
    tensors: set[bytes] = field(default_factory=set)
    _signatures: list[NDArray[np.float32]] = field(default_factory=list)
    _windows: dict[tuple[int, int], dict[int, int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def add(self, pixels: Pixels) -> None:
        """Takes in images [N, C, H, W] with one or three channels."""
        for first in range(0, len(pixels), 1024):
            batch = pixels[first : first + 1024].transpose(0, 2, 3, 1)
            for image in batch:
                self.images.setdefault(digest(image), len(self.images))
                plane = _plane(canonical(image))
                sums = _window_sums(plane, *plane.shape)
                self._windows.setdefault(plane.shape, {}).setdefault(int(sums[0, 0]), 1)
            self.shapes.add(batch.shape[1:3])
            found, _ = signatures(batch)
            self._signatures.append(found)

    def copies(self, images: Pixels) -> NDArray[np.bool_]:
        """Which of images [N, H, W, C] are copies."""
        if images.shape[1:3] not in self.shapes:
            return np.zeros(len(images), bool)
        return np.fromiter((digest(image) in self.images for image in images), bool, len(images))

    def looks_like(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        """The best cosine of images [N, H, W, C] with any that is wanted; 0 for one with nothing to be known by."""
        mine, telling = signatures(images)
        best = np.zeros(len(mine), np.float32)
        for known in self._signatures:
            for first in range(0, len(known), _MANY):
                best = np.maximum(best, np.abs(mine @ known[first : first + _MANY].T).max(axis=1, initial=0))
        return np.where(telling, best, 0).astype(np.float32)

    def parts(self, picture: Pixels) -> int:
        """How many of the wanted images stand inside a larger picture [H, W, C], each counted once."""
        found: set[bytes] = set()
        rows, columns = picture.shape[:2]
        for (height, width), windows in self._windows.items():
            if rows < height or columns < width or (rows, columns) == (height, width):
                continue
            wanted = np.fromiter(windows, np.int64, len(windows))
            for top in range(0, rows - height + 1, _ROWS):
                band = _plane(picture[top : top + _ROWS + height - 1])
                for row, column in zip(*np.isin(_window_sums(band, height, width), wanted).nonzero(), strict=True):
                    at = digest(picture[top + row : top + row + height, column : column + width])
                    if at in self.images:
                        found.add(at)
        return len(found)


def canonical(image: Pixels) -> Pixels:
    """An image [H, W, C] in the one form that digests are taken of: grey in one channel, whatever it came in."""
    if image.shape[2] == 3 and (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all():
        return image[..., :1]
    return image


def digest(image: Pixels) -> bytes:
    """SHA-256 of an image's form and pixels; it stays in memory."""
    image = canonical(image)
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def tensor_digest(kind: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """SHA-256 of a tensor's type, shape and bytes."""
    return hashlib.sha256(f"{kind} {shape} ".encode() + data).digest()


def is_telling(count: int, data: bytes) -> bool:
    """Whether a tensor can be known by its values: not a handful of them, nor all the same."""
    return count >= _TELLING and len(set(data[: 64 * 1024])) > 4


def signatures(images: NDArray[np.generic]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Signatures [N, 64] of images [N, H, W, C], and which of them tell anything."""
    number, rows, columns, channels = images.shape
    across, down = _areas(rows), _areas(columns)
    at_once = max(1, _VALUES // max(1, number * columns * channels))
    areas = np.zeros((number, _AREAS, columns), np.float32)
    lowest, highest = np.full(number, np.inf, np.float32), np.full(number, -np.inf, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what was never an image may hold any number
        for first in range(0, rows, at_once):
            band = images[:, first : first + at_once].astype(np.float32)
            grey = band[..., 0] if channels == 1 else band @ _GREY
            areas += across[:, first : first + at_once] @ grey
            lowest, highest = np.minimum(lowest, grey.min(axis=(1, 2))), np.maximum(highest, grey.max(axis=(1, 2)))
        flat = (areas @ down.T).reshape(number, _AREAS * _AREAS)
        flat = flat - flat.mean(axis=1, keepdims=True)
        length = np.linalg.norm(flat, axis=1, keepdims=True)
        # Values need not be levels: then an image's own range stands for all 255.
        span = 255 if images.dtype == np.uint8 else highest - lowest
    telling = np.isfinite(length[:, 0]) & (length[:, 0] > _FLAT / 255 * span * _AREAS)
    safe = np.where(telling[:, None], length, 1)
    return np.where(telling[:, None], flat / safe, 0).astype(np.float32), telling


def reduced(picture: Pixels) -> Iterator[Pixels]:
    """The picture before its pixels were repeated, for every whole number of times that they may have been."""
    for times in _ENLARGED:
        small = picture[::times, ::times]
        if picture.shape[0] % times == 0 and picture.shape[1] % times == 0 and all(
                np.array_equal(picture[row::times, column::times], small)
                for row in range(times) for column in range(times)):
            yield small


def _areas(size: int) -> NDArray[np.float32]:
    """[8, size]: each row averages over one of eight equal parts of `size` pixels, cut ones by their share."""
    edges = np.linspace(0, size, _AREAS + 1)
    pixel = np.arange(size)
    share = np.clip(np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel), 0, None)
    return np.asarray(share / share.sum(axis=1, keepdims=True), np.float32)


def _plane(image: Pixels) -> NDArray[np.int64]:
    """[H, W]: one number per pixel, the same for grey in one channel and in three."""
    wide = image.astype(np.int64)
    return wide[..., 0] * int(_MIXED.sum()) if image.shape[2] == 1 else wide @ _MIXED


def _window_sums(plane: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    """One number for each window of that size: its four sums, mixed. It may overflow: equal sums give equal numbers."""
    rows, columns = np.arange(plane.shape[0])[:, None], np.arange(plane.shape[1])[None]
    total, squares = _sums(plane, height, width), _sums(plane * plane, height, width)
    by_row = _sums(plane * rows, height, width) - rows[: total.shape[0]] * total
    by_column = _sums(plane * columns, height, width) - columns[:, : total.shape[1]] * total
    mixed = total
    for more in (squares, by_row, by_column):
        mixed = (mixed * np.int64(-7046029254386353131)) ^ more
    return mixed


def _sums(values: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    whole = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.int64)
    values.cumsum(axis=0).cumsum(axis=1, out=whole[1:, 1:])
    return whole[height:, width:] - whole[:-height, width:] - whole[height:, :-width] + whole[:-height, :-width]
