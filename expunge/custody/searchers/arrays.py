"""Arrays in NumPy's own form (`.npy`; an `.npz` is a zip archive of them), read row by row."""

import math
from collections.abc import Iterator

import numpy as np

from expunge.custody.contents import AT_ONCE, Content, Piece, Unread, Values, pieces_of


class Arrays:
    """The form is NumPy's NEP 1: a header with type, order and shape, then the values."""

    name, version = "NumPy arrays", 1
    finds = ".npy, and those inside of .npz"

    def knows(self, head: bytes, content: Content) -> bool:
        """By its magic string."""
        return head.startswith(b"\x93NUMPY")

    def look(self, content: Content) -> Iterator[Piece]:
        """The array's rows, a few MiB at a time."""
        with content.open() as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, in_columns, kind = read(stream)
            if kind.hasobject:
                yield Unread(content.name, "holds Python objects, which are not opened")
                return
            if in_columns or len(shape) < 2:
                data = content.read()[stream.tell():]
                array = np.frombuffer(data, kind, math.prod(shape)).reshape(shape, order="F" if in_columns else "C")
                yield from pieces_of(content.name, array)
                return
            row = kind.itemsize * math.prod(shape[1:])
            # An array that is small enough may be one image as a whole: it is not cut.
            at_once = shape[0] if row * shape[0] <= AT_ONCE else max(1, AT_ONCE // max(1, row))
            for first in range(0, shape[0], at_once):
                rows = min(at_once, shape[0] - first)
                data = stream.read(rows * row)
                if len(data) != rows * row:
                    raise ValueError("it ends too early")
                yield Values(content.name, np.frombuffer(data, kind).reshape(rows, *shape[1:]))
