"""The forms in which people keep labelled images: class folders, lists, Parquet, idx.

Each reader says which images there are and how to open them, one at a time; `expunge.samples.images` decodes
them. What cannot be used is a `Skipped` in their place; a file whose very structure is broken is BadInput.
"""

import csv
import gzip
import io
import json
import math
import os
import re
import stat
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from expunge.contracts import shorten
from expunge.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none that starts another program
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LARGEST_LABEL = 2**31 - 1
LONGEST_NAME = 200  # characters; what a record's class names may have

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_IDX_IMAGES = re.compile(r"(?P<before>.*)images(?P<dash>[-.])idx(?P<axes>[34])-ubyte(?P<gz>\.gz)?")
_IDX_UNSIGNED_BYTE = 8
_ROWS_AT_ONCE = 256  # of a Parquet file: bounds what is in memory besides the result
_HIGH = 10  # bytes of memory per pixel value at the highest: stored, as float32, and once more while sealed


class Unreadable(Exception):
    """An image cannot be used; the message says why, and fits after its name."""


@dataclass(frozen=True)
class Skipped:
    """An image that was left out."""

    where: str  # a file, a line or a row
    why: str


@dataclass(frozen=True)
class Entry:
    """An image that can be opened, and its label."""

    where: str
    label: int
    open: "Callable[[], Image]"
    file: str = ""  # what its file is called in the set; empty if it has none


@dataclass(frozen=True)
class Listing:
    """What a path holds."""

    classes: tuple[str, ...]  # names of the labels; empty where labels are numbers
    total: int  # how many entries there will be
    entries: Iterable[Entry | Skipped]


def list_images(path: Path) -> Listing:
    """Recognises what lies at `path` and lists its images.

    Raises:
        BadInput: nothing lies there, or nothing that is known, or its structure is broken.
    """
    try:
        if path.is_dir():
            return _class_folders(path)
        if not path.is_file():
            raise BadInput(f"{_name(path)}: no such file or folder", "check the path")
        suffix = path.suffix.lower()
        if suffix == ".csv":
            return _listed(path, _csv_rows(path))
        if suffix == ".jsonl":
            return _listed(path, _jsonl_rows(path))
        if suffix == ".parquet":
            return _parquet(path)
        if match := _IDX_IMAGES.fullmatch(path.name):
            return _idx(path, match)
    except OSError as error:
        raise BadInput(f"{_name(path)}: {error.strerror or error}", "check the path and its permissions") from None
    except UnicodeDecodeError:
        raise BadInput(f"{_name(path)}: is not UTF-8 text", "save it as UTF-8") from None
    raise BadInput(f"{_name(path)}: not a form of labelled images that is known",
                   "use a folder with one subfolder per class, a .csv, .jsonl or .parquet file, or an "
                   "…-images-idx3-ubyte[.gz] file")


def refuse_if_too_large(path: Path, count: int, shape: Sequence[int], bytes_per_value: int = _HIGH) -> None:
    """BadInput if `count` images of `shape` do not fit into this machine's memory."""
    needed = count * math.prod(shape) * bytes_per_value
    if needed > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise BadInput(f"{_name(path)}: {count:,} images of {'×'.join(map(str, shape))} need {needed / 2**30:,.0f} GiB "
                       f"of memory, this machine has {memory / 2**30:,.0f}",
                       "import them smaller, with --size, or fewer of them")


def _name(path: Path) -> str:
    return shorten(str(path))


# ------------------------------------------------------------------------------------------------ labels


def _class_name(value: str) -> str | None:
    """A class name in its composed form, so that two ways to type 'é' are one class; None if it cannot be one."""
    name = unicodedata.normalize("NFC", value.strip())
    return name if name and name.isprintable() and len(name) <= LONGEST_NAME else None


def _number(value: int | str) -> int | None:
    return int(value) if 0 <= int(value) <= LARGEST_LABEL else None


