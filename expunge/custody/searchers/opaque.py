"""Kinds of file that may hold images and are not opened: they are named, not passed over."""

from collections.abc import Iterator

from expunge.custody.contents import Content, Piece, Unread

_KINDS = {
    b"\x89HDF\r\n\x1a\n": "HDF5", b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!\x1a\x07": "a rar archive",
    b"\x28\xb5\x2f\xfd": "Zstandard", b"\x04\x22\x4d\x18": "LZ4", b"%PDF-": "a PDF", b"PACK\0\0\0": "a Git pack",
    b"\x1a\x45\xdf\xa3": "a video", b"OggS": "a video", b"\xde\xc0\xef\xbe": "LMDB",
    **{bytes([0x80, version]): "a Python pickle, which could run code" for version in range(2, 6)},
}


class OpaqueFiles:
    """Knows them by their first bytes, and says so."""

    name, version = "files that are not opened", 1
    finds = "nothing: it says where nothing could be found"

    def knows(self, head: bytes, content: Content) -> bool:
        """By the first bytes."""
        return any(map(head.startswith, _KINDS)) or (head[4:8] == b"ftyp" and head[8:11] not in (b"avi", b"mif"))

    def look(self, content: Content) -> Iterator[Piece]:
        """That it is not looked into."""
        head = content.head()
        kind = next((kind for magic, kind in _KINDS.items() if head.startswith(magic)), "a video")
        yield Unread(content.name, f"is {kind}")
