"""What expunge ships: real handwritten digits, and models trained on them.

The images are scikit-learn's copy of the UCI "Optical Recognition of Handwritten Digits" test set (1,797
images of 8x8 pixels; Alpaydin and Kaynak 1998). Nothing here imports torch.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from expunge.errors import BadInput

Split = Literal["train", "holdout"]

SCHEME = "builtin://"
MODELS = ("dcgan", "oracle", "judge", "never-saw-8")
SPLITS: tuple[Split, ...] = ("train", "holdout")
SIDE = 16
HOLDOUT_SHARE = 0.3  # leaves about 54 holdout images per digit, and 1,257 to train on
SPLIT_SEED = 20240229  # which images are held out; a model trained under another seed has seen some of them
GREY_LEVELS = 16.0  # the data set counts dark pixels per 4x4 block: 0..16


def path(name: str) -> Path:
    """The file of a built-in model: `name` is one of `MODELS`; `never-saw-8` is `dcgan` trained without one digit.

    Raises:
        BadInput: there is no such model.
    """
    if name not in MODELS:
        raise BadInput(f"no built-in model {name!r}", f"built in are {', '.join(MODELS)}")
    return Path(__file__).with_name(f"{name}.safetensors")


def resolve(uri: str) -> Path | Split:
    """What a `builtin://digits/...` URI stands for: a model's file, or the name of a split for `digits()`.

    Raises:
        BadInput: the URI names nothing built in.
    """
    names = (*MODELS, *SPLITS)
    collection, _, name = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or collection != "digits" or name not in names:
        known = ", ".join(f"{SCHEME}digits/{known}" for known in names)
        raise BadInput(f"nothing built in is called {uri!r}", f"use one of {known}")
    for split in SPLITS:
        if name == split:
            return split
    return path(name)


def digits(split: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Real handwritten digits: images [N, 1, 16, 16] in [-1, 1] and labels [N] in 0..9.

    The split is stratified by digit, fixed and disjoint. The 8x8 originals are enlarged bilinearly.

    Raises:
        BadInput: `split` is neither `train` nor `holdout`.
    """
    if split not in SPLITS:
        raise BadInput(f"no split {split!r} of the digits", "use 'train' or 'holdout'")
    images, labels, held_out = _all_digits()
    chosen = held_out if split == "holdout" else ~held_out
    return images[chosen].copy(), labels[chosen].copy()


@cache
def _all_digits() -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    # What `sklearn.datasets.load_digits` reads; to import that takes much longer than to read this.
    with gzip.open(str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz"))) as file:
        rows = np.loadtxt(file, delimiter=",")  # 64 counts of dark pixels, then the digit
    small = rows[:, :-1].reshape(-1, 8, 8) / (GREY_LEVELS / 2) - 1.0
    enlarge = _bilinear(small.shape[-1], SIDE)
    images = (enlarge @ small @ enlarge.T)[:, None].astype(np.float32)
    labels = rows[:, -1].astype(np.int64)
    held_out = np.zeros(len(labels), dtype=np.bool_)
    rng = np.random.default_rng(SPLIT_SEED)
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        held_out[members[: round(HOLDOUT_SHARE * len(members))]] = True
    return images, labels, held_out


def _bilinear(source: int, target: int) -> NDArray[np.float64]:
    """The matrix [target, source] of one-dimensional linear interpolation between pixel centres."""
    centre = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    left = np.minimum(np.floor(centre).astype(int), source - 2)
    weight = centre - left
    matrix = np.zeros((target, source))
    matrix[np.arange(target), left] = 1 - weight
    matrix[np.arange(target), left + 1] = weight
    return matrix
