"""Sums of the cubic kernel (x.y/d + 1)^3 over blocks of samples: enough for the KID of any union of blocks.

KID is the unbiased squared MMD with that kernel (Binkowski et al. 2018, section 4).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from expunge.errors import BadInput
from expunge.measure.blocks import deal
from expunge.measure.proportions import Bools, Floats

DRAWS = 1_000  # half-samples; the error this adds to a standard deviation is 2 %
_ROWS = 256  # kernel rows held at a time: memory stays flat in n


@dataclass(frozen=True)
class _Sums:
    """Kernel sums of one set, block by block: enough for the KID of any union of blocks."""

    counts: Floats  # [blocks]
    within: Floats  # [blocks, blocks], the diagonal k(x_i, x_i) left out
    across: Floats  # [blocks, real blocks]


class Sides:
    """Generated sets over the same latents, and the reals, dealt into blocks equally for every set."""

    def __init__(
        self,
        masks: list[Bools],
        tables: list[Floats],
        reals: Floats,
        seed: int,
        strata: NDArray[np.int64] | None = None,
    ) -> None:
        if min(len(tables[0]), len(reals)) < 8:
            raise BadInput(
                f"features: {len(tables[0])} generated and {len(reals)} real samples",
                "an interval for KID needs at least 8 of each",
            )
        self.seed = seed
        rng = np.random.default_rng(seed)
        latent_block, self.blocks = deal(len(tables[0]), rng)
        real_block, self.real_blocks = deal(len(reals), rng, strata)
        y, y_block = _in_order(reals, real_block)
        self.real_counts = np.bincount(y_block, minlength=self.real_blocks).astype(float)
        drawn = [_in_order(table[mask], latent_block[mask]) for mask, table in zip(masks, tables, strict=True)]
        counts = [np.bincount(x_block, minlength=self.blocks).astype(float) for _, x_block in drawn]
        if moments_are_cheaper(max(len(x) for x, _ in drawn) + len(y), y.shape[1]):
            sums = _sums_by_moments([*drawn, (y, y_block)], [self.blocks] * len(drawn) + [self.real_blocks])
            self.real_within = sums[-1].within
            self.sets = [_Sums(n, found.within, found.across) for n, found in zip(counts, sums, strict=False)]
            return
        self.real_within = _within(y, y_block, self.real_blocks)
        self.sets = [
            _Sums(n, _within(x, x_block, self.blocks),
                  _across(x, x_block, self.blocks, y, y_block, self.real_blocks))
            for n, (x, x_block) in zip(counts, drawn, strict=True)
        ]

    @property
    def freedom(self) -> int:
        """Degrees of freedom of an error estimated from half-samples."""
        return min(self.blocks, self.real_blocks) - 1

    def mmd(self, which: int, chosen: Floats, real_chosen: Floats) -> Floats:
        """Unbiased squared MMD of unions of blocks. `chosen` [draws, blocks] and `real_chosen` are 0 or 1."""
        sums = self.sets[which]
        n, m = chosen @ sums.counts, real_chosen @ self.real_counts
        if n.min() < 2 or m.min() < 2:
            raise BadInput("features: half of the blocks hold fewer than two samples", "draw more samples")
        xx = ((chosen @ sums.within) * chosen).sum(axis=1) / (n * (n - 1))
        yy = ((real_chosen @ self.real_within) * real_chosen).sum(axis=1) / (m * (m - 1))
        xy = ((chosen @ sums.across) * real_chosen).sum(axis=1) / (n * m)
        return np.asarray(xx + yy - 2 * xy)

    def deviations(self, *sums: list[float]) -> tuple[list[float], Floats]:
        """Signed sums [k] of the sets' KIDs, and how far they are from that on each half-sample: [draws, k]."""
        used = sorted({which for signs in sums for which, sign in enumerate(signs) if sign})

        def values(chosen: Floats, real_chosen: Floats) -> Floats:
            found = {which: self.mmd(which, chosen, real_chosen) for which in used}
            return np.stack([np.asarray(sum(sign * found[which] for which, sign in enumerate(signs) if sign))
                             for signs in sums], axis=1)

        full = values(np.ones((1, self.blocks)), np.ones((1, self.real_blocks)))[0]
        rng = np.random.default_rng([self.seed, 1])
        return full.tolist(), values(_halves(self.blocks, rng), _halves(self.real_blocks, rng)) - full


