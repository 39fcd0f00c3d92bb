"""Distances between sets of features: FID and KID, their real-versus-real floor, and the KID difference.

Features are arrays [samples, dimensions]. Every function computes in float64 and raises BadInput for what has
no distance: NaN, fewer than two samples, feature sizes that differ.
"""

from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.blocks import deal, deal_reals, strata_of
from expunge.measure.frechet import fitted, frechet, leaving_out, root_of
from expunge.measure.kernels import DRAWS, Sides
from expunge.measure.proportions import Bools, Estimate, Floats
from expunge.measure.ratios import fieller

SUBSAMPLING = "paired half-sampling of blocks"
JACKKNIFE = "two-sided jackknife over blocks"

SAMPLES_PER_FEATURE = 4  # on either side, for `fid_excess`


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
    return max(0.0, frechet(fitted(first), fitted(second)))


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
    whole, parts = (fitted(first), fitted(second)), []
    estimate = full = frechet(*whole)
    for own, other, strata in ((first, whole[1], None), (second, whole[0], real_strata)):
        root = root_of(other[1])
        block, blocks = deal_reals(own, rng, strata)
        without = np.array([frechet(other, left, root) for left in leaving_out(own, block, blocks)])
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
    models, real = [fitted(table) for table in tables], fitted(real_table)
    roots, real_root = [root_of(covariance) for _, covariance in models], root_of(real[1])
    estimate = full = frechet(real, models[1], real_root) - frechet(real, models[0], real_root)
    variance = 0.0
    block, blocks = deal(len(tables[0]), rng)
    latents_left = [np.array([frechet(real, left, real_root) for left in leaving_out(table, block, blocks)])
                    for table in tables]
    real_block, real_blocks = deal_reals(real_table, rng, real_strata)
    reals_left = np.array([
        [frechet(model, left, root) for model, root in zip(models, roots, strict=True)]
        for left in leaving_out(real_table, real_block, real_blocks)]).T
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
    return _half_sampled(Sides([_all_of(first)], [first], second, seed), [1.0], confidence)[0]


class Chosen(TypedDict, total=False):
    """What of two models and of the reals is compared, where it is not all, and how chance deals it into blocks.

    Attributes:
        kept_before, kept_after: masks [n] of the latents that count before, and after; without one, all of them do.
        real_strata: labels [m] of the reals, if their mixture of classes was fixed when they were chosen.
        seed: of the blocks.
    """

    kept_before: ArrayLike | None
    kept_after: ArrayLike | None
    real_strata: ArrayLike | None
    seed: int


@dataclass(frozen=True)
class KidComparison:
    """KID before, after, and after - before, from the same kernel sums."""

    before: Estimate
    after: Estimate
    difference: Estimate
    error: float  # standard error of the difference
    freedom: int  # degrees of freedom of the Student's t that its interval is made with


def compare_kid(
    before: ArrayLike, after: ArrayLike, reals: ArrayLike, *, confidence: float = 0.95, **chosen: Unpack[Chosen]
) -> KidComparison:
    """KID of two models against the same reals, and their difference with a paired interval.

    `before` and `after` are features [n, d] of the same n latents in the same order; `chosen` may say which of them
    count on either side. A negative difference means better than before. `n` of a result is the
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
    sides = _both_sides(before, after, reals, **chosen)
    (found_before, _), (found_after, _), (difference, error) = (
        _half_sampled(sides, signs, confidence) for signs in ([1.0, 0.0], [0.0, 1.0], [-1.0, 1.0])
    )
    return KidComparison(found_before, found_after, difference, error, sides.freedom)


def kid_ratio(
    before: ArrayLike, after: ArrayLike, reals: ArrayLike, *, confidence: float = 0.95, **chosen: Unpack[Chosen]
) -> Estimate:
    """KID(after, reals) / KID(before, reals): one is as far from real images as before.

    Takes what `compare_kid` takes. The bounds are Fieller's, from the covariance of both numbers over the same
    half-samples; `benchmarks/coverage_likelihoods.py` holds them against known truth. Raises BadInput where the KID
    before cannot be told from zero: nothing is a multiple of that.
    """
    sides = _both_sides(before, after, reals, **chosen)
    (bottom, top), deviations = sides.deviations([1.0, 0.0], [0.0, 1.0])
    quantile = float(stdtrit(sides.freedom, (1 + confidence) / 2))
    try:
        lower, upper = fieller(top, bottom, (deviations.T @ deviations / DRAWS)[::-1, ::-1], quantile)
    except BadInput:
        raise BadInput("kid_before: it cannot be told from zero, so there is no ratio", "draw more samples, and hold "
                       "out more images") from None
    interval = Interval(lower=lower, upper=upper, confidence=confidence, method=f"Fieller on {SUBSAMPLING}")
    return Estimate(top / bottom, interval, min(int(found.counts.sum()) for found in sides.sets))


def _half_sampled(sides: Sides, signs: list[float], confidence: float) -> tuple[Estimate, float]:
    """The signed sum of the sets' KIDs with the interval of `compare_kid`, and its standard error."""
    used = [which for which, sign in enumerate(signs) if sign]
    (full,), deviations = sides.deviations(signs)
    error = float(np.sqrt(np.mean(deviations**2)))
    reach = float(stdtrit(sides.freedom, (1 + confidence) / 2)) * error
    interval = Interval(lower=full - reach, upper=full + reach, confidence=confidence, method=SUBSAMPLING)
    return Estimate(full, interval, min(int(sides.sets[which].counts.sum()) for which in used)), error


def _both_sides(
    before: ArrayLike,
    after: ArrayLike,
    reals: ArrayLike,
    *,
    kept_before: ArrayLike | None = None,
    kept_after: ArrayLike | None = None,
    real_strata: ArrayLike | None = None,
    seed: int = 0,
) -> Sides:
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
    return Sides(masks, [was, is_now], real_table, seed, strata_of(real_strata, real_table))


def _all_of(table: Floats) -> Bools:
    return np.ones(len(table), dtype=bool)


def _enough(generated: Floats, reals: Floats) -> None:
    least = SAMPLES_PER_FEATURE * generated.shape[1]
    if min(len(generated), len(reals)) < least:
        raise BadInput(
            f"features: {len(generated)} generated and {len(reals)} real samples of {generated.shape[1]} dimensions",
            f"the bias of FID can be taken away from {least} of each",
        )


def alike(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    """Generated and real features as float64 [n, d] and [m, d]; BadInput as in `features`, or if d differs."""
    a, b = features(first, "generated"), features(second, "reals")
    if a.shape[1] != b.shape[1]:
        raise BadInput(f"generated: {a.shape[1]} dimensions, reals: {b.shape[1]}", "use the same extractor")
    return a, b
