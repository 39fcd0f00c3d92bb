"""Archives: zip (also `.npz`, and what PyTorch and office programs write) and tar."""

import tarfile
import zipfile
from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np

from expunge.custody.contents import MOST_AT_ONCE, Content, Piece, Unread, Values

_ENCRYPTED = 1


class ZipArchives:
    """Every member. The numbers of a PyTorch file are looked at without its pickle, which says their shapes."""

    name, version = "zip archives", 1
    finds = "members of .zip, .npz and .pt"

    def knows(self, head: bytes, content: Content) -> bool:
        """By the header of a first member, or of an empty archive."""
        return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))

    def look(self, content: Content) -> Iterator[Piece]:
        """Member by member, each a stream: no member is in memory as a whole because of this."""
        with content.open() as stream, zipfile.ZipFile(stream) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            from_torch = any(member.filename.endswith("/data.pkl") for member in members)
            for member in members:
                name = content.inside(member.filename)
                if member.flag_bits & _ENCRYPTED:
                    yield Unread(name, "is encrypted")
                    continue
                if from_torch and "/data/" in member.filename:
                    yield from _storage(name, archive, member)
                    continue
                if from_torch and member.filename.endswith("/data.pkl"):
                    continue  # it holds names and shapes

                def opened(member: zipfile.ZipInfo = member) -> BinaryIO:
                    return cast(BinaryIO, archive.open(member))

                yield Content(name, opened, member.file_size, depth=content.depth + 1)


def _storage(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[Piece]:
    """A tensor's bytes, as the types that images are kept in."""
    if member.file_size > MOST_AT_ONCE:
        yield Unread(name, f"has {member.file_size:,} bytes")
        return
    data = archive.read(member)
    for kind in (np.uint8, np.float32, np.float16, np.int64):
        if data and len(data) % np.dtype(kind).itemsize == 0:
            yield Values(name, np.frombuffer(data, kind))


class TarArchives:
    """Every member of a tar archive, as WebDataset keeps images."""

    name, version = "tar archives", 1
    finds = "members of .tar"

    def knows(self, head: bytes, content: Content) -> bool:
        """By the magic string in the header of the first member."""
        return head[257:262] == b"ustar"

    def look(self, content: Content) -> Iterator[Piece]:
        """Member by member."""
        with content.open() as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue

                def opened(member: tarfile.TarInfo = member) -> BinaryIO:
                    return cast(BinaryIO, archive.extractfile(member))

                yield Content(content.inside(member.name), opened, member.size, depth=content.depth + 1)
