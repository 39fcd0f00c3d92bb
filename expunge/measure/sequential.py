"""Sampling that ends as soon as it is decided: a confidence sequence for a rate, and when it decides.

Robbins (1970, Annals of Mathematical Statistics 41, 1397-1409): a mixture of likelihood ratios against a rate m
is a nonnegative martingale if m is true, so by Ville's inequality it ever reaches 1/a with probability at most a,
whenever and why ever one stops. The rates that have not been rejected are the interval. It depends on the counts
alone, not on their order: anybody can recompute it from a report.

After h hits in n samples the mixture against m, of the rates q_k below it, is

    M(m) = sum_k w_k (q_k/m)^h ((1 - q_k)/(1 - m))^(n - h),    logit(q_k) = logit(m) - s_k
         = sum_k w_k exp(-s_k h) / (1 - m (1 - exp(-s_k)))^n,  and with s = infinity: w (1 - m)^(-n) if h = 0.

Every term grows with m, so all rates from the first rejected one upwards are rejected: that one is the upper bound.
The lower bound is the same with hits and misses exchanged, and shifts and weights of its own. The shifts s_k are
fixed and multiply the odds, so that nothing has to be tuned to a policy's limit: the same bounds serve all of them.
"""


import numpy as np
from numpy.typing import ArrayLike

from expunge.errors import BadInput
from expunge.measure.proportions import Bools, Floats, Sides, booleans, bounds_by, decides, tail_of

SEQUENCE = "confidence sequence"

_CHUNK = 8_192  # samples that are looked at together


class _Mixture:
    """Fixed alternatives on one side of whatever rate is doubted: shifts of its log odds, and their weights."""

    def __init__(self, shifts: ArrayLike, weights: ArrayLike) -> None:
        self.shifts = np.asarray(shifts, dtype=np.float64)[:, None]  # [k, 1]
        self.log_weights = np.log(np.asarray(weights, dtype=np.float64) / np.sum(weights))[:, None]
        self._drops = np.expm1(-self.shifts)

    def against(self, doubted: float, hits: Floats, n: Floats) -> Floats:
        """Logarithm of the mixture of rates below `doubted`, after `hits` [b] in `n` [b] samples."""
        return self._of(doubted, self._from_hits(hits), n)

    def bound(self, hits: float, n: float, tail: float) -> float:
        """The lowest rate that is rejected, above which all are; 1 if none is."""
        from scipy.optimize import brentq  # slow to import, and only needed here

        known, samples, needed = self._from_hits(np.array([hits])), np.array([n]), float(np.log(tail))

        def excess(doubted: float) -> float:
            return float(self._of(doubted, known, samples)[0]) + needed

        highest = float(np.nextafter(1.0, 0.0))
        if excess(highest) < 0:
            return 1.0
        # No alternative is more likely than the observed rate itself, so that one is never rejected.
        return float(brentq(excess, hits / n, highest, xtol=1e-16, rtol=1e-15))

    def _from_hits(self, hits: Floats) -> Floats:
        with np.errstate(invalid="ignore"):  # no hit does not speak against a rate of zero
            return self.log_weights + np.where(hits == 0, 0.0, -self.shifts * hits)

    def _of(self, doubted: float, from_hits: Floats, n: Floats) -> Floats:
        terms = from_hits - np.log1p(doubted * self._drops) * n  # [k, b]
        most = terms.max(axis=0)
        total: Floats = most + np.log(np.exp(terms - most).sum(axis=0))
        return total


# Half powers of two of the odds' logarithm, from a seventeenth of the odds to where a rate is on the limit for all
# purposes. The weights were chosen by the mean number of samples until a limit of 1 % or 5 % is decided, against
# Wald's bound, at true rates from 0 to ten times the limit: `benchmarks/sequential.py` prints what they reach, at
# those rates and at others.
_SHIFTS = 2.0 ** (1.5 - np.arange(17) / 2)
_LOWER_ALTERNATIVES = _Mixture(
    np.append(np.inf, _SHIFTS),  # infinity: a rate of zero
    [0.24, 0.18, 0.12, 0.02, 0.03, 0.1, 0.24, 0.017, 0.013, 0.01, 0.008, 0.006, 0.004, 0.003, 0.003, 0.002, 0.002,
     0.002],
)
_HIGHER_ALTERNATIVES = _Mixture(
    _SHIFTS,
    [0.105, 0.24, 0.33, 0.005, 0.25, 0.02, 0.014, 0.01, 0.007, 0.005, 0.004, 0.003, 0.002, 0.002, 0.001, 0.001, 0.001],
)


@bounds_by(SEQUENCE)
def sequence_bounds(hits: float, n: float, confidence: float, sides: Sides = "two-sided") -> tuple[float, float]:
    """Bounds of a rate, as fractions, that hold together for every n: after `hits` in `n` trials so far.

    With probability at least `confidence` the rate lies within them at every n at once, so sampling may end at any
    of them for whatever reason. They always contain hits/n. Counts need not be whole (see `exact_bounds`).
    Raises BadInput for counts that cannot be.
    """
    tail = tail_of(hits, n, confidence, sides)
    lower = 0.0 if sides == "upper" else 1.0 - _HIGHER_ALTERNATIVES.bound(n - hits, n, tail)
    upper = 1.0 if sides == "lower" else _LOWER_ALTERNATIVES.bound(hits, n, tail)
    return lower, upper


def decided_at(
    outcomes: ArrayLike, limit: float, confidence: float = 0.95, sides: Sides = "two-sided"
) -> int | None:
    """The number of samples after which the rate's confidence sequence is first on one side of `limit`.

    `outcomes` is a boolean array [n] in the order of drawing; None if all of them do not decide. One-sided, either
    side is allowed its own full alpha, as in `proportions.decides`, which has the last word at every candidate.
    """
    found = booleans(outcomes, "outcomes")
    if not 0 < limit < 1:
        raise BadInput(f"limit: {limit}", "give a fraction between 0 and 1, such as 0.01")
    nearly = -np.log(tail_of(0, 1, confidence, sides)) - 1e-6  # no candidate is lost to rounding

    def candidates(h: Floats, n: Floats) -> Bools:
        low: Bools = _LOWER_ALTERNATIVES.against(limit, h, n) >= nearly
        return low | (_HIGHER_ALTERNATIVES.against(1 - limit, n - h, n) >= nearly)

    hits = 0
    for first in range(0, len(found), _CHUNK):
        drawn = found[first : first + _CHUNK]
        h = hits + np.cumsum(drawn, dtype=np.float64)
        n = np.arange(first + 1, first + 1 + len(drawn), dtype=np.float64)
        hits = int(h[-1])
        # Misses alone make a low rate likelier and hits alone a high one: what can decide is a hit, or a last miss.
        turns = drawn | np.append(drawn[1:], True)
        if not candidates(h[turns], n[turns]).any():
            continue
        for at in np.flatnonzero(candidates(h, n)):
            if decides(int(h[at]), int(n[at]), limit, confidence, sides, bounds=sequence_bounds):
                return int(n[at])
    return None
