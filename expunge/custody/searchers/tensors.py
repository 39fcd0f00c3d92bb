"""Weights in the form of safetensors: adapted models by the digests of their tensors, and tensors that are images."""

import json
import math
from collections.abc import Iterator

import numpy as np

from expunge.custody.contents import MOST_AT_ONCE, Content, Piece, Tensor, Unread, pieces_of
from expunge.custody.wanted import is_telling, tensor_digest

_KINDS = {"U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8",
          "BOOL": "?"}
_LONGEST_HEADER = 100 * 2**20  # what the format allows


class SafetensorsFiles:
    """The form is https://github.com/huggingface/safetensors: a length, a JSON header, then the tensors' bytes."""

    name, version = "safetensors", 1
    finds = "weights that a method adapted, tensor by tensor, and tensors that hold images"

    def knows(self, head: bytes, content: Content) -> bool:
        """By the header's length and its first characters."""
        length = int.from_bytes(head[:8], "little")
        return 2 <= length <= _LONGEST_HEADER and head[8:10] in (b'{"', b"{}")

    def look(self, content: Content) -> Iterator[Piece]:
        """Tensor by tensor, in the order of the file."""
        with content.open() as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            header.pop("__metadata__", None)
            at = 0
            for name, said in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                first, last = said["data_offsets"]
                if first < at or last - first > MOST_AT_ONCE:
                    yield Unread(content.inside(name), f"has {last - first:,} bytes, or they overlap with another's")
                    stream.seek(last - at, 1)
                    at = last
                    continue
                stream.read(first - at)
                data = stream.read(last - first)
                at = last
                if len(data) != last - first:
                    raise ValueError("it ends too early")
                kind, shape = said["dtype"], tuple(said["shape"])
                if is_telling(math.prod(shape), data):
                    yield Tensor(content.inside(name), tensor_digest(kind, shape, data))
                if kind in _KINDS and len(shape) >= 2:
                    yield from pieces_of(content.inside(name), np.frombuffer(data, _KINDS[kind]).reshape(shape))
