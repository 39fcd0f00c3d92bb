"""Precision, recall, density and coverage: how two sets of features lie among each other's nearest neighbours.

A ball is drawn around every sample of a set, reaching to its k-th nearest neighbour within the set. The balls
of the real images stand for what images may look like, the balls of the generated ones for what the generator
can draw.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, stdtrit

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.distances import alike
from expunge.measure.kernels import one_thread
from expunge.measure.proportions import CLOPPER_PEARSON, Estimate, Floats, clopper_pearson, exact_bounds

# Naeem et al. 2020, section 3.3: as many generated samples as real ones, of the same distribution, are expected
# to cover 1 - 2^-k of the real ones' balls. Five is the first k that takes this beyond 0.95.
K = 5
MOST = 10_000  # samples of either set: beyond this a pseudo-random part is used, for the work grows with the square

GIVEN_REALS = "given the real images"
GIVEN_GENERATED = "given the generated samples"

_ENTRIES = 2**19  # distances held at a time: memory stays flat in n
_DOUBT = 1e-12  # relative to the squares that a product's rounding goes by; d of some thousand errs by less
_ROUNDING = 1e-12  # relative; two samples at exactly a ball's radius are inside, however the sum was rounded


@dataclass(frozen=True)
class Neighbours:
    """The four numbers, and of how many samples each set was used."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    generated_used: int
    generated: int  # that there were
    reals_used: int
    reals: int


def neighbours(
    generated: ArrayLike, reals: ArrayLike, *, k: int = K, confidence: float = 0.95, most: int = MOST, seed: int = 0
) -> Neighbours:
    """Precision, recall, density and coverage of generated features [n, d] beside real ones [m, d].

    - precision: the part of the generated samples inside any real ball (Kynkaanniemi et al. 2019, eq. 1 and 2).
    - recall: the part of the real samples inside any generated ball (same equations, sides exchanged).
    - density: the real balls that a generated sample is in, on average, over k (Naeem et al. 2020, eq. 6);
      1 is expected of a perfect generator, and more than 1 is possible.
    - coverage: the part of the real balls that hold a generated sample (eq. 7). It rises with n; compare it
      only between equal counts of samples.

    Each interval is about one set drawn anew, the other being as it is:

    - precision, density, coverage: given the real images, how would they come out, on average over fresh sets of
      as many generated samples? Precision is then a plain rate and its interval exact (Clopper-Pearson). Density
      is a mean of independent counts (Student's t; where the counts do not vary, by how rare another count can
      be). Coverage is a rate over real balls that lean on the same samples: Clopper-Pearson at the effective
      count m/deff of Korn and Graubard (1998, Survey Methodology 24, 193-201), deff being the jackknife variance
      over generated samples relative to the binomial one, and at least 1. A jackknife variance errs upwards
      (Efron and Stein 1981).
    - recall: given the generated samples, over fresh real images: a plain rate over the real ones, exact. Where
      the classes of the real images were fixed in number it is too wide rather than too narrow (Hoeffding 1956).

    What they leave out is the choice of the given set: with another holdout precision would be another number.
    So they tell whether a limit holds beside *these* images. Intervals that resample both sets are not offered:
    radii depend on how many samples there are, so a subsample measures something else.

    `n` of a result counts the samples that were drawn anew: generated ones, for recall real ones, for coverage
    generated ones too. Above `most` samples of a set a pseudo-random part of it is used, the same for the same
    `seed`, and the interval's method says of how many. Raises BadInput where a set has no more than k samples.
    """
    first, second = alike(generated, reals)
    if k < 1 or min(len(first), len(second)) <= k:
        raise BadInput(f"features: {len(first)} generated and {len(second)} real samples",
                       f"the {k} nearest neighbours of a sample need more than {k} of each")
    x, y = _part(first, most, seed), _part(second, most, seed)
    centre = y.mean(axis=0)  # distances stay as they are; products far from the origin would lose digits
    x, y = x - centre, y - centre
    met = _meet(x, _radii(x, k), y, _radii(y, k))
    part = "; ".join(f"{len(used):,} of {len(whole):,} {name}" for used, whole, name in (
        (x, first, "generated samples"), (y, second, "real images")) if len(used) < len(whole))
    given_reals, given_generated = (f"{given}{'; ' + part if part else ''}" for given in (GIVEN_REALS, GIVEN_GENERATED))
    return Neighbours(
        precision=_rate(met.real_balls > 0, given_reals, confidence),
        recall=_rate(met.reached, given_generated, confidence),
        density=_mean(met.real_balls / k, len(y) / k, given_reals, confidence),
        coverage=_covered(met, given_reals, confidence),
        generated_used=len(x), generated=len(first), reals_used=len(y), reals=len(second),
    )


# ---------------------------------------------------------------------------------------- balls and samples


@dataclass(frozen=True)
class _Met:
    """Which samples lie in whose balls."""

    real_balls: NDArray[np.int64]  # [n] how many real balls each generated sample is in
    generated_in: NDArray[np.int64]  # [m] how many generated samples are in each real ball
    only: NDArray[np.int64]  # [m] the generated sample that is alone in a real ball; meaningless elsewhere
    reached: NDArray[np.bool_]  # [m] whether each real sample is in any generated ball


