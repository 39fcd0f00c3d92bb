"""Exact intervals for counts: a rate, a paired difference of two, the share of a class that is left, and PUL.

Unless told otherwise, all intervals are Clopper-Pearson or built from Clopper-Pearson bounds, so their coverage
is at least nominal at every sample size and every true rate (Clopper and Pearson 1934, Biometrika 26, 404-413).
They hold for a sample size fixed in advance. Where what was seen may end the sampling, hand in the bounds of
`sequential.sequence_bounds`: the same intervals are then built from a confidence sequence.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.contracts import Interval
from expunge.errors import BadInput

Sides = Literal["two-sided", "upper", "lower"]

CLOPPER_PEARSON = "Clopper-Pearson"
_ONE_SIDED: dict[str, Sides] = {", one-sided upper": "upper", ", one-sided lower": "lower"}

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]


class Bounds(Protocol):
    """How a rate is bounded by its counts: `exact_bounds`, or any function with its conventions."""

    def __call__(self, hits: float, n: float, confidence: float, sides: Sides = "two-sided") -> tuple[float, float]:
        """Lower and upper bound of the rate, as fractions."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and the sample count that carries it."""

    value: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class PairedCounts:
    """How often something held before and after, on the same latents: the four cells of a paired table."""

    stayed: int  # before and after
    left: int  # before only
    gained: int  # after only
    never: int

    @property
    def before(self) -> int:
        """How many latents it held for before."""
        return self.stayed + self.left

    @property
    def after(self) -> int:
        """How many latents it holds for after."""
        return self.stayed + self.gained

    @property
    def n(self) -> int:
        """All latents."""
        return self.stayed + self.left + self.gained + self.never

    @classmethod
    def of(cls, before: ArrayLike, after: ArrayLike) -> "PairedCounts":
        """Counts two boolean arrays [n] over the same latents, in the same order; BadInput if they differ."""
        was, is_now = booleans(before, "before"), booleans(after, "after")
        if was.shape != is_now.shape:
            raise BadInput(f"after: {is_now.size} outcomes, before: {was.size}", "measure the same latents")
        return cls(
            int(np.sum(was & is_now)),
            int(np.sum(was & ~is_now)),
            int(np.sum(~was & is_now)),
            int(np.sum(~was & ~is_now)),
        )


def describe_method(method: str, sides: Sides) -> str:
    """The text of `Interval.method`: the method, and its side if it has only one."""
    return method if sides == "two-sided" else f"{method}, one-sided {sides}"


def sides_of(interval: Interval) -> Sides:
    """Whether an interval bounds both sides or only one, as its method says."""
    named = (sides for ending, sides in _ONE_SIDED.items() if interval.method.endswith(ending))
    return next(named, "two-sided")


_METHODS: dict[Bounds, str] = {}


def bounds_by(method: str) -> Callable[[Bounds], Bounds]:
    """Names the method of a function that bounds a rate: what `Interval.method` begins with."""

    def named(bounds: Bounds) -> Bounds:
        _METHODS[bounds] = method
        return bounds

    return named


def method_of(bounds: Bounds, *, paired: bool = False) -> str:
    """The name that `bounds_by` gave to a function, for a rate or for what is made from paired counts."""
    return f"paired {_METHODS[bounds]}" if paired else _METHODS[bounds]


@bounds_by(CLOPPER_PEARSON)
def exact_bounds(hits: float, n: float, confidence: float, sides: Sides = "two-sided") -> tuple[float, float]:
    """Clopper-Pearson bounds of a rate after `hits` in `n` trials, as fractions.

    The bounds are quantiles of Beta(hits, n - hits + 1) and Beta(hits + 1, n - hits), which also gives them
    for numbers that are not whole: planning asks what the interval would be at the same rate and another n,
    and a correlated sample is worth some other, effective number of trials.
    Raises BadInput for counts that cannot be.
    """
    from scipy.special import betaincinv  # slow to import, and only needed here

    tail = tail_of(hits, n, confidence, sides)
    lower = 0.0 if hits == 0 or sides == "upper" else float(betaincinv(hits, n - hits + 1, tail))
    upper = 1.0 if hits == n or sides == "lower" else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return lower, upper


