"""The form of MNIST: big-endian dimensions, then values (idx)."""

import math
from collections.abc import Iterator

import numpy as np

from expunge.custody.contents import AT_ONCE, Content, Piece, Values

_KINDS = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


class IdxFiles:
    """Rows of an idx file with two dimensions or more, a few MiB at a time."""

    name, version = "idx files", 1
    finds = "the form in which MNIST comes"

    def knows(self, head: bytes, content: Content) -> bool:
        """Two zero bytes, a type, the number of dimensions; and the size that these promise, where it is known."""
        if len(head) < 12 or head[:2] != b"\0\0" or head[2] not in _KINDS or not 2 <= head[3] <= 5:
            return False
        shape = _shape(head)
        size = 4 + 4 * len(shape) + math.prod(shape) * np.dtype(_KINDS[head[2]]).itemsize
        return content.size is None or content.size == size

    def look(self, content: Content) -> Iterator[Piece]:
        """The values, by rows."""
        head = content.head()
        shape, kind = _shape(head), np.dtype(_KINDS[head[2]])
        row = kind.itemsize * math.prod(shape[1:])
        rows = max(1, AT_ONCE // max(1, row))
        with content.open() as stream:
            stream.read(4 + 4 * len(shape))
            for first in range(0, shape[0], rows):
                count = min(rows, shape[0] - first)
                data = stream.read(count * row)
                if len(data) != count * row:
                    raise ValueError("it ends too early")
                yield Values(content.name, np.frombuffer(data, kind).reshape(count, *shape[1:]))


def _shape(head: bytes) -> tuple[int, ...]:
    return tuple(int(extent) for extent in np.frombuffer(head, ">u4", count=head[3], offset=4))
