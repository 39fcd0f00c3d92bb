"""Dividing labelled images into parts that share no image, so that nobody is examined on what he learned."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.digests import canonical_json, sha256_bytes


@dataclass(frozen=True)
class Division:
    """Which images belong to which part, and what is in none.

    Attributes:
        parts: rows of each part, ascending by content.
        duplicates: images left out because an equal one with the same label is there.
        contradictory: images left out because an equal one has another label.
        sha256: one digest of all images and labels that there were, in whatever order they came.
    """

    parts: dict[str, NDArray[np.int64]]
    duplicates: int
    contradictory: int
    sha256: str


def divide(pixels: NDArray[np.uint8], labels: NDArray[np.int64], shares: Mapping[str, float], seed: int) -> Division:
    """Divides images [N, C, H, W] with labels [N] by class, at random, into parts of about these shares.

    Equal images count once. The division depends on the images' contents, their labels and the seed, not on
    their order: the same pictures under other file names are divided alike.
    """
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
    order = sorted(range(len(digests)), key=lambda row: (digests[row], int(labels[row])))
    seen: dict[str, set[int]] = {}
    for row in order:
        seen.setdefault(digests[row], set()).add(int(labels[row]))
    clear = [row for row in order if len(seen[digests[row]]) == 1]
    first = {digests[row]: row for row in reversed(clear)}
    kept = np.array([row for row in clear if first[digests[row]] == row], np.int64)

    random = np.random.default_rng(seed)
    cuts = np.cumsum(list(shares.values())) / sum(shares.values())
    chosen: dict[str, list[NDArray[np.int64]]] = {name: [] for name in shares}
    for label in np.unique(labels[kept]):
        members = random.permutation(np.flatnonzero(labels[kept] == label))
        for name, part in zip(shares, np.split(members, np.rint(cuts[:-1] * len(members)).astype(int)), strict=True):
            chosen[name].append(part)
    listing = {"shape": list(pixels.shape[1:]), "images": [[digests[row], int(labels[row])] for row in order]}
    return Division(
        parts={name: kept[np.sort(np.concatenate(rows))] if rows else kept[:0] for name, rows in chosen.items()},
        duplicates=len(clear) - len(kept), contradictory=len(order) - len(clear),
        sha256=sha256_bytes(canonical_json(listing)))
