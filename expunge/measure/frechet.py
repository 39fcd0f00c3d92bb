"""Gaussians fitted to features, and the Frechet distance between two of them."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from expunge.measure.proportions import Floats

Gaussian: TypeAlias = tuple[Floats, Floats]  # mean [d] and covariance [d, d]


def fitted(table: Floats) -> Gaussian:
    """The Gaussian with the mean and the covariance of a table [n, d]."""
    return table.mean(axis=0), np.atleast_2d(np.cov(table, rowvar=False))


def frechet(first: Gaussian, second: Gaussian, root: Floats | None = None) -> float:
    """The distance of two Gaussians; `root` is that of the first covariance, where it is known already."""
    root = root_of(first[1]) if root is None else root
    crossed = root @ second[1] @ root
    overlap = np.sqrt(np.clip(np.linalg.eigvalsh((crossed + crossed.T) / 2), 0, None)).sum()
    apart = first[0] - second[0]
    return float(apart @ apart + np.trace(first[1]) + np.trace(second[1]) - 2 * overlap)


def root_of(covariance: Floats) -> Floats:
    """The symmetric square root of a covariance [d, d]."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)


def leaving_out(table: Floats, block: NDArray[np.intp], blocks: int) -> Iterator[Gaussian]:
    """The Gaussian of the table without one block, for each block in turn."""
    centre = table.mean(axis=0)
    apart = table - centre
    squares = apart.T @ apart
    for which in range(blocks):
        rows = apart[block == which]
        n = len(table) - len(rows)
        mean = -rows.sum(axis=0) / n
        yield centre + mean, (squares - rows.T @ rows - n * np.outer(mean, mean)) / (n - 1)
