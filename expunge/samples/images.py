"""Labelled images of one's own, read from one path: decoded one by one, checked, brought to one form.

Nothing is bent silently. An image that needs a decision (transparency, more than eight bits, CMYK, several
frames) is refused with the reason, and images of mixed size or mode are an error until somebody says which.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from expunge.contracts import shorten
from expunge.errors import BadInput
from expunge.samples.formats import IMAGE_FORMATS, Entry, Skipped, Unreadable, list_images, refuse_if_too_large
from expunge.samples.table import SampleTable, from_pixels

if TYPE_CHECKING:
    from PIL.Image import Image

Channels = Literal[1, 3]
_Shape = tuple[int, ...]  # channels, height, width

_GREY = frozenset({"1", "L", "LA", "La"})
_COLOUR = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "YCbCr"})


@dataclass(frozen=True)
class LabelledImages:
    """Images of one form with their labels."""

    table: SampleTable  # labels index `classes`, or are plain numbers if that is empty
    classes: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    places: tuple[str, ...] = ()  # where each image was: a file, a line or a row
    files: tuple[str, ...] = ()  # what each image's file is called in the set; empty where it has none


def read_images(path: Path, *, size: int | None = None, channels: Channels | None = None, bits: int | None = None,
                strict: bool, watch: Callable[[int, int], None] = lambda done, total: None) -> LabelledImages:
    """Reads the labelled images at `path`, in any of the forms of `expunge.samples.formats`.

    Args:
        path: A folder or a file.
        size: Height and width in pixels: the shorter side is resized to it, antialiased, then the centre is cut out.
        channels: 1 converts to grey, 3 to RGB.
        bits: 1 to 8: the lower bits of the eight are cut off, and what is left is spread over the whole range.
        strict: Whether an image that cannot be used is an error, or is left out and listed.
        watch: Called with how many entries are done, and of how many.

    Raises:
        BadInput: nothing there can be used, or something cannot and `strict` is set, or the images have no one form.
    """
    from PIL import Image

    listing = list_images(path)
    pixels: NDArray[np.uint8] | None = None
    labels: list[int] = []
    places: list[str] = []
    files: list[str] = []
    skipped: list[Skipped] = []
    forms: Counter[_Shape] = Counter()
    firsts: dict[_Shape, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow has to say of tags and profiles
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for done, entry in enumerate(listing.entries, 1):
            found = entry if isinstance(entry, Skipped) else _decode(entry, size, channels)
            if isinstance(entry, Skipped) or isinstance(found, Skipped):
                skipped.append(cast(Skipped, found))
            else:
                if pixels is None:
                    refuse_if_too_large(path, listing.total, found.shape)
                    pixels = np.empty((listing.total, *found.shape), np.uint8)
                forms[found.shape] += 1
                firsts.setdefault(found.shape, entry.where)
                if found.shape == pixels.shape[1:]:
                    pixels[len(labels)] = found
                    labels.append(entry.label)
                    places.append(entry.where)
                    files.append(entry.file)
            watch(done, listing.total)
    if pixels is None:
        raise BadInput(f"{shorten(str(path))}: holds no image that can be used{_examples(skipped)}",
                       "see docs/samples.md for the forms that can be read")
    if strict and skipped:
        raise BadInput(f"{shorten(str(path))}: {len(skipped):,} of {listing.total:,} images cannot be used"
                       f"{_examples(skipped)}",
                       "repair or remove them; 'expunge samples import NAME PATH' leaves them out and lists them")
    if len(forms) > 1:
        raise _mixed(path, forms, firsts)
    table = SampleTable(from_pixels(_of_depth(pixels[: len(labels)], bits)), np.asarray(labels, np.int64))
    return LabelledImages(table, listing.classes, tuple(skipped), tuple(places), tuple(files))


def _examples(skipped: Sequence[Skipped]) -> str:
    shown = "; ".join(f"{one.where} {one.why}" for one in skipped[:3])
    return f": {shown}" + ("; …" if len(skipped) > 3 else "") if shown else ""


def _mixed(path: Path, forms: Counter[_Shape], firsts: dict[_Shape, str]) -> BadInput:
    (usual, count), total = forms.most_common(1)[0], forms.total()
    odd = next(form for form in firsts if form != usual)
    remedy = f" --size {min(usual[1:])}" * (len({form[1:] for form in forms}) > 1)
    remedy += f" --channels {usual[0]}" * (len({form[0] for form in forms}) > 1)
    return BadInput(
        f"{shorten(str(path))}: mixed images: {firsts[odd]} is {_words(odd)}, "
        f"{count:,} of {total:,} are {_words(usual)}",
        f"bring them to one form: 'expunge samples import NAME PATH{remedy}'")


def _words(form: _Shape) -> str:
    return f"{form[2]}×{form[1]} {'grey' if form[0] == 1 else 'colour'}"


def _decode(entry: Entry, size: int | None, channels: Channels | None) -> NDArray[np.uint8] | Skipped:
    """One image as [C, H, W], or why not. Whatever a broken file leads Pillow into is a reason, not a crash."""
    from PIL import Image, UnidentifiedImageError

    try:
        with entry.open() as image:
            return _pixels(image, size, channels)
    except Unreadable as error:
        why = str(error)
    except UnidentifiedImageError:
        why = f"is no image of a known kind ({', '.join(IMAGE_FORMATS)}), or its header is broken"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        why = f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    except OSError as error:
        why = f"cannot be read ({shorten(error.strerror or str(error), 100)})"
    except Exception as error:  # noqa: BLE001 - decoders raise anything on broken data
        why = f"is broken ({shorten(str(error), 100)})"
    return Skipped(entry.where, why)


def _pixels(image: "Image", size: int | None, channels: Channels | None) -> NDArray[np.uint8]:
    from PIL import ExifTags, Image, ImageOps

    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a photograph with its own preview
        raise Unreadable(f"has {frames} frames or pages: take out one")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)  # upright, as people and the camera meant it
    if image.mode.startswith(("I", "F")):
        raise Unreadable("has more than 8 bits per pixel: reduce it to 8")
    if image.has_transparency_data and _lowest_alpha(image) < 255:
        raise Unreadable("has transparent pixels: put it on a background")
    if channels is None and image.mode not in _GREY | _COLOUR:
        raise Unreadable(f"is {image.mode}, neither grey nor RGB: convert it, or import it with --channels 3")
    if image.mode not in _GREY and image.mode != "RGB":
        image = image.convert("RGB")
    image = image.convert("L" if (channels or (1 if image.mode in _GREY else 3)) == 1 else "RGB")
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _of_depth(pixels: NDArray[np.uint8], bits: int | None) -> NDArray[np.uint8]:
    """Pixels [N, C, H, W] with 2^bits levels, from 0 to 255 as before."""
    if bits is None:
        return pixels
    levels = np.arange(256) >> (8 - bits)
    return np.rint(levels * (255 / (2**bits - 1))).astype(np.uint8)[pixels]


def _lowest_alpha(image: "Image") -> int:
    lowest: Any = image.convert("RGBA").getchannel("A").getextrema()[0]
    return int(lowest)