def tail_of(hits: float, n: float, confidence: float, sides: Sides) -> float:
    """What each bound may err: alpha, or half of it if there are two. BadInput for counts that cannot be."""
    if not (math.isfinite(hits) and n >= 1 and 0 <= hits <= n):
        raise BadInput(f"hits: {hits} of {n}", "counts need at least one trial and 0 <= hits <= n")
    if not 0 < confidence < 1:
        raise BadInput(f"confidence: {confidence}", "give a fraction between 0 and 1, such as 0.95")
    return (1 - confidence) / (2 if sides == "two-sided" else 1)


def clopper_pearson(hits: int, n: int, confidence: float = 0.95, sides: Sides = "two-sided") -> Interval:
    """The exact interval of a rate after `hits` in `n` trials fixed in advance."""
    return _interval(hits, n, confidence, sides, exact_bounds)


def _interval(hits: int, n: int, confidence: float, sides: Sides, bounds: Bounds) -> Interval:
    lower, upper = bounds(hits, n, confidence, sides)
    return Interval(
        lower=lower, upper=upper, confidence=confidence, method=describe_method(method_of(bounds), sides)
    )


def rate(
    outcomes: ArrayLike, confidence: float = 0.95, sides: Sides = "two-sided", *, bounds: Bounds = exact_bounds
) -> Estimate:
    """The share of true outcomes in a boolean array [n], with its interval, exact unless other `bounds` are given."""
    found = booleans(outcomes, "outcomes")
    if not found.size:
        raise BadInput("outcomes: there is no sample", "draw at least one")
    hits = int(found.sum())
    return Estimate(hits / found.size, _interval(hits, found.size, confidence, sides, bounds), found.size)


def paired_ratio(
    counts: PairedCounts, confidence: float = 0.95, sides: Sides = "two-sided", *, bounds: Bounds = exact_bounds
) -> Estimate:
    """After/before of a count on the same latents, with an interval that is honest about the pairing.

    Let B of the n latents hold before, s of them still after, and g of the other n - B newly. Then
    after/before = s/B + g/B. Given B, s ~ Bin(B, p) and g ~ Bin(n - B, q) are independent, and what is
    estimated is rho = p + q (n - B)/B. Exact bounds for p and q, each at level 1 - alpha/2, hold together
    with probability at least 1 - alpha (Bonferroni), and rho grows in both, so

        p_low + q_low (n - B)/B  <=  rho  <=  p_up + q_up (n - B)/B

    covers with at least 1 - alpha, conditionally on B and therefore on average too. A plain binomial interval
    for after/n would treat the known B as if it had been drawn anew. `n` of the result is B: the latents that
    carry the claim. Raises BadInput when nothing held before.

    With the bounds of a confidence sequence, those of p hold at every B and those of q at every n - B together
    with the same probability, so rho is covered whenever one stops; the odds are those of the latents drawn.
    """
    before, others = counts.before, counts.n - counts.before
    if not before:
        raise BadInput("before: it never held, so there is no ratio", "draw more samples")
    half = 1 - (1 - confidence) / 2
    stay_low, stay_up = bounds(counts.stayed, before, half, sides)
    gain_low, gain_up = bounds(counts.gained, others, half, sides) if others else (0.0, 0.0)
    odds = others / before
    return Estimate(
        counts.after / before,
        Interval(
            lower=stay_low + gain_low * odds,
            upper=stay_up + gain_up * odds,
            confidence=confidence,
            method=describe_method(method_of(bounds, paired=True), sides),
        ),
        before,
    )


def pul(
    counts: PairedCounts, confidence: float = 0.95, sides: Sides = "two-sided", *, bounds: Bounds = exact_bounds
) -> Estimate:
    """PUL, the percentage of un-learning, as a fraction: (before - after) / before on the same latents.

    Tiwary et al. 2023, "Adapt then Unlearn", section 5: with the interval of `paired_ratio`, mirrored, since
    PUL = 1 - after/before. New hits among latents that were clean count against it, so it can be negative.
    """
    mirrored: Sides = {"upper": "lower", "lower": "upper"}.get(sides, "two-sided")  # type: ignore[assignment]
    left = paired_ratio(counts, confidence, mirrored, bounds=bounds)
    return Estimate(
        1 - left.value,
        Interval(
            lower=1 - left.interval.upper,
            upper=1 - left.interval.lower,
            confidence=confidence,
            method=describe_method(method_of(bounds, paired=True), sides),
        ),
        left.n,
    )


