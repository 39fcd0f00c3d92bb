"""Arrays as Arrow's own, without pandas: `pyarrow.array` imports it before anything else, which takes half a second."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pyarrow as pa

_PART = 2**30  # bytes; offsets have 32 bits
_NUMPY = {"float": "float32", "double": "float64", "string": "object", "bool": "bool",
          **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}}


def column(values: ArrayLike) -> "pa.Array":
    """What `pyarrow.array` makes of numbers, truth values or words [N], to the bit."""
    import pyarrow as pa

    found = np.ascontiguousarray(values)
    if found.dtype.kind == "U":
        return _of_bytes([word.encode() for word in found.tolist()], pa.string())
    if found.ndim != 1 or found.dtype.kind not in "biuf":
        return pa.array(values)
    held = np.packbits(found, bitorder="little") if found.dtype.kind == "b" else found
    return pa.Array.from_buffers(pa.from_numpy_dtype(found.dtype), len(found), [None, pa.py_buffer(held)])


def array(held: "pa.ChunkedArray") -> NDArray[Any]:
    """What the `to_numpy` of a column gives, which only of other kinds than `column` makes is left to it."""
    kind = _NUMPY.get(str(held.type))
    return np.asarray(held.to_numpy() if kind is None or held.null_count else np.asarray(held.to_pylist(), kind))


def files(contents: Sequence[bytes]) -> "pa.ChunkedArray":
    """Cells {bytes, path: null}, as `pyarrow.array` makes them: in parts, for one holds at most 2 GiB."""
    import pyarrow as pa

    part = np.cumsum([len(content) for content in contents], dtype=np.int64) // _PART
    starts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(contents)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.chunked_array([
        pa.StructArray.from_arrays(
            [_of_bytes(contents[start:end], pa.binary()), pa.nulls(end - start, pa.string())], fields=list(kind))
        for start, end in pairwise(starts)], kind)


def _of_bytes(values: Sequence[bytes], kind: "pa.DataType") -> "pa.Array":
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))])
