"""The true rate behind a judge that errs: a count of its yeses, corrected for how it did on real images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.proportions import Estimate, Floats, exact_bounds

MELDED = "melded Clopper-Pearson (Bayer, Fay and Graubard)"
WITHOUT_SPECIFICITY = f"{MELDED}, specificity taken as 1: on real images it is too low for these counts"
WITHOUT_SENSITIVITY = f"{MELDED}, sensitivity taken as 1: on real images it is too low for these counts"

Count: TypeAlias = tuple[int, int]  # hits, of how many

# Quadrature over a rate's quantiles by the trapezoidal rule in normal scores, which converges fast for whatever is
# smooth and dies away at both ends. The tests hold its outcome against random draws.
_SCORES = np.linspace(-5, 5, 32)
_WEIGHT = np.exp(-(_SCORES**2) / 2)
_WEIGHT = _WEIGHT / _WEIGHT.sum()


def corrected_rate(
    hits: int, n: int, sensitivity: Count, specificity: Count, confidence: float = 0.95
) -> Estimate:
    """The share of the truly unwanted among n samples, of which a judge called `hits` unwanted.

    `sensitivity` is (seen, of how many) real images of the unwanted, `specificity` (not so called, of how
    many) other real images; the three counts are independent, each with a size fixed in advance. What the
    judge says yes to is p = pi Se + (1 - pi)(1 - Sp), so

        pi = (p + Sp - 1) / (Se + Sp - 1)          (Rogan and Gladen 1978, Am. J. Epidemiol. 107, 71-76)

    The value is that estimate, moved to the nearest point of the interval if it lies outside: few hits make
    it negative.

    The interval melds three exact ones (Bayer, Fay and Graubard 2023, Statistics in Medicine, 'Confidence
    intervals for prevalence estimates from complex surveys with imperfect assays'; melding itself: Fay,
    Proschan and Brittain 2015, Biometrics 71, 146-156). A Clopper-Pearson bound is a quantile of a beta
    distribution, the upper one of Beta(k + 1, n - k), the lower one of Beta(k, n - k + 1). pi grows with p,
    grows with Sp and falls with Se, so its upper limit is the 1 - alpha/2 quantile of the formula above with
    independent draws of p and Sp from their upper and of Se from its lower distribution; its lower limit the
    other way round. The quantile is found from P(p <= pi Se + (1 - pi)(1 - Sp)), by quadrature: no draws, so
    the same counts always give the same limits. That melding never covers less than the nominal level is
    unproven for three rates; `benchmarks/coverage.py` holds it against known truth, beside the interval of
    Lang and Reiczigel (2014, Preventive Veterinary Medicine 113, 13-22), whose upper limit errs more often
    than it says where the judge hardly ever does.

    The upper limit is the one to gate on: how much may be left. Real images may not carry over to generated
    ones. Where the judge says yes even more seldom than on real images of other classes, so that the formula
    falls below zero, there is reason to think so, and the melded limit would shrink to nothing. The upper
    limit then takes specificity as 1, which errs on the safe side for every judge: pi <= p / Se. The same with
    sensitivity and the lower limit where the formula exceeds 1. `Interval.method` says which was done.

    Raises:
        BadInput: counts that cannot be; no real image of a kind; or Se + Sp - 1 is not shown to be positive
            (sum of the exact lower bounds, together at `confidence`): a judge that says yes, or no, whatever
            it sees.
    """
    for name, (_, images), kind in (("sensitivity", sensitivity, "an unwanted"),
                                    ("specificity", specificity, "another")):
        if not images:
            raise BadInput(f"{name}: there is no real image of {kind} class", "hold out some of both kinds")
    exact_bounds(hits, n, confidence)  # refuses counts that cannot be
    _must_tell_apart(sensitivity, specificity, confidence)
    tail = (1 - confidence) / 2
    se, sp = (right / images for right, images in (sensitivity, specificity))
    value = (hits / n + sp - 1) / (se + sp - 1)
    at_most = _chance(_upper((hits, n)), _lower(sensitivity), _ALWAYS if value < 0 else _upper(specificity))
    at_least = _chance(_lower((hits, n)), _ALWAYS if value > 1 else _upper(sensitivity), _lower(specificity))
    lower, upper = _first(at_least, tail), _first(at_most, 1 - tail)
    method = WITHOUT_SPECIFICITY if value < 0 else WITHOUT_SENSITIVITY if value > 1 else MELDED
    interval = Interval(lower=lower, upper=upper, confidence=confidence, method=method)
    return Estimate(min(max(value, lower), upper), interval, n)


def _must_tell_apart(sensitivity: Count, specificity: Count, confidence: float) -> None:
    shown = sum(exact_bounds(*count, confidence)[0] for count in (sensitivity, specificity))
    if shown <= 1:
        found = ", ".join(f"{name} {right} of {images}" for name, (right, images)
                          in (("sensitivity", sensitivity), ("specificity", specificity)))
        raise BadInput(f"judge: it is not shown to tell the unwanted from the rest ({found} real images)",
                       "use a judge that does, or hold out more images of the kind that has few")


# ----------------------------------------------------------------------------------------- what a count says


@dataclass(frozen=True)
class _Belief:
    """A confidence distribution of a rate: Beta(a, b), all of it at 0 or at 1 if a or b is zero."""

    a: float
    b: float

    @property
    def spread(self) -> float:
        """Standard deviation."""
        whole = self.a + self.b
        return math.sqrt(self.a * self.b / (whole + 1)) / whole

    def quantiles(self) -> Floats:
        """At the nodes of the quadrature."""
        from scipy.special import betaincinv, ndtr

        if not self.a or not self.b:
            return np.full(len(_SCORES), float(self.a > 0))
        return np.asarray(betaincinv(self.a, self.b, ndtr(_SCORES)))

    def below(self, x: Floats) -> Floats:
        """The probability of at most x."""
        from scipy.special import betainc

        if not self.a or not self.b:
            return np.asarray(x >= float(self.a > 0), dtype=np.float64)
        return np.asarray(betainc(self.a, self.b, np.clip(x, 0, 1)))


_ALWAYS = _Belief(1, 0)


def _upper(count: Count) -> _Belief:
    hits, n = count
    return _Belief(hits + 1, n - hits)


def _lower(count: Count) -> _Belief:
    hits, n = count
    return _Belief(hits, n - hits + 1)


def _chance(p: _Belief, se: _Belief, sp: _Belief) -> Callable[[float], float]:
    """P(p <= pi Se + (1 - pi)(1 - Sp)) as a function of pi: that pi is at least the corrected rate."""
    quantiles = {belief: belief.quantiles() for belief in (p, se, sp)}

    def chance(pi: float) -> float:
        # p - pi Se + (1 - pi) Sp <= 1 - pi. The widest term is integrated exactly, by its distribution
        # function: that leaves nothing abrupt to the quadrature over the other two.
        terms = sorted(((1.0, p), (-pi, se), (1 - pi, sp)), key=lambda term: -abs(term[0]) * term[1].spread)
        (factor, widest), (first, one), (second, other) = terms
        room = 1 - pi - first * quantiles[one][:, None] - second * quantiles[other][None, :]
        if not factor:  # nothing is uncertain
            return float(room[0, 0] >= 0)
        within = widest.below(room / factor) if factor > 0 else 1 - widest.below(room / factor)
        return float(_WEIGHT @ within @ _WEIGHT)

    return chance


def _first(chance: Callable[[float], float], level: float) -> float:
    """Where a growing function of pi reaches a level; 0 or 1 if it does so outside of what a rate can be."""
    from scipy.optimize import brentq

    if chance(0.0) >= level:
        return 0.0
    if chance(1.0) <= level:
        return 1.0
    return float(brentq(lambda pi: chance(pi) - level, 0.0, 1.0, xtol=1e-12))
