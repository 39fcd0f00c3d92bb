"""Distances between sets of features: FID and KID, their real-versus-real floor, and the KID difference.

Features are arrays [samples, dimensions]. Every function computes in float64 and raises BadInput for what has
no distance: NaN, fewer than two samples, feature sizes that differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit
from threadpoolctl import threadpool_limits

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.proportions import Bools, Estimate
from expunge.measure.ratios import fieller

Floats: TypeAlias = NDArray[np.float64]

SUBSAMPLING = "paired half-sampling of blocks"
JACKKNIFE = "two-sided jackknife over blocks"

_BLOCKS = 50  # enough for a t quantile near the normal one, few enough that a block holds many samples
SAMPLES_PER_FEATURE = 4  # on either side, for `fid_excess`
_FEWEST_BLOCKS = 10
_DRAWS = 1_000  # half-samples; the error this adds to a standard deviation is 2 %
_ROWS = 256  # kernel rows held at a time: memory stays flat in n


def features(values: ArrayLike, name: str = "features") -> Floats:
    """`values` as float64 [n, d]; BadInput naming `name` if not a table, under two samples, or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < 1:
        raise BadInput(f"{name}: shape {array.shape}", "give features as [samples, dimensions]")
    if len(array) < 2:
        raise BadInput(f"{name}: {len(array)} sample(s)", "a distance needs at least two")
    if not np.isfinite(array).all():
        spoiled = int((~np.isfinite(array).all(axis=1)).sum())
        raise BadInput(f"{name}: {spoiled} sample(s) hold NaN or infinity", "check the model that made them")
    return array


def fid(generated: ArrayLike, reals: ArrayLike) -> float:
    """Frechet distance between Gaussians fitted to two feature sets (Heusel et al. 2017, eq. 6).

    ||m1 - m2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), in squared feature units. The last trace is that of
    (S1^(1/2) S2 S1^(1/2))^(1/2): symmetric, so two symmetric eigendecompositions give it, real and without
    the imaginary residue of a general matrix square root, also for covariances that are singular because
    there are fewer samples than dimensions. Biased upwards at small n: compare only equal sample counts.
    """
    first, second = alike(generated, reals)
    return max(0.0, _frechet(_fitted(first), _fitted(second)))


