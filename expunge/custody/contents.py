"""What a file opens into: pictures, numbers that may be pictures, tensors, and further contents inside of it."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from expunge.custody.wanted import Pixels

HEAD = 512  # bytes by which a kind is known
MOST_AT_ONCE = 256 * 2**20  # bytes of one value that is held in memory as a whole
AT_ONCE = 8 * 2**20  # bytes of a long row of values that are looked at together


@dataclass(frozen=True)
class Content:
    """Bytes that may hold something: a file, or what lies inside of one."""

    name: str  # inside of its file; empty for the file itself
    open: Callable[[], BinaryIO]
    size: int | None = None
    file: Path | None = None  # on this machine, of the file itself
    depth: int = 0

    @classmethod
    def of_bytes(cls, name: str, data: bytes, depth: int) -> "Content":
        """Bytes that are in memory already."""
        return cls(name, lambda: io.BytesIO(data), len(data), depth=depth)

    def inside(self, name: str) -> str:
        """What something inside of this is called."""
        return f"{self.name}/{name}" if self.name else name

    def head(self) -> bytes:
        """The first bytes."""
        with self.open() as stream:
            return stream.read(HEAD)

    def read(self) -> bytes:
        """All of it; TooLarge if that is more than may be held at once."""
        with self.open() as stream:
            data = stream.read(MOST_AT_ONCE + 1)
        if len(data) > MOST_AT_ONCE:
            raise TooLarge(f"one value has more than {MOST_AT_ONCE // 2**20} MiB")
        return data


@dataclass(frozen=True)
class Picture:
    """One picture [H, W, C], one or three channels."""

    name: str
    pixels: Pixels


@dataclass(frozen=True)
class Values:
    """Numbers of any shape that may be images, in any of the layouts in which people keep them."""

    name: str
    values: NDArray[np.generic]


@dataclass(frozen=True)
class Tensor:
    """A tensor by the digest of its type, shape and bytes."""

    name: str
    digest: bytes


@dataclass(frozen=True)
class Sealed:
    """Ciphertext under the key of the request itself."""

    name: str


@dataclass(frozen=True)
class Unread:
    """Something that could hold an image and could not be looked into."""

    name: str
    why: str


@dataclass(frozen=True)
class OfOther:
    """From here on, what is found lies in what somebody else's key seals."""

    owner: str  # whose
    content: Content


Piece: TypeAlias = "Content | Picture | Values | Tensor | Sealed | Unread | OfOther"


class TooLarge(Exception):
    """More than may be held in memory at once."""


class Searcher(Protocol):
    """Knows one kind of file and finds what is inside."""

    name: str
    version: int
    finds: str  # in words, for a receipt and for people

    def knows(self, head: bytes, content: Content) -> bool:
        """Whether the content is of this kind, by how it begins."""
        ...

    def look(self, content: Content) -> Iterator[Piece]:
        """What is in it, in pieces. May raise anything on a broken one: that is reported as unread."""
        ...


def pieces_of(name: str, values: NDArray[np.generic]) -> Iterator[Values]:
    """An array in parts that are small enough to be looked at together."""
    if values.ndim < 2 or values.nbytes <= AT_ONCE:
        yield Values(name, values)
        return
    rows = max(1, AT_ONCE // max(1, values[:1].nbytes))
    for first in range(0, len(values), rows):
        yield Values(name, values[first : first + rows])
