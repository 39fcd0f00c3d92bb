"""Samples dealt at random into blocks: what is left out, or halved, to see how much a distance owes to chance."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import BadInput
from expunge.measure.proportions import Floats

_BLOCKS = 50  # enough for a t quantile near the normal one, few enough that a block holds many samples
_FEWEST_BLOCKS = 10


def deal(
    n: int, rng: np.random.Generator, strata: NDArray[np.int64] | None = None, most: int = _BLOCKS
) -> tuple[NDArray[np.intp], int]:
    """A block for each of n samples, at random; every block gets its part of each stratum."""
    blocks = max(4, min(most, n // 2))
    order = np.lexsort((rng.permutation(n), np.zeros(n) if strata is None else strata))
    block = np.empty(n, dtype=np.intp)
    block[order] = np.arange(n) % blocks
    return block, blocks


def deal_reals(
    table: Floats, rng: np.random.Generator, labels: ArrayLike | None
) -> tuple[NDArray[np.intp], int]:
    """Blocks for the jackknife. One that lacks a class would change the mixture by being left out: no chance here."""
    strata = strata_of(labels, table)
    scarcest = _BLOCKS if strata is None else int(np.unique(strata, return_counts=True)[1].min())
    return deal(len(table), rng, strata, most=min(_BLOCKS, max(_FEWEST_BLOCKS, scarcest)))


def strata_of(labels: ArrayLike | None, reals: Floats) -> NDArray[np.int64] | None:
    """One label for each of the reals [m, d], or none; BadInput if there are more or fewer."""
    strata = None if labels is None else np.asarray(labels, dtype=np.int64)
    if strata is not None and strata.shape != (len(reals),):
        raise BadInput(f"real_strata: {strata.shape} for {len(reals)} reals", "give one label for each")
    return strata
