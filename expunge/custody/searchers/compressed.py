"""Single files that were compressed: gzip, bzip2, xz, and the loose objects of Git (zlib)."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from expunge.custody.contents import MOST_AT_ONCE, Content, Piece, TooLarge

_OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b\x08": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_GIT = (b"blob ", b"tree ", b"commit ", b"tag ")


class CompressedFiles:
    """What is inside, as a stream."""

    name, version = "compressed files", 1
    finds = ".gz, .bz2, .xz and loose Git objects"

    def knows(self, head: bytes, content: Content) -> bool:
        """By the first bytes; of a Git object, by what they say when decompressed."""
        return any(map(head.startswith, _OPENERS)) or _is_git(head)

    def look(self, content: Content) -> Iterator[Piece]:
        """The one content."""
        head = content.head()
        if _is_git(head):
            yield Content.of_bytes(content.inside("object"), _git_object(content.read()), content.depth + 1)
            return
        opener = next(found for magic, found in _OPENERS.items() if head.startswith(magic))

        def opened() -> BinaryIO:
            made: BinaryIO = opener(content.open())
            return made

        with opened() as stream:
            stream.read(1)  # a broken one is said to be broken here
        yield Content(content.inside("decompressed"), opened, depth=content.depth + 1)


def _is_git(head: bytes) -> bool:
    if head[:1] != b"\x78":
        return False
    try:
        return zlib.decompressobj().decompress(head, 8).startswith(_GIT)
    except zlib.error:
        return False


def _git_object(data: bytes) -> bytes:
    unpacked = zlib.decompressobj().decompress(data, MOST_AT_ONCE + 1)
    if len(unpacked) > MOST_AT_ONCE:
        raise TooLarge("a Git object is too large")
    stream = io.BytesIO(unpacked)
    while stream.read(1) not in (b"\0", b""):
        pass
    return stream.read()