def paired_difference(counts: PairedCounts, confidence: float = 0.95, *, bounds: Bounds = exact_bounds) -> Estimate:
    """Rate after minus rate before, of something that the same n samples were asked about twice: from -1 to 1.

    Only samples whose answer changed count: the difference is the share gained minus the share lost. Each of the two
    counts is binomial over all n, so exact two-sided bounds for either, at level 1 - alpha/2, hold together with
    probability at least 1 - alpha (Bonferroni), and

        gained_low - lost_up  <=  difference  <=  gained_up - lost_low

    covers with at least 1 - alpha, and misses on either side with at most alpha/2, at every n and whatever the two
    shares are. Samples that answered alike cost nothing, which is what pairing is for.
    Raises BadInput when there is no sample.
    """
    if not counts.n:
        raise BadInput("before, after: there is no sample", "ask about at least one")
    half = 1 - (1 - confidence) / 2
    gain_low, gain_up = bounds(counts.gained, counts.n, half)
    lost_low, lost_up = bounds(counts.left, counts.n, half)
    return Estimate(
        (counts.gained - counts.left) / counts.n,
        Interval(lower=gain_low - lost_up, upper=gain_up - lost_low, confidence=confidence,
                 method=method_of(bounds, paired=True)),
        counts.n,
    )


def highest(found: Sequence[Estimate], confidence: float) -> Estimate:
    """The highest of k numbers, whose intervals hold with 1 - alpha / k each: which of them it is was seen.

    The highest lower and the highest upper bound then enclose the highest true number, whichever that is
    (Bonferroni). `n` is the smallest of theirs. Raises BadInput when there is none.
    """
    if not found:
        raise BadInput("values: there is none to be the highest", "ask about at least one")
    value = max(found, key=lambda one: one.value)
    method = value.interval.method
    return Estimate(value.value, Interval(
        lower=max(one.interval.lower for one in found), upper=max(one.interval.upper for one in found),
        confidence=confidence, method=method if len(found) == 1 else f"highest of {len(found)}, {method}, Bonferroni",
    ), min(one.n for one in found))


def decides(
    hits: float, n: int, limit: float, confidence: float, sides: Sides = "two-sided", *, bounds: Bounds = exact_bounds
) -> bool:
    """Whether the interval lies wholly on one side of `limit`. One-sided, either side is allowed its own full alpha."""
    below: Sides
    above: Sides
    below, above = ("two-sided", "two-sided") if sides == "two-sided" else ("upper", "lower")
    return bounds(hits, n, confidence, below)[1] <= limit or bounds(hits, n, confidence, above)[0] > limit


def samples_to_decide(
    hits: float, n: int, limit: float, confidence: float, sides: Sides = "two-sided", most: int = 100_000_000,
    *, bounds: Bounds = exact_bounds,
) -> int | None:
    """How many samples *more* than `n` put the interval wholly on one side of `limit`.

    Computed by the same bounds at the same observed rate hits/n; None if not even `most` samples would, as
    when the rate is the limit itself. With 0 hits and a limit of 1 % the total is 368 two-sided and 299
    one-sided, both at 95 % and by exact bounds. One-sided, either side is allowed its own full alpha.
    """
    observed = hits / n

    def decided(total: int) -> bool:
        return decides(min(observed * total, total), total, limit, confidence, sides, bounds=bounds)

    if decided(n):
        return 0
    if not decided(most):
        return None
    low, high = n, most  # at a fixed rate both bounds move towards it as n grows: bisection is sound
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high - n


def booleans(values: ArrayLike, name: str) -> Bools:
    """Values as a boolean array [n]; BadInput, by that name, if they are anything else."""
    array = np.asarray(values)
    if array.dtype != np.bool_ or array.ndim != 1:
        raise BadInput(f"{name}: {array.dtype} of shape {array.shape}", "give a boolean array [n]")
    return array