def _number_labels(values: Sequence[Any]) -> tuple[tuple[str, ...], list[int | None]]:
    """Class names, and each label's number: None for one that names no class.

    If all are whole numbers, they are the numbers and there are no names; else the names are numbered in order.
    """
    texts = [_class_name(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
             for value in values]
    if all(_WHOLE.fullmatch(text) for text in texts if text is not None):
        return (), [None if text is None else _number(text) for text in texts]
    names = tuple(sorted({text for text in texts if text is not None}))
    numbers = {name: number for number, name in enumerate(names)}
    return names, [None if text is None else numbers[text] for text in texts]


def _no_class(where: str, value: Any) -> Skipped:
    return Skipped(where, f"has no label that is a class ({shorten(repr(value), 60)})")


# ------------------------------------------------------------------------------------------------- files


def _open_file(path: Path) -> "Image":
    from PIL import Image

    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
        raise Unreadable("is not a file")
    if not found.st_size:
        raise Unreadable("is empty")
    return Image.open(path, formats=IMAGE_FORMATS)


def _open_bytes(data: bytes) -> "Image":
    from PIL import Image

    if not data:
        raise Unreadable("is empty")
    return Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)


def _inside(folder: Path, file: str) -> Path | None:
    """The file that a list names, or None if that leads out of the list's folder, be it by a link."""
    named = Path(file)
    if named.is_absolute() or ".." in named.parts:
        return None
    real = os.path.realpath(folder / named)
    return folder / named if Path(real).is_relative_to(os.path.realpath(folder)) else None


def _class_folders(folder: Path) -> Listing:
    """`folder/<class>/**/<image>`: names that begin with a dot are left aside, as file systems mean them."""
    if os.path.realpath(folder) == folder.absolute().anchor:
        raise BadInput(f"{_name(folder)}: is the whole disk", "name the folder that holds a subfolder for each class")
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    folders = [path for path in visible if path.is_dir()]
    if not folders:
        others = [path.name for path in visible
                  if path.suffix in {".csv", ".jsonl", ".parquet"} or _IDX_IMAGES.fullmatch(path.name)]
        raise BadInput(f"{_name(folder)}: has no subfolders, which would be its classes",
                       f"name one of its files: {shorten(', '.join(others))}" if others
                       else "put the images of each class into a subfolder of that class's name")
    for path in folders:
        if _class_name(path.name) is None:
            raise BadInput(f"{_name(folder)}: '{shorten(path.name, 60)}' cannot be a class name",
                           f"rename it: printable characters in UTF-8, at most {LONGEST_NAME}")
    classes, labels = _number_labels([path.name for path in folders])
    numbers: dict[int, Path] = {}
    for path, label in zip(folders, labels, strict=True):
        if label is None:
            raise BadInput(f"{_name(folder)}: '{shorten(path.name, 60)}' cannot be a class number",
                           f"use 0 to {LARGEST_LABEL}, or names")
        if (other := numbers.setdefault(label, path)) is not path:
            raise BadInput(f"{_name(folder)}: '{other.name}' and '{path.name}' are the same class",
                           "put their images into one folder")
    entries: list[Entry | Skipped] = [
        Skipped(shorten(path.name), "lies in no class folder") for path in visible
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()]
    for label, path in numbers.items():
        entries += _files_of_class(folder, path, label)
    return Listing(classes, len(entries), entries)


def _files_of_class(root: Path, folder: Path, label: int) -> Iterator[Entry | Skipped]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            file = Path(here, name)
            relative = str(file.relative_to(root))
            if _inside(root, relative) is None:
                yield Skipped(shorten(relative), "is a link that leads out of the folder")
            else:
                yield Entry(shorten(relative), label, partial(_open_file, file), relative)


# ------------------------------------------------------------------------------------------------- lists


@dataclass(frozen=True)
class _Row:
    where: str
    file: str
    label: Any