def _halves(blocks: int, rng: np.random.Generator) -> Floats:
    ranks = rng.random((DRAWS, blocks)).argsort(axis=1).argsort(axis=1)
    return (ranks < blocks // 2).astype(float)


def _in_order(table: Floats, block: NDArray[np.intp]) -> tuple[Floats, NDArray[np.intp]]:
    order = np.argsort(block, kind="stable")
    return table[order], block[order]


def _kernel(x: Floats, y: Floats) -> Floats:
    product = x @ y.T
    product /= x.shape[1]
    product += 1
    return product * product * product


def _by_block(columns: Floats, block: NDArray[np.intp], blocks: int) -> Floats:
    """Adds up entries [columns] by the block of each column: [blocks]."""
    return np.bincount(block, weights=columns, minlength=blocks).astype(np.float64)


def _across(
    x: Floats, x_block: NDArray[np.intp], blocks: int, y: Floats, y_block: NDArray[np.intp], real_blocks: int
) -> Floats:
    sums = np.zeros((blocks, real_blocks))
    for block in range(blocks):
        rows = x[x_block == block]
        for start in range(0, len(rows), _ROWS):
            sums[block] += _by_block(
                _kernel(rows[start : start + _ROWS], y).sum(axis=0), y_block, real_blocks
            )
    return sums


def _within(x: Floats, x_block: NDArray[np.intp], blocks: int) -> Floats:
    sums = np.zeros((blocks, blocks))
    starts = np.searchsorted(x_block, np.arange(blocks + 1))
    for block in range(blocks):
        first, last = starts[block], starts[block + 1]
        for start in range(first, last, _ROWS):
            rows = x[start : min(start + _ROWS, last)]
            columns = _kernel(rows, x[first:]).sum(axis=0)  # the kernel is symmetric: the rest is mirrored
            sums[block] += _by_block(columns, x_block[first:], blocks)
        own = x[first:last]
        sums[block, block] -= ((np.einsum("ij,ij->i", own, own) / x.shape[1] + 1) ** 3).sum()
    return np.asarray(np.triu(sums) + np.triu(sums, 1).T)


def moments_are_cheaper(n: int, d: int) -> bool:
    """Whether kernel sums over n samples of d features take less work by moments (n d^3) than pair by pair (n^2 d).

    What the moments hold at a time, blocks x d^2, then stays below what the features themselves take.
    """
    return 2 * (d + 1) ** 2 <= n  # twice, as small products are slower per operation than large ones


# Products this small take longer on two cores than on one: threads of BLAS spend more on waiting than on work.
one_thread = threadpool_limits.wrap(limits=1, user_api="blas")


@one_thread
def _sums_by_moments(
    tables: list[tuple[Floats, NDArray[np.intp]]], blocks: list[int]
) -> list[_Sums]:
    """Kernel sums of several sets, each ordered by block, of which the last holds the reals.

    With z = (x / sqrt(d), 1) the kernel is (z.w)^3 = sum over a, b, c of z_a z_b z_c w_a w_b w_c, so its sum over
    pairs of two blocks is the inner product of the blocks' third moments: exact, and linear in the number of
    samples. Moments are symmetric in a, b, c: those with a <= b, c are formed, one a at a time, and weighted by
    how many orders of the three they stand for.
    """
    width = tables[0][0].shape[1] + 1
    groups, own = [], []
    for (table, block), count in zip(tables, blocks, strict=True):
        z = np.concatenate([table / np.sqrt(width - 1), np.ones((len(table), 1))], axis=1)
        starts = np.searchsorted(block, np.arange(count + 1))
        groups += [z[starts[i] : starts[i + 1]] for i in range(count)]
        own += [float(((np.einsum("ij,ij->i", rows, rows)) ** 3).sum()) for rows in groups[-count:]]
    gram = np.zeros((len(groups), len(groups)))
    for a in range(width):
        weights = np.full((width - a, width - a), 3.0)
        weights[0, :] = weights[:, 0] = 1.5
        weights[0, 0] = 1.0
        third = np.stack([((rows[:, a:] * rows[:, a : a + 1]).T @ rows[:, a:]).ravel() for rows in groups])
        gram += (third * weights.ravel()) @ third.T
    gram -= np.diag(own)
    ends = np.cumsum(blocks)
    parts = [slice(end - count, end) for end, count in zip(ends, blocks, strict=True)]
    return [_Sums(np.array([]), gram[part, part], gram[part, parts[-1]]) for part in parts]
