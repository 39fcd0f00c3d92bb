"""Which copies of an image does a disposal know again, and how often does another image merely look like one?

    python benchmarks/disposal.py [FOLDER ...] [--images 500] [--others 5000] [--seed 0]

Half of one class's images stand for what is to be forgotten; each is written again in many ways and looked at as
`expunge dispose` does. The other half, and images of the other classes, are no copies: how many of them are said to
look like one is what a person has to look through for nothing. Besides the built-in digits, each FOLDER with idx files
(``train-images-idx3-ubyte[.gz]``) is measured.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from recording import record

from expunge import assets
from expunge.custody.places import Folder
from expunge.custody.searchers import searchers
from expunge.custody.sweeping import sweep
from expunge.custody.wanted import LOOKS_LIKE, Wanted
from expunge.samples.encryption import RequestKey
from expunge.samples.images import read_images
from expunge.samples.table import SampleTable, from_pixels

Pixels = NDArray[np.uint8]
KNOWN = searchers(RequestKey("benchmark", b"b" * 32))


def saved(kind: str, **options: Any) -> Callable[[Image.Image], bytes]:
    """A way to write an image."""
    def write(image: Image.Image) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()
    return write


def resized(times: float, kind: str = "PNG", **options: Any) -> Callable[[Image.Image], bytes]:
    """Written larger or smaller, interpolated."""
    return lambda image: saved(kind, **options)(
        image.resize((round(image.width * times), round(image.height * times)), Image.Resampling.BICUBIC))


def noisy(levels: float) -> Callable[[Image.Image], bytes]:
    """With Gaussian noise, in levels of 255."""
    def write(image: Image.Image) -> bytes:
        pixels = np.asarray(image, np.float32)
        noise = np.random.default_rng(len(pixels)).normal(0, levels, pixels.shape)
        return saved("PNG")(Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)))
    return write


WAYS: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG": saved("PNG"), "colour PNG": lambda image: saved("PNG")(image.convert("RGB")), "BMP": saved("BMP"),
    "TIFF, deflate": saved("TIFF", compression="tiff_deflate"), "WebP, lossless": saved("WEBP", lossless=True),
    "GIF": saved("GIF"), "pixels repeated 3×": lambda image: saved("PNG")(
        image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST)),
    "JPEG, quality 95": saved("JPEG", quality=95), "JPEG, quality 75": saved("JPEG", quality=75),
    "JPEG, quality 30": saved("JPEG", quality=30), "WebP, quality 50": saved("WEBP", quality=50),
    "AVIF, quality 50": saved("AVIF", quality=50),
    "twice as large": resized(2), "twice as large, JPEG 75": resized(2, "JPEG", quality=75),
    "three quarters": resized(0.75), "half": resized(0.5),
    "negative": lambda image: saved("PNG")(image.point(lambda level: 255 - level)),
    "half the contrast": lambda image: saved("PNG")(image.point(lambda level: 60 + level // 2)),
    "blurred, 1 pixel": lambda image: saved("PNG")(image.filter(ImageFilter.GaussianBlur(1))),
    "noise, 10 levels": noisy(10), "noise, 30 levels": noisy(30),
    "shifted by 1 pixel": lambda image: saved("PNG")(image.transform(
        image.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0))),
    "cropped by 1 pixel": lambda image: saved("PNG")(image.crop((1, 1, image.width - 1, image.height - 1))),
    "turned by 90°": lambda image: saved("PNG")(image.transpose(Image.Transpose.ROTATE_90)),
    "mirrored": lambda image: saved("PNG")(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
}


def looked_at(files: dict[str, bytes], wanted: Wanted) -> tuple[int, int, float]:
    """How many files hold a copy, how many only look like one, and the seconds that the look took."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        began = time.perf_counter()
        found = sweep([Folder("here", Path(folder))], wanted, KNOWN).found
        seconds = time.perf_counter() - began
    return sum(one.copies > 0 for one in found), sum(one.looks_like > 0 for one in found), seconds


def measured(name: str, pixels: Pixels, labels: NDArray[np.int64], images: int, others: int,
             seed: int) -> dict[str, Any]:
    """All ways of writing images of one class, and images that are no copies."""
    random = np.random.default_rng(seed)
    mine = random.permutation(np.flatnonzero(labels == 8))
    known, rest = mine[: min(images, len(mine) // 2)], mine[len(mine) // 2 :][:others]
    strangers = random.permutation(np.flatnonzero(labels != 8))[:others]
    wanted = Wanted()
    wanted.add(pixels[known])
    rows = []
    for way, write in WAYS.items():
        files = {f"{row}": write(Image.fromarray(pixels[row, 0])) for row in known}
        copies, alike, seconds = looked_at(files, wanted)
        rows.append({"way": way, "files": len(files), "copies": copies, "alike": alike, "seconds": round(seconds, 2)})
    false = {}
    for which, numbers in (("the same class", rest), ("other classes", strangers)):
        out = io.BytesIO()
        np.save(out, from_pixels(pixels[numbers]))
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "x.npy").write_bytes(out.getvalue())
            found = sweep([Folder("here", Path(folder))], wanted, KNOWN).found
        false[which] = {"images": len(numbers), "copies": sum(one.copies for one in found),
                        "alike": sum(one.looks_like for one in found)}
    return {"data": name, "known": len(known), "rows": rows, "false": false}


def table(found: dict[str, Any]) -> str:
    """One column per set of images, one row per way."""
    sets = found["sets"]
    lines = [f"Of each set, some images of one class are known; a picture looks like one from a cosine of {LOOKS_LIKE}"
             ".", "", "Found again, by how the image was written: as a copy, or only as one that looks like it.", "",
             "| written as | " + " | ".join(f"{one['data']}: copy | looks like" for one in sets) + " |",
             "|---|" + "---:|---:|" * len(sets)]
    for number, way in enumerate(WAYS):
        cells = " | ".join(f"{one['rows'][number]['copies'] / one['rows'][number]['files']:.1%} | "
                           f"{one['rows'][number]['alike'] / one['rows'][number]['files']:.1%}" for one in sets)
        lines.append(f"| {way} | {cells} |")
    lines += ["", "Images that are no copies:", "",
              "| images | known | looked at | said to be copies | said to look like one |", "|---|---:|---:|---:|---:|"]
    lines += [f"| {one['data']}, {which} | {one['known']} | {count['images']} | {count['copies']} | {count['alike']} "
              f"({count['alike'] / count['images']:.1%}) |" for one in sets for which, count in one["false"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measures, writes the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    arguments.add_argument("--images", type=int, default=500)
    arguments.add_argument("--others", type=int, default=5000)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    images, labels = assets.digits("train")
    data = [("built-in digits", SampleTable(images, labels).pixels, labels)]
    for folder in given.folders:
        file = next(folder.glob("train-images-idx3-ubyte*"))
        brought = read_images(file, strict=True).table
        data.append((folder.name, brought.pixels, brought.labels))
    found = {"images": given.images, "others": given.others, "seed": given.seed, "threshold": LOOKS_LIKE,
             "sets": [measured(*one, given.images, given.others, given.seed) for one in data]}
    record("disposal", found, table(found))


if __name__ == "__main__":
    main()