def _listed(path: Path, rows: Sequence[_Row | Skipped]) -> Listing:
    """The images that a list names, beside the list or below it."""
    classes, labels = _number_labels([row.label if isinstance(row, _Row) else None for row in rows])
    entries = [row if isinstance(row, Skipped) else _from_row(path, row, label)
               for row, label in zip(rows, labels, strict=True)]
    return Listing(classes, len(entries), entries)


def _from_row(path: Path, row: _Row, label: int | None) -> Entry | Skipped:
    where = shorten(f"{row.where}: {row.file}")
    if label is None:
        return _no_class(where, row.label)
    if not row.file or "\0" in row.file:
        return Skipped(where, "names no file")
    try:
        file = _inside(path.parent, row.file)
    except ValueError:  # no file system can have that name
        return Skipped(where, "names no file")
    if file is None:
        raise BadInput(f"{_name(path)}: {where} leads out of the list's own folder",
                       "name files beside the list or below it, relative to it, and no links to elsewhere")
    return Entry(where, label, partial(_open_file, file), row.file.removeprefix("./"))


def _csv_rows(path: Path) -> list[_Row | Skipped]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = [cell.strip() for cell in next(reader, [])]
            if sorted(header) != ["file", "label"]:
                raise BadInput(f"{_name(path)}: its columns are '{shorten(','.join(header), 60)}'",
                               "begin it with the line 'file,label'")
            at_file, at_label = header.index("file"), header.index("label")
            return [
                _Row(f"line {reader.line_num}", row[at_file], row[at_label]) if len(row) == 2
                else Skipped(f"line {reader.line_num}", f"has {len(row)} fields, not 2")
                for row in reader if row]
        except csv.Error as error:
            raise BadInput(f"{_name(path)}: line {reader.line_num}: not CSV ({error})", "correct the line") from None


def _jsonl_rows(path: Path) -> list[_Row | Skipped]:
    return [_jsonl_row(f"line {number}", line)
            for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]


def _jsonl_row(where: str, line: bytes) -> _Row | Skipped:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return Skipped(where, "is not JSON")
    if not isinstance(row, dict) or row.keys() != {"file", "label"} or not isinstance(row["file"], str):
        return Skipped(where, 'is not {"file": …, "label": …}')
    return _Row(where, row["file"], row["label"])


# ----------------------------------------------------------------------------------------------- parquet


