"""Image files, through Pillow: every format that it reads without starting another program."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from expunge.custody.contents import Content, Picture, Piece, Unread, Values
from expunge.samples.formats import IMAGE_FORMATS

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = (*IMAGE_FORMATS, "AVIF", "JPEG2000", "ICO", "SGI", "DDS", "QOI")
MOST_FRAMES = 10_000
_SURE = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*", b"\x00\x00\x00\x0cjP  ",
         b"\xff\x4f\xff\x51", b"DDS ", b"qoif")
_PERHAPS = (b"BM", *(b"P%d" % kind for kind in range(1, 7)), b"\x00\x00\x01\x00", b"\x01\xda")


class ImageFiles:
    """Pictures, frame by frame, as they are stored and as they are meant to be looked at."""

    name, version = "image files", 1
    finds = "PNG, JPEG, GIF, BMP, TIFF, WebP, AVIF, JPEG 2000, PPM, ICO, SGI, DDS and QOI, every frame"

    def knows(self, head: bytes, content: Content) -> bool:
        """By its first bytes; some formats have so few that a text may begin alike."""
        return _is_sure(head) or head.startswith(_PERHAPS)

    def look(self, content: Content) -> Iterator[Piece]:
        """One picture per frame, and one more of each that is stored on its side."""
        from PIL import Image, ImageOps, UnidentifiedImageError

        with content.open() as stream:
            try:
                image = Image.open(stream, formats=FORMATS)
            except UnidentifiedImageError:
                if _is_sure(content.head()):
                    raise
                return  # it only begins like one
            frames = getattr(image, "n_frames", 1)
            for frame in range(min(frames, MOST_FRAMES)):
                if frames > 1:
                    image.seek(frame)
                yield from _pictures(content.name, image)
            if frames == 1 and image.getexif().get(0x0112, 1) != 1:
                yield from _pictures(content.name, ImageOps.exif_transpose(image))
            if frames > MOST_FRAMES:
                yield Unread(content.name, f"has {frames:,} frames, of which {MOST_FRAMES:,} were looked at")


def _is_sure(head: bytes) -> bool:
    return (head.startswith(_SURE) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
            or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1")))


def _pictures(name: str, image: "Image") -> Iterator[Piece]:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        yield Values(name, values.astype(np.int64) if values.dtype.kind in "ui" else values)
        return
    grey = image.mode in ("1", "L", "LA", "La")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    yield Picture(name, pixels[..., None] if grey else pixels)