def _part(table: Floats, most: int, seed: int) -> Floats:
    if len(table) <= most:
        return table
    return table[np.sort(np.random.default_rng([seed, len(table)]).permutation(len(table))[:most])]


def _radii(table: Floats, k: int) -> Floats:
    """The squared distance from every sample to its k-th nearest neighbour, itself not counted: [n]."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(table).kneighbors(return_distance=False)[:, -1]
    # Which one it is was found by products, which round; how far away it is must not.
    squared = np.empty(len(table))
    for start in range(0, len(table), 1_000):
        apart = table[start : start + 1_000] - table[found[start : start + 1_000]]
        squared[start : start + 1_000] = np.einsum("ij,ij->i", apart, apart)
    return squared * (1 + _ROUNDING)


@one_thread
def _meet(x: Floats, x_radii: Floats, y: Floats, y_radii: Floats) -> _Met:
    real_balls = np.zeros(len(x), dtype=np.int64)
    generated_in, only = np.zeros(len(y), dtype=np.int64), np.zeros(len(y), dtype=np.int64)
    reached = np.zeros(len(y), dtype=bool)
    rows = max(1, _ENTRIES // len(y))
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        in_real, in_generated = _inside(x[part], x_radii[part, None], y, y_radii)
        real_balls[part] = in_real.sum(axis=1)
        generated_in += in_real.sum(axis=0)
        only = np.where(in_real.any(axis=0), start + in_real.argmax(axis=0), only)
        reached |= in_generated.any(axis=0)
    return _Met(real_balls, generated_in, only, reached)


def _inside(x: Floats, x_radii: Floats, y: Floats, y_radii: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each x lies in each y's ball, and each y in each x's: [n, m] both.

    Distances by products are several times faster than by differences, but round: rows of x in which rounding
    could decide are done again.
    """
    from scipy.spatial.distance import cdist

    x_squares, y_squares = (np.einsum("ij,ij->i", table, table) for table in (x, y))
    apart = np.column_stack([-2 * x, x_squares, np.ones(len(x))]) @ np.column_stack([y, np.ones(len(y)), y_squares]).T
    doubt = _DOUBT * (x_squares[:, None] + y_squares.max())
    surely_in_y, surely_in_x = apart <= y_radii - doubt, apart <= x_radii - doubt
    unsure = (surely_in_y != (apart <= y_radii + doubt)) | (surely_in_x != (apart <= x_radii + doubt))
    again = np.flatnonzero(unsure.any(axis=1))
    if len(again):
        exact = cdist(x[again], y, "sqeuclidean")
        surely_in_y[again], surely_in_x[again] = exact <= y_radii, exact <= x_radii[again]
    return surely_in_y, surely_in_x


# ------------------------------------------------------------------------------------------------ intervals


def _rate(outcomes: NDArray[np.bool_], given: str, confidence: float) -> Estimate:
    hits, n = int(outcomes.sum()), len(outcomes)
    interval = clopper_pearson(hits, n, confidence)
    return Estimate(hits / n, interval.model_copy(update={"method": f"{CLOPPER_PEARSON}, {given}"}), n)


def _mean(values: Floats, highest: float, given: str, confidence: float) -> Estimate:
    """The mean of values from 0 to `highest`, with Student's t.

    It knows nothing of what did not occur once. Where all values are the same, the bounds reach as far as values
    at either end would take the mean that are just common enough to be missed in n samples only by ill chance.
    """
    n, mean = len(values), float(values.mean())
    reach = float(stdtrit(n - 1, (1 + confidence) / 2) * values.std(ddof=1) / np.sqrt(n))
    unseen = exact_bounds(0, n, confidence)[1] if values.min() == values.max() else 0.0
    interval = Interval(
        lower=mean - max(reach, unseen * mean), upper=mean + max(reach, unseen * (highest - mean)),
        confidence=confidence, method=f"Student's t, {given}")
    return Estimate(mean, interval, n)


def _covered(met: _Met, given: str, confidence: float) -> Estimate:
    n, m = len(met.real_balls), len(met.generated_in)
    hits = int((met.generated_in > 0).sum())
    # Without generated sample i, the balls that it is alone in are no longer covered: all n jackknife values.
    alone = np.bincount(met.only[met.generated_in == 1], minlength=n) / m
    jackknife = (n - 1) / n * float(((alone - alone.mean()) ** 2).sum())
    share = float(np.clip(hits, 0.5, m - 0.5)) / m  # at 0 and 1 the binomial variance is zero, which it is not
    effective = m / max(1.0, jackknife / (share * (1 - share) / m))
    tail = (1 - confidence) / 2
    held = effective * hits / m
    lower = 0.0 if hits == 0 else float(betaincinv(held, effective - held + 1, tail))
    upper = 1.0 if hits == m else float(betaincinv(held + 1, effective - held, 1 - tail))
    interval = Interval(lower=lower, upper=upper, confidence=confidence,
                        method=f"exact at the effective count of balls, {given}")
    return Estimate(hits / m, interval, n)
