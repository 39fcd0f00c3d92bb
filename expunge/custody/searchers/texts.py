"""Pictures inside of texts: data URIs in web pages and notebooks, and long runs of base64 in JSON and the like."""

import base64
import binascii
import re
from collections.abc import Iterator

from expunge.custody.contents import Content, Piece

_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]|\\[nr]|[\r\n]){64,}={0,2}")
_BREAKS = re.compile(rb"\\[nr]|[\r\n]")
_PIECE = 64 * 2**20
_OVERLAP = 4 * 2**20  # bytes of a picture that may lie across two pieces


class Texts:
    """Runs of base64 are decoded, and what comes out is opened."""

    name, version = "texts", 1
    finds = "base64 in HTML, notebooks, JSON, CSV, logs"

    def knows(self, head: bytes, content: Content) -> bool:
        """Text has no zero byte, and few other control characters."""
        return bool(head) and b"\0" not in head and sum(byte < 9 or 13 < byte < 32 for byte in head) <= len(head) // 100

    def look(self, content: Content) -> Iterator[Piece]:
        """Run by run."""
        with content.open() as stream:
            text, at = stream.read(_PIECE), 0
            while text:
                for found in _BASE64.finditer(text):
                    yield from _decoded(content, found[0], at + found.start())
                more = stream.read(_PIECE)
                at += max(0, len(text) - _OVERLAP) if more else 0
                text = text[-_OVERLAP:] + more if more else b""


def _decoded(content: Content, run: bytes, at: int) -> Iterator[Content]:
    data = _BREAKS.sub(b"", run).rstrip(b"=")
    try:
        yield Content.of_bytes(content.inside(f"base64 at {at}"), base64.b64decode(
            data[: len(data) - (len(data) % 4 == 1)] + b"=" * (-len(data) % 4)), content.depth + 1)
    except binascii.Error:
        return
