"""Tables of Apache Arrow: Parquet files, and the files and streams in which Arrow keeps them itself."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from expunge.custody.contents import Content, Piece, Values, pieces_of

_ROWS = 256
_STREAM = b"\xff\xff\xff\xff"


class Columns:
    """Every column, however deep: bytes are opened, lists of numbers are looked at as images."""

    name, version = "Parquet and Arrow tables", 1
    finds = "bytes in any column, lists of numbers, also inside of structs and lists"

    def knows(self, head: bytes, content: Content) -> bool:
        """By its first bytes; a stream's are few, and what follows is the length of its first message."""
        length = int.from_bytes(head[4:8], "little")
        return head.startswith((b"PAR1", b"ARROW1\0\0")) or (head.startswith(_STREAM) and 0 < length < 2**24)

    def look(self, content: Content) -> Iterator[Piece]:
        """Column by column, a few hundred rows at a time."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        head = content.head()
        with content.open() as stream:
            if head.startswith(b"PAR1"):
                batches = pq.ParquetFile(stream).iter_batches(batch_size=_ROWS)
            elif head.startswith(b"ARROW1"):
                reader = pa.ipc.open_file(stream)
                batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            else:
                batches = iter(pa.ipc.open_stream(stream))
            for batch in batches:
                for first in range(0, len(batch), _ROWS):
                    for name, column in zip(batch.schema.names, batch.columns, strict=True):
                        part = column.slice(first, _ROWS)
                        yield from _in_column(content.inside(name), part, content.depth)


def _in_column(name: str, column: Any, depth: int) -> Iterator[Piece]:
    import pyarrow as pa

    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        column, kind = column.storage, column.type.storage_type
    if pa.types.is_dictionary(kind):
        column = column.dictionary
        kind = column.type
    if pa.types.is_struct(kind):
        for field, part in zip(kind, column.flatten(), strict=True):
            yield from _in_column(f"{name}.{field.name}", part, depth)
    elif _is_bytes(kind):
        for row, cell in enumerate(column):
            if cell.is_valid:
                yield Content.of_bytes(f"{name}[{row}]", cell.as_buffer().to_pybytes(), depth + 1)
    elif _is_list(kind):
        if _is_number(_innermost(kind)):
            for cell in column:
                yield from _as_values(name, cell.as_py())
        else:
            yield from _in_column(name, column.flatten(), depth)


def _as_values(name: str, cell: Any) -> Iterator[Values]:
    try:
        values = np.asarray(cell)
    except ValueError:
        return  # lists of unequal length are no image
    if cell is not None and values.dtype.kind in "uifb" and values.size:
        yield from pieces_of(name, values)


def _innermost(kind: Any) -> Any:
    while _is_list(kind):
        kind = kind.value_type
    return kind


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return any(check(kind) for check in (
        pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_string,
        pa.types.is_large_string, pa.types.is_binary_view, pa.types.is_string_view))


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