def _parquet(path: Path) -> Listing:
    """Hugging Face's image convention: `image` (struct of bytes and path) and `label`; other columns are not read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        missing = {"image", "label"} - set(file.schema_arrow.names)
        if missing:
            raise BadInput(f"{_name(path)}: has no column '{min(missing)}'", "name the columns 'image' and 'label'")
        names = _class_label_names(path, file.schema_arrow.metadata or {})
        labels = file.read(columns=["label"])["label"].to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken_parquet(path, error) from None
    if names:
        numbers = [label if type(label) is int and 0 <= label < len(names) else None for label in labels]
    else:
        names, numbers = _number_labels(labels)

    def entries() -> Iterator[Entry | Skipped]:
        row = 0
        try:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=["image"]):
                for cell in batch.column(0).to_pylist():
                    if row == len(labels):
                        raise ValueError("it has more images than labels")
                    where, number = f"row {row}", numbers[row]
                    yield _no_class(where, labels[row]) if number is None else _from_cell(path, where, number, cell)
                    row += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _broken_parquet(path, error) from None

    return Listing(names, len(labels), entries())


def _broken_parquet(path: Path, error: Exception) -> BadInput:
    return BadInput(f"{_name(path)}: not a readable Parquet file ({shorten(str(error), 100)})", "write it anew")


def _class_label_names(path: Path, metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    """The names that the `datasets` library kept for the label column, or none."""
    if b"huggingface" not in metadata:
        return ()
    try:
        label = json.loads(metadata[b"huggingface"])["info"]["features"].get("label") or {}
        given = label.get("names") or ()
        names = tuple(_class_name(name) for name in given)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadInput(f"{_name(path)}: its 'huggingface' metadata cannot be read", "write the file anew") from None
    if None in names or len(set(names)) < len(names):
        raise BadInput(f"{_name(path)}: two of its classes have one name, or one has none", "rename them")
    return tuple(name for name in names if name is not None)


def _from_cell(path: Path, where: str, label: int, cell: Any) -> Entry | Skipped:
    file = None
    if isinstance(cell, dict):
        data, file = cell.get("bytes"), cell.get("path")
        if data is None and isinstance(file, str):
            return _from_row(path, _Row(where, file, label), label)
        cell = data
    if not isinstance(cell, bytes):
        return Skipped(where, "has no image")
    called = file.removeprefix("./") if isinstance(file, str) else ""
    return Entry(where, label, partial(_open_bytes, cell), called)


# --------------------------------------------------------------------------------------------------- idx


def _idx(path: Path, match: re.Match[str]) -> Listing:
    """The form of MNIST (LeCun, Cortes, Burges): big-endian dimensions, then bytes; labels in a file of their own."""
    stem = f"{match['before']}labels{match['dash']}idx1-ubyte"
    beside = [path.with_name(name) for name in (stem + (match["gz"] or ""), stem, f"{stem}.gz")]
    of_labels = next((file for file in beside if file.is_file()), None)
    if of_labels is None:
        raise BadInput(f"{_name(path)}: its labels are not beside it", f"put {beside[0].name} into the same folder")
    pixels, labels = _idx_array(path, int(match["axes"])), _idx_array(of_labels, 1)
    if len(pixels) != len(labels):
        raise BadInput(f"{_name(path)}: has {len(pixels):,} images, {of_labels.name} has {len(labels):,} labels",
                       "use the two files that belong together")
    if pixels.ndim == 4:
        if pixels.shape[1] in (1, 3) and pixels.shape[3] not in (1, 3):
            pixels = pixels.transpose(0, 2, 3, 1)
        if pixels.shape[3] not in (1, 3):
            raise BadInput(f"{_name(path)}: {pixels.shape[3]} channels", "use one (grey) or three (RGB), as last axis")
        pixels = pixels[..., 0] if pixels.shape[3] == 1 else pixels
    entries = (Entry(f"image {row}", int(label), partial(_from_array, pixels[row])) for row, label in enumerate(labels))
    return Listing((), len(pixels), entries)


def _from_array(pixels: NDArray[np.uint8]) -> "Image":
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(pixels))


def _idx_array(path: Path, axes: int) -> NDArray[np.uint8]:
    """Reads one idx file, checked against its own header: exactly as many bytes as that says."""
    try:
        with (gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as file:
            header = file.read(4 + 4 * axes)
            if header[:4] != bytes([0, 0, _IDX_UNSIGNED_BYTE, axes]) or len(header) != 4 + 4 * axes:
                raise BadInput(f"{_name(path)}: does not begin as an idx{axes} file of bytes does",
                               "fetch it anew: an error page in its place is a common cause")
            shape = tuple(int(extent) for extent in np.frombuffer(header, ">u4", offset=4))
            refuse_if_too_large(path, shape[0], shape[1:], bytes_per_value=1)
            size = math.prod(shape)
            data = file.read(size + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(f"{_name(path)}: broken gzip ({error})", "fetch it anew") from None
    if len(data) != size:
        has = "more" if len(data) > size else f"{len(data):,}"
        raise BadInput(f"{_name(path)}: its header promises {size:,} bytes, it has {has}", "fetch it anew")
    if not size:
        raise BadInput(f"{_name(path)}: holds no image ({'×'.join(map(str, shape))})", "check the file")
    return np.frombuffer(data, np.uint8).reshape(shape)