def fid_excess(
    generated: ArrayLike,
    reals: ArrayLike,
    *,
    real_strata: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """FID(generated, reals) minus what real images would get at the same counts, with an interval.

    Real images against other real ones have a FID above zero only because both are few. That part, the floor at
    these very counts, is FID's bias, and FID without it is what endless samples of both would give: 0 for a
    perfect generator. Chong and Forsyth 2020, "Effectively unbiased FID", extrapolate in 1/n by a fitted line;
    here the delete-a-block jackknife does (Quenouille 1956), over blocks of generated samples and of real ones:

        F + (B - 1) (F - mean of F without a generated block) + (B - 1) (F - mean of F without a real block)

    which removes the terms in 1/n and 1/m, and whose variance is the sum of both sides' (B - 1)/B sum of squared
    deviations; Student's t with B - 1 degrees of freedom, B = 50. An estimate below zero means no more than that no
    excess was found.

    What is left of the bias is of second order in d/n: below four samples per feature on either side BadInput is
    raised. `benchmarks/coverage_distances.py` prints how often the interval covers, at 48 features. With the classes
    of the real images fixed it covers as stated; where they are left to chance, the images are a few hundred and the
    generator lost a whole class, it falls a little short. Where it misses, it mostly lies too low: taken alone, the
    upper end errs somewhat more often than half of 1 - confidence.

    `real_strata` as for `compare_kid`; there are then no more blocks of real images than images of the scarcest
    class, as leaving out a block that lacks a class would change the mixture, but at least 10. `n` is the count of
    generated samples. Takes 2 B eigenvalue problems of size d.
    """
    first, second = alike(generated, reals)
    _enough(first, second)
    rng = np.random.default_rng(seed)
    whole, parts = (_fitted(first), _fitted(second)), []
    estimate = full = _frechet(*whole)
    for own, other, strata in ((first, whole[1], None), (second, whole[0], real_strata)):
        root = _root(other[1])
        block, blocks = _deal_reals(own, rng, strata)
        without = np.array([_frechet(other, left, root) for left in _leaving_out(own, block, blocks)])
        estimate += (blocks - 1) * (full - float(without.mean()))
        parts.append((blocks - 1) / blocks * float(((without - without.mean()) ** 2).sum()))
    reach = float(stdtrit(blocks - 1, (1 + confidence) / 2) * np.sqrt(sum(parts)))
    interval = Interval(lower=estimate - reach, upper=estimate + reach, confidence=confidence, method=JACKKNIFE)
    return Estimate(estimate, interval, len(first))


def fid_difference(
    first: ArrayLike,
    second: ArrayLike,
    reals: ArrayLike,
    *,
    real_strata: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """FID(second, reals) - FID(first, reals), with an interval; below zero the second model is nearer.

    `first` and `second` are features [n, d] of the same n latents in the same order. The jackknife of `fid_excess`,
    paired: a block of latents is left out of both models at once, a block of reals from both comparisons. What bias
    the two distances share goes with the difference, and the jackknife takes the rest of the order 1/n. Fewest
    samples, `real_strata` and cost are as there.
    """
    tables = alike(first, reals)[0], alike(second, reals)[0]
    real_table = features(reals, "reals")
    if tables[0].shape != tables[1].shape:
        raise BadInput(f"second: features {tables[1].shape}, first: {tables[0].shape}", "measure the same latents")
    _enough(tables[0], real_table)
    rng = np.random.default_rng(seed)
    models, real = [_fitted(table) for table in tables], _fitted(real_table)
    roots, real_root = [_root(covariance) for _, covariance in models], _root(real[1])
    estimate = full = _frechet(real, models[1], real_root) - _frechet(real, models[0], real_root)
    variance = 0.0
    block, blocks = _deal(len(tables[0]), rng)
    latents_left = [np.array([_frechet(real, left, real_root) for left in _leaving_out(table, block, blocks)])
                    for table in tables]
    real_block, real_blocks = _deal_reals(real_table, rng, real_strata)
    reals_left = np.array([
        [_frechet(model, left, root) for model, root in zip(models, roots, strict=True)]
        for left in _leaving_out(real_table, real_block, real_blocks)]).T
    for left in (latents_left, reals_left):
        without = left[1] - left[0]
        estimate += (len(without) - 1) * (full - float(without.mean()))
        variance += (len(without) - 1) / len(without) * float(((without - without.mean()) ** 2).sum())
    reach = float(stdtrit(min(blocks, real_blocks) - 1, (1 + confidence) / 2) * np.sqrt(variance))
    interval = Interval(lower=estimate - reach, upper=estimate + reach, confidence=confidence, method=JACKKNIFE)
    return Estimate(estimate, interval, len(tables[0]))


def fid_floor(reals: ArrayLike, *, halvings: int = 10, seed: int = 0) -> float:
    """FID of one random half of the real features against the other, averaged over `halvings` splits.

    This is what a perfect generator would get at n = len(reals) // 2 on either side. Raises BadInput below
    four samples.
    """
    table = features(reals, "reals")
    if len(table) < 4:
        raise BadInput(f"reals: {len(table)} samples", "halves of at least two each are needed")
    rng, half = np.random.default_rng(seed), len(table) // 2
    orders = [rng.permutation(len(table)) for _ in range(halvings)]
    return float(np.mean([fid(table[order[:half]], table[order[half : 2 * half]]) for order in orders]))


def unit_scale(reals: ArrayLike) -> float:
    """The factor that gives real features a mean square of 1 per dimension.

    The cubic kernel of KID is not scale-free. Multiplying features by this factor puts KID into units of the
    real images' own features, k(x, x) being 8 on average, so that one limit can serve several extractors.
    Raises BadInput if all features are zero.
    """
    size = float(np.sqrt(np.mean(features(reals, "reals") ** 2)))
    if size == 0:
        raise BadInput("reals: every feature is zero", "check the extractor's weights")
    return 1 / size


def kid(generated: ArrayLike, reals: ArrayLike, *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Unbiased squared MMD with the kernel (x.y/d + 1)^3 (Binkowski et al. 2018, section 4).

    Computed over all pairs rather than averaged over small blocks; unbiased, so it may be negative when the
    two sets are alike. The interval is that of `compare_kid`. Needs at least 8 samples of each.
    """
    first, second = alike(generated, reals)
    return _half_sampled(_Sides([_all_of(first)], [first], second, seed), [1.0], confidence)[0]


def kid_difference(
    before: ArrayLike,
    after: ArrayLike,
    reals: ArrayLike,
    *,
    kept_before: ArrayLike | None = None,
    kept_after: ArrayLike | None = None,
    real_strata: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """KID(after, reals) - KID(before, reals): the `difference` of `compare_kid`."""
    return compare_kid(
        before,
        after,
        reals,
        kept_before=kept_before,
        kept_after=kept_after,
        real_strata=real_strata,
        confidence=confidence,
        seed=seed,
    ).difference


@dataclass(frozen=True)
class KidComparison:
    """KID before, after, and after - before, from the same kernel sums."""

    before: Estimate
    after: Estimate
    difference: Estimate
    error: float  # standard error of the difference
    freedom: int  # degrees of freedom of the Student's t that its interval is made with


def compare_kid(
    before: ArrayLike,
    after: ArrayLike,
    reals: ArrayLike,
    *,
    kept_before: ArrayLike | None = None,
    kept_after: ArrayLike | None = None,
    real_strata: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> KidComparison:
    """KID of two models against the same reals, and their difference with a paired interval.

    `before` and `after` are features [n, d] of the same n latents in the same order; the masks [n] choose
    which of them count on either side. A negative difference means better than before. `n` of a result is the
    (smaller) count of generated samples.

    The interval is by subsampling (Politis and Romano 1994) with half-samples. Latents, and reals on their
    own, are dealt at random into 50 blocks (fewer below 100 samples). One half-sample takes half of the
    blocks of each, the *same* latents before and after, and the difference is computed exactly on it. For a
    statistic whose error shrinks like 1/sqrt(n), a half-sample deviates from the full value as the full value
    does from the truth (the factor sqrt(f/(1-f)) is 1 at f = 1/2), so the root mean square deviation of
    1,000 half-samples is the standard error. The quantile is Student's with (blocks - 1) degrees of freedom.
    Where the leading term vanishes (two distributions that are alike) the interval is too wide rather than
    too narrow. Both the draw of latents and the choice of reals are in it. Needs at least 8 of each.

    `real_strata`, labels [m] of the reals, says that their mixture of classes was fixed when they were
    chosen, as in a stratified holdout: every block then gets its part of each class, and chance in the
    mixture is not counted as uncertainty. On a few hundred reals that chance would be most of the interval.
    """
    sides = _both_sides(before, after, reals, kept_before, kept_after, real_strata, seed)
    (found_before, _), (found_after, _), (difference, error) = (
        _half_sampled(sides, signs, confidence) for signs in ([1.0, 0.0], [0.0, 1.0], [-1.0, 1.0])
    )
    return KidComparison(found_before, found_after, difference, error, sides.freedom)


def kid_ratio(
    before: ArrayLike,
    after: ArrayLike,
    reals: ArrayLike,
    *,
    kept_before: ArrayLike | None = None,
    kept_after: ArrayLike | None = None,
    real_strata: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """KID(after, reals) / KID(before, reals): one is as far from real images as before.

    Takes what `compare_kid` takes. The bounds are Fieller's, from the covariance of both numbers over the same
    half-samples; `benchmarks/coverage_likelihoods.py` holds them against known truth. Raises BadInput where the KID
    before cannot be told from zero: nothing is a multiple of that.
    """
    sides = _both_sides(before, after, reals, kept_before, kept_after, real_strata, seed)
    (bottom, top), deviations = _deviations(sides, [1.0, 0.0], [0.0, 1.0])
    quantile = float(stdtrit(sides.freedom, (1 + confidence) / 2))
    try:
        lower, upper = fieller(top, bottom, (deviations.T @ deviations / _DRAWS)[::-1, ::-1], quantile)
    except BadInput:
        raise BadInput("kid_before: it cannot be told from zero, so there is no ratio", "draw more samples, and hold "
                       "out more images") from None
    interval = Interval(lower=lower, upper=upper, confidence=confidence, method=f"Fieller on {SUBSAMPLING}")
    return Estimate(top / bottom, interval, min(int(found.counts.sum()) for found in sides.sets))


# ------------------------------------------------------------------------------------- fitted Gaussians

_Gaussian: TypeAlias = tuple[Floats, Floats]  # mean [d] and covariance [d, d]


def _enough(generated: Floats, reals: Floats) -> None:
    least = SAMPLES_PER_FEATURE * generated.shape[1]
    if min(len(generated), len(reals)) < least:
        raise BadInput(
            f"features: {len(generated)} generated and {len(reals)} real samples of {generated.shape[1]} dimensions",
            f"the bias of FID can be taken away from {least} of each",
        )


def _fitted(table: Floats) -> _Gaussian:
    return table.mean(axis=0), np.atleast_2d(np.cov(table, rowvar=False))


def _frechet(first: _Gaussian, second: _Gaussian, root: Floats | None = None) -> float:
    """The distance of two Gaussians; `root` is that of the first covariance, where it is known already."""
    root = _root(first[1]) if root is None else root
    crossed = root @ second[1] @ root
    overlap = np.sqrt(np.clip(np.linalg.eigvalsh((crossed + crossed.T) / 2), 0, None)).sum()
    apart = first[0] - second[0]
    return float(apart @ apart + np.trace(first[1]) + np.trace(second[1]) - 2 * overlap)


def _root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T)


def _leaving_out(table: Floats, block: NDArray[np.intp], blocks: int) -> Iterator[_Gaussian]:
    """The Gaussian of the table without one block, for each block in turn."""
    centre = table.mean(axis=0)
    apart = table - centre
    squares = apart.T @ apart
    for which in range(blocks):
        rows = apart[block == which]
        n = len(table) - len(rows)
        mean = -rows.sum(axis=0) / n
        yield centre + mean, (squares - rows.T @ rows - n * np.outer(mean, mean)) / (n - 1)


# ------------------------------------------------------------------------------- kernel sums over blocks


@dataclass(frozen=True)
class _Sums:
    """Kernel sums of one set, block by block: enough for the KID of any union of blocks."""

    counts: Floats  # [blocks]
    within: Floats  # [blocks, blocks], the diagonal k(x_i, x_i) left out
    across: Floats  # [blocks, real blocks]


class _Sides:
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
        latent_block, self.blocks = _deal(len(tables[0]), rng)
        real_block, self.real_blocks = _deal(len(reals), rng, strata)
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


def _half_sampled(sides: _Sides, signs: list[float], confidence: float) -> tuple[Estimate, float]:
    """The signed sum of the sets' KIDs with the interval of `compare_kid`, and its standard error."""
    used = [which for which, sign in enumerate(signs) if sign]
    (full,), deviations = _deviations(sides, signs)
    error = float(np.sqrt(np.mean(deviations**2)))
    reach = float(stdtrit(sides.freedom, (1 + confidence) / 2)) * error
    interval = Interval(lower=full - reach, upper=full + reach, confidence=confidence, method=SUBSAMPLING)
    return Estimate(full, interval, min(int(sides.sets[which].counts.sum()) for which in used)), error


def _deviations(sides: _Sides, *sums: list[float]) -> tuple[list[float], Floats]:
    """Signed sums [k] of the sets' KIDs, and how far they are from that on each half-sample: [draws, k]."""
    used = sorted({which for signs in sums for which, sign in enumerate(signs) if sign})

    def values(chosen: Floats, real_chosen: Floats) -> Floats:
        found = {which: sides.mmd(which, chosen, real_chosen) for which in used}
        return np.stack([np.asarray(sum(sign * found[which] for which, sign in enumerate(signs) if sign))
                         for signs in sums], axis=1)

    full = values(np.ones((1, sides.blocks)), np.ones((1, sides.real_blocks)))[0]
    rng = np.random.default_rng([sides.seed, 1])
    return full.tolist(), values(_halves(sides.blocks, rng), _halves(sides.real_blocks, rng)) - full


def _both_sides(before: ArrayLike, after: ArrayLike, reals: ArrayLike, kept_before: ArrayLike | None,
                kept_after: ArrayLike | None, real_strata: ArrayLike | None, seed: int) -> _Sides:
    """Two models' features of the same latents and the reals, dealt into blocks; BadInput if they do not fit."""
    was, real_table = alike(before, reals)
    is_now, _ = alike(after, reals)
    if was.shape != is_now.shape:
        raise BadInput(f"after: features {is_now.shape}, before: {was.shape}", "measure the same latents")
    masks = [
        _all_of(was) if mask is None else np.asarray(mask, dtype=bool) for mask in (kept_before, kept_after)
    ]
    for name, mask in zip(("kept_before", "kept_after"), masks, strict=True):
        if mask.shape != (len(was),) or mask.sum() < 2:
            raise BadInput(f"{name}: {int(mask.sum())} of {len(was)} samples", "keep at least two")
    return _Sides(masks, [was, is_now], real_table, seed, _strata(real_strata, real_table))


def _halves(blocks: int, rng: np.random.Generator) -> Floats:
    ranks = rng.random((_DRAWS, blocks)).argsort(axis=1).argsort(axis=1)
    return (ranks < blocks // 2).astype(float)


def _strata(labels: ArrayLike | None, reals: Floats) -> NDArray[np.int64] | None:
    strata = None if labels is None else np.asarray(labels, dtype=np.int64)
    if strata is not None and strata.shape != (len(reals),):
        raise BadInput(f"real_strata: {strata.shape} for {len(reals)} reals", "give one label for each")
    return strata


def _all_of(table: Floats) -> Bools:
    return np.ones(len(table), dtype=bool)


def _deal(
    n: int, rng: np.random.Generator, strata: NDArray[np.int64] | None = None, most: int = _BLOCKS
) -> tuple[NDArray[np.intp], int]:
    """A block for each of n samples, at random; every block gets its part of each stratum."""
    blocks = max(4, min(most, n // 2))
    order = np.lexsort((rng.permutation(n), np.zeros(n) if strata is None else strata))
    block = np.empty(n, dtype=np.intp)
    block[order] = np.arange(n) % blocks
    return block, blocks


def _deal_reals(
    table: Floats, rng: np.random.Generator, labels: ArrayLike | None
) -> tuple[NDArray[np.intp], int]:
    """Blocks for the jackknife. One that lacks a class would change the mixture by being left out: no chance here."""
    strata = _strata(labels, table)
    scarcest = _BLOCKS if strata is None else int(np.unique(strata, return_counts=True)[1].min())
    return _deal(len(table), rng, strata, most=min(_BLOCKS, max(_FEWEST_BLOCKS, scarcest)))


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


def alike(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    """Generated and real features as float64 [n, d] and [m, d]; BadInput as in `features`, or if d differs."""
    a, b = features(first, "generated"), features(second, "reals")
    if a.shape[1] != b.shape[1]:
        raise BadInput(f"generated: {a.shape[1]} dimensions, reals: {b.shape[1]}", "use the same extractor")
    return a, b
