"""How many samples does it take until a limit is decided, when sampling ends as soon as it is, and is that sound?

    python benchmarks/sequential.py

Mean sample counts, wrong decisions and coverage at the moment of stopping are exact: a forward recursion over
(samples, hits) with the decisions of the confidence sequence itself, two-sided at 95 %; nothing is drawn.

- Wald: log(1/0.025) / KL(true rate || limit). No rule that decides against a rate on the limit in at most 2.5 % of
  all cases can do with fewer samples on average.
- told: the mean of a rule by the same inequality that had been told the true rate and tests nothing else. What it
  needs above Wald's bound is the overshoot: a last hit that proves more than was asked for.
- role: the weights of the mixture were chosen by the means at the rates "asked", and with a look at some more;
  the others, and the limit of 20 %, played no part.
- fixed, same rate: samples with which the exact interval, of a number fixed in advance, decides if the observed rate
  is the true one. fixed, 9 in 10: samples that must be fixed in advance for it to decide rightly nine times in ten.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal

import numpy as np
from recording import record
from scipy.special import rel_entr
from scipy.stats import binom

from expunge.measure.proportions import exact_bounds, samples_to_decide
from expunge.measure.sequential import sequence_bounds

CONFIDENCE, SIDE = 0.95, 0.025
LIMITS = (0.01, 0.05, 0.2)
ASKED = (0.0, 0.1, 0.2, 0.3, 0.5, 2.0, 3.0, 5.0, 10.0)  # times the limit: what is to be within Wald's bound ...
ASKED_OF = (0.01, 0.05)  # ... at these limits
LOOKED_AT = (0.7, 1.5, 2.5, 4.0, 7.0)  # too, in choosing the weights at those limits
OTHERS = (0.05, 0.15, 0.4, 0.6, 0.8, 1.25, 1.75, 6.0, 15.0)
WITHIN = 1.3  # of Wald's bound
MOST = 1_000_000  # samples of a fixed design
POWER = 0.9
TINY = 1e-12  # of the probability, at the rim of what can happen
UNDECIDED = 1e-5  # the recursion ends when no more than this is left, which counts as if it were decided there


@dataclass(frozen=True)
class Row:
    """What became of one true rate."""

    limit: float
    times: float  # the true rate, in limits
    role: Literal["asked", "looked at", "other"]
    mean: float
    wald: float
    told: float
    wrong: float  # share of wrong decisions
    covered: float  # by the interval at the moment of stopping
    fixed_same_rate: int | None
    fixed_with_power: int | None

    @property
    def ratio(self) -> float:
        """Mean samples over Wald's bound."""
        return self.mean / self.wald


