"""Images in memory, and their Parquet form: the Hugging Face image convention, so other tools can read it."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.errors import BadInput

_FEATURES: dict[str, dict[str, Any]] = {
    "image": {"_type": "Image"},
    "label": {"dtype": "int64", "_type": "Value"},
    "latent": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
}


@dataclass(frozen=True)
class SampleTable:
    """A batch of images with what is known of each."""

    images: NDArray[np.float32]  # [N, C, H, W] in [-1, 1], C is 1 or 3
    labels: NDArray[np.int64]  # [N]
    latents: NDArray[np.float32] | None = None  # [N, D], for generated images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> "SampleTable":
        return SampleTable(self.images[rows], self.labels[rows], None if self.latents is None else self.latents[rows])

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The images as they are stored: [N, C, H, W], 0 to 255."""
        levels = self.images + 1  # from here on in place: a set may be as large as half the memory
        levels *= 127.5
        np.rint(levels, out=levels)
        return np.clip(levels, 0, 255, out=levels).astype(np.uint8)

    def class_counts(self) -> dict[str, int]:
        """How many images each class has, by its number."""
        found, counts = np.unique(self.labels, return_counts=True)
        return {str(label): int(count) for label, count in zip(found, counts, strict=True)}

    def to_parquet(self, classes: Sequence[str] = ()) -> bytes:
        """One Parquet file: images as PNG bytes, label, and latent where there is one.

        `classes` are what the labels are called; the file then says so too.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Put together from their bytes: `pa.array` first imports pandas, which takes a hundred megabytes.
        def plain(kind: Any, values: NDArray[Any]) -> Any:
            return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])

        pictures = [_png(image) for image in self.pixels]
        ends = np.cumsum([0, *map(len, pictures)])
        if ends[-1] > np.iinfo(np.int32).max:
            raise BadInput(f"images: {len(self):,} of them take {int(ends[-1]):,} bytes, more than one file can hold",
                           "use fewer, or smaller ones")
        columns = {
            "image": pa.StructArray.from_arrays(
                [pa.Array.from_buffers(pa.binary(), len(self), [None, pa.py_buffer(ends.astype(np.int32)),
                                                                pa.py_buffer(b"".join(pictures))]),
                 pa.nulls(len(self), pa.string())], ["bytes", "path"]),
            "label": plain(pa.int64(), self.labels.astype(np.int64)),
        }
        if self.latents is not None:
            columns["latent"] = pa.FixedSizeListArray.from_arrays(
                plain(pa.float32(), self.latents.astype(np.float32).ravel()), self.latents.shape[1]
            ).cast(pa.list_(pa.float32()))
        features: dict[str, dict[str, Any]] = {name: _FEATURES[name] for name in columns}
        if classes:
            features["label"] = {"names": list(classes), "_type": "ClassLabel"}
        table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        out = io.BytesIO()
        pq.write_table(table, out, compression="none")  # PNG is compressed already
        return out.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> "SampleTable":
        """Reads what `to_parquet` wrote. Pixel values are those stored: 256 levels over [-1, 1]."""
        import pyarrow.parquet as pq
        from PIL import Image

        table = pq.ParquetFile(io.BytesIO(data)).read()  # `read_table`, and `to_numpy` below, first import pandas
        decoded = [np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in table["image"].to_pylist()]
        pixels = np.stack([image[None] if image.ndim == 2 else image.transpose(2, 0, 1) for image in decoded])
        latents = np.asarray(table["latent"].to_pylist(), np.float32) if "latent" in table.column_names else None
        return cls(from_pixels(pixels), np.asarray(table["label"].to_pylist(), np.int64), latents)

    @classmethod
    def concatenate(cls, tables: list["SampleTable"]) -> "SampleTable":
        """One table from several of the same kind, in order."""
        images, labels = [table.images for table in tables], [table.labels for table in tables]
        latents = [table.latents for table in tables if table.latents is not None]
        return cls(np.concatenate(images), np.concatenate(labels),
                   np.concatenate(latents) if len(latents) == len(tables) else None)


def from_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stored pixels [N, C, H, W] as the images that models take: float32 in [-1, 1]."""
    images = pixels.astype(np.float32)
    images /= 127.5
    images -= 1
    return images


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    if pixels.shape[0] not in (1, 3):
        raise BadInput(f"images: {pixels.shape[0]} channels", "use images of one channel (grey) or three (RGB)")
    out = io.BytesIO()
    Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)).save(out, "PNG")
    return out.getvalue()
