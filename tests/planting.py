"""Forgotten images as people leave them lying about, one way per searcher."""

import base64
import gzip
import io
import json
import sqlite3
import tarfile
import zipfile
from contextlib import closing

import numpy as np
from PIL import Image

from expunge.samples.table import SampleTable, from_pixels


def encoded(pixels, kind="PNG", **options):
    """An image [C, H, W] as a file's bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(out, kind, **options)
    return out.getvalue()


def array(pixels):
    out = io.BytesIO()
    np.save(out, from_pixels(pixels))
    return out.getvalue()


def npz(pixels):
    out = io.BytesIO()
    np.savez_compressed(out, images=pixels, labels=np.zeros(len(pixels)))
    return out.getvalue()


def parquet(pixels):
    return SampleTable(from_pixels(pixels), np.zeros(len(pixels), np.int64)).to_parquet()


def sqlite(pixels):
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE faces (id INTEGER PRIMARY KEY, picture BLOB)")
        database.executemany("INSERT INTO faces (picture) VALUES (?)", [(encoded(image),) for image in pixels])
        database.commit()
        return database.serialize()


def zipped(pixels):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside/one.png", encoded(pixels[0]))
    return out.getvalue()


def tarred(pixels):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        data = encoded(pixels[0])
        member = tarfile.TarInfo("one.png")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def idx(pixels):
    grey = pixels[:, 0]
    header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in grey.shape)
    return header + grey.tobytes()


def safetensors(pixels):
    from safetensors.numpy import save

    return save({"images": from_pixels(pixels)})


def page(pixels):
    return f'<img src="data:image/png;base64,{base64.b64encode(encoded(pixels[0])).decode()}">'.encode()


def notebook(pixels):
    lines = base64.encodebytes(encoded(pixels[0])).decode()
    return json.dumps({"cells": [{"outputs": [{"data": {"image/png": lines}}]}]}).encode()


# What only one searcher can find, by the searcher's name.
PLANTS = {
    "image files": ("one.png", lambda pixels: encoded(pixels[0])),
    "NumPy arrays": ("some.npy", array),
    "Parquet and Arrow tables": ("some.parquet", parquet),
    "SQLite databases": ("some.db", sqlite),
    "zip archives": ("some.npz", npz),
    "tar archives": ("some.tar", tarred),
    "compressed files": ("one.png.gz", lambda pixels: gzip.compress(encoded(pixels[0]))),
    "idx files": ("train-images-idx3-ubyte", idx),
    "safetensors": ("some.safetensors", safetensors),
    "texts": ("page.html", page),
}


def plant(folder, pixels):
    """One file of each kind; by searcher, its path."""
    folder.mkdir(parents=True, exist_ok=True)
    planted = {}
    for searcher, (name, make) in PLANTS.items():
        (folder / name).write_bytes(make(pixels))
        planted[searcher] = folder / name
    return planted