class Sequence:
    """The decisions of `sequence_bounds` about a limit, found by asking it, for as many hits as are met."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._kept: list[float] = []
        self._broken: list[float] = []

    def kept_from(self, hits: int) -> float:
        """From how many samples on so many hits say that the rate is at most the limit."""
        while len(self._kept) <= hits:
            h, last = len(self._kept), int(self._kept[-1]) if self._kept else 0
            self._kept.append(_first(lambda n, h=h: sequence_bounds(h, n, CONFIDENCE)[1] <= self.limit, max(last, h)))
        return self._kept[hits]

    def broken_to(self, hits: int) -> float:
        """Up to how many samples so many hits say that the rate is above the limit."""
        while len(self._broken) <= hits:
            h, last = len(self._broken), int(self._broken[-1]) if self._broken else 0
            first = _first(lambda n, h=h: sequence_bounds(h, n, CONFIDENCE)[0] <= self.limit, max(last, h))
            self._broken.append(first - 1)
        return self._broken[hits]


class Told:
    """The decisions of the likelihood ratio of the true rate against the limit, at 1/0.025."""

    def __init__(self, true: float, limit: float) -> None:
        self.below, self.needed = true < limit, math.log(1 / SIDE)
        self.of_hit = math.log(true / limit) if true else 0.0  # no hit is met then
        self.of_miss = math.log((1 - true) / (1 - limit))

    def kept_from(self, hits: int) -> float:
        """From how many samples on so many hits prove the true rate, where it is below the limit."""
        return hits + math.ceil((self.needed - hits * self.of_hit) / self.of_miss) if self.below else math.inf

    def broken_to(self, hits: int) -> float:
        """Up to how many samples so many hits prove the true rate, where it is above the limit."""
        misses = math.floor((self.needed - hits * self.of_hit) / self.of_miss)
        return hits + misses if not self.below and misses >= 0 else -math.inf


def _first(holds: Callable[[int], bool], low: int) -> int:
    """The first number from `low`, or 1, on for which `holds`, which it then does for ever."""
    low = max(low, 1)
    if holds(low):
        return low
    step = 1
    while not holds(low + step):
        low, step = low + step, 2 * step
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@dataclass
class Walked:
    """Mean samples until decided, with what probability which way, and the truth excluded at that moment."""

    mean: float = 0.0
    kept: float = 0.0
    broken: float = 0.0
    excluded: float = 0.0


def walk(true: float, about: Sequence | Told, truth: Sequence | None = None) -> Walked:
    """All ways that sampling from a true rate can go until it is decided; `truth`: decisions about that rate."""
    found, left, n, low, high = Walked(), 1.0, 0, 0, 0
    alive = np.zeros(1_024)
    alive[0] = 1.0

    def end(hits: int) -> float:
        nonlocal left
        mass = float(alive[hits])
        alive[hits] = 0.0
        left -= mass
        if truth is not None and not truth.broken_to(hits) < n < truth.kept_from(hits):
            found.excluded += mass
        return mass

    while left > UNDECIDED:
        found.mean, n, high = found.mean + left, n + 1, high + 1
        if high == len(alive):
            alive = np.append(alive, np.zeros(high))
        now = alive[low : high + 1]
        came = now[:-1] * true
        now *= 1 - true
        now[1:] += came
        while high > low and now[high - low] < TINY:  # a rest that nobody will miss
            left, high = left - float(alive[high]), high - 1
            alive[high + 1] = 0.0
        while low <= high and about.kept_from(low) <= n:
            found.kept, low = found.kept + end(low), low + 1
        while high >= low and about.broken_to(high) >= n:
            found.broken, high = found.broken + end(high), high - 1
    return found


def measure(limit: float, times: float) -> Row:
    """One true rate, in limits."""
    true = times * limit
    about = _sequence(limit)
    found = walk(true, about, _sequence(true) if true else None)
    more = samples_to_decide(true, 1, limit, CONFIDENCE)
    return Row(
        limit=limit, times=times, role=_role(limit, times), mean=found.mean,
        wald=math.log(1 / SIDE) / float(rel_entr(true, limit) + rel_entr(1 - true, 1 - limit)),
        told=walk(true, Told(true, limit)).mean, wrong=found.broken if times < 1 else found.kept,
        covered=1 - found.excluded, fixed_same_rate=None if more is None else 1 + more,
        fixed_with_power=fixed_design(true, limit))


def _role(limit: float, times: float) -> Literal["asked", "looked at", "other"]:
    if limit not in ASKED_OF:
        return "other"
    return "asked" if times in ASKED else "looked at" if times in LOOKED_AT else "other"


_sequence = cache(Sequence)


def fixed_design(true: float, limit: float) -> int | None:
    """The fewest samples, on a fine grid, with which the exact interval decides rightly with a chance of `POWER`."""
    candidates = np.unique(np.geomspace(1, MOST, 2_000).astype(int))
    return next((int(n) for n in candidates if _power(int(n), true, limit) >= POWER), None)


def _power(n: int, true: float, limit: float) -> float:
    if true < limit:
        return float(binom.cdf(_most_that_pass(n, limit), n, true))
    return float(binom.sf(_most_that_do_not_fail(n, limit), n, true))


@cache
def _most_that_pass(n: int, limit: float) -> int:
    return _first(lambda h: h > n or exact_bounds(h - 1, n, CONFIDENCE)[1] > limit, 1) - 2


@cache
def _most_that_do_not_fail(n: int, limit: float) -> int:
    return _first(lambda h: h > n or exact_bounds(h, n, CONFIDENCE)[0] > limit, 1) - 1


def main() -> None:
    start = time.process_time()
    rows = [measure(limit, times) for limit in LIMITS for times in sorted(ASKED + LOOKED_AT + OTHERS)
            if limit * times < 1]
    table = [
        "| limit | true rate / limit | role | mean samples | Wald | ratio | told | ratio | wrong | covered "
        "| fixed, same rate | fixed, 9 in 10 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|"]
    table += [
        f"| {row.limit:.0%} | {row.times:g} | {row.role} | {row.mean:,.1f} | {row.wald:,.1f} "
        f"| {row.ratio:.3f} | {row.told:,.1f} | {row.told / row.wald:.3f} | {row.wrong:.4f} | {row.covered:.4f} "
        f"| {_count(row.fixed_same_rate)} | {_count(row.fixed_with_power)} |" for row in rows]
    asked = [row for row in rows if row.role == "asked"]
    beyond = [row for row in rows if row.ratio > WITHIN]
    table += [
        "", f"Within {WITHIN} of Wald's bound: {len(asked) - sum(row.role == 'asked' for row in beyond)} of the "
            f"{len(asked)} rates asked, {len(rows) - len(beyond)} of all {len(rows)}. Beyond it, of those asked: "
            f"{_listed([row for row in beyond if row.role == 'asked'])}. Of the others: "
            f"{_listed([row for row in beyond if row.role != 'asked'])}.",
        "", "Far above the limit a hit multiplies the odds by so much that the last one overshoots what had to be "
            "proved (column `told`), and a mixture pays for not being told the rate on top of that; but few "
            "samples decide there. Next to the limit the mixture has little weight: it takes many samples in any case.",
        "", f"{time.process_time() - start:.0f} s of processor time."]
    record("sequential", {"rows": [{**asdict(row), "ratio": row.ratio} for row in rows]}, "\n".join(table))


def _listed(rows: list[Row]) -> str:
    return ", ".join(f"{row.times:g} limits of {row.limit:.0%} ({row.ratio:.3f})" for row in rows) or "none"


def _count(samples: int | None) -> str:
    return f"more than {MOST:,}" if samples is None else f"{samples:,}"


if __name__ == "__main__":
    main()
