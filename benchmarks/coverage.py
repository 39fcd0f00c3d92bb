"""Do the intervals hold what they say? Coverage against known truth, exact where outcomes can be enumerated.

    python benchmarks/coverage.py [--quick] [--only NAME ...]

Every row is a method in one setting; its worst coverage over a grid of true values is what counts, and where that
was. "Too low" and "too high" are the worst shares of intervals that lie wholly on that side of the truth: a gate on
an upper limit opens wrongly by the first. Methods in brackets are not used by expunge and stand here for comparison.
A row is marked if it falls short by more than three Monte-Carlo errors, on either side alone or both together.
Seeds are fixed, one per cell or run. Distances other than KID have their own file, `coverage_distances.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
from coverage_distances import features_of
from numpy.typing import NDArray
from recording import record
from scipy.stats import binom, multinomial, norm, rankdata
from threadpoolctl import threadpool_limits

from expunge.contracts import Interval
from expunge.measure.distances import compare_kid
from expunge.measure.judged import corrected_rate
from expunge.measure.medians import fewest, median_interval
from expunge.measure.proportions import Bounds, PairedCounts, Sides, exact_bounds, paired_difference, paired_ratio
from expunge.measure.ranks import auc
from expunge.measure.sequential import decided_at, sequence_bounds
from expunge.measure.shares import kept_shares

CONFIDENCE = 0.95
Floats = NDArray[np.float64]
Limits = tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """One true value: how often intervals covered it, and how often they lay below or above it."""

    at: str
    covered: float
    too_low: float
    too_high: float


@dataclass(frozen=True)
class Row:
    """The worst of several true values in one setting."""

    method: str
    setting: str
    nominal: float
    worst: float
    at: str
    too_low: float
    too_high: float
    error: float  # Monte-Carlo, one standard deviation at nominal coverage; 0 if enumerated
    holds: bool


def row(method: str, setting: str, cells: Iterable[Cell], runs: int = 0, nominal: float = CONFIDENCE,
        sides: Sides = "two-sided") -> Row:
    """The worst cells; `runs` behind each, none if they were enumerated."""
    found = list(cells)
    worst = min(found, key=lambda cell: cell.covered)
    low, high = max(cell.too_low for cell in found), max(cell.too_high for cell in found)
    tail = (1 - nominal) / (2 if sides == "two-sided" else 1)

    def error(share: float) -> float:
        return (share * (1 - share) / runs) ** 0.5 if runs else 0.0

    slack = 3 * error(tail) + 1e-9
    holds = worst.covered >= nominal - 3 * error(nominal) - 1e-9 and low <= tail + slack and high <= tail + slack
    return Row(method, setting, nominal, worst.covered, worst.at, low, high, error(nominal), holds)


def cell(at: str, truth: float, found: Iterable[Limits | Interval]) -> Cell:
    """How often intervals held one true value."""
    low, high = np.array([(each.lower, each.upper) if isinstance(each, Interval) else each for each in found]).T
    return Cell(at, float(((low <= truth) & (truth <= high)).mean()), float((high < truth).mean()),
                float((low > truth).mean()))


# ------------------------------------------------------------------------------------------------ counts


def rates(quick: bool) -> Floats:
    """From one in 100,000 to a half, evenly in their logarithms, and mirrored."""
    low = np.geomspace(1e-5, 0.5, 40 if quick else 150)
    return np.concatenate([low, 1 - low[-2::-1]])


def exact(quick: bool) -> Iterator[Row]:
    """Every outcome of every sample size, and every rate of the grid."""
    sizes = np.unique(np.geomspace(1, 2_000, 25).astype(int)) if quick else np.arange(1, 2_001)
    true = rates(quick)
    chosen: tuple[tuple[float, Sides], ...] = ((0.95, "two-sided"), (0.95, "upper"))
    for confidence, sides in chosen if quick else (*chosen, (0.99, "two-sided")):
        cells = (one for n in sizes.tolist() for one in enumerated(exact_bounds, n, true, confidence, sides))
        yield row(f"Clopper-Pearson, {sides}", f"n: {len(sizes):,} sizes from 1 to {sizes[-1]:,}", cells,
                  nominal=confidence, sides=sides)


def enumerated(bounds: Bounds, n: int, true: Floats, confidence: float, sides: Sides) -> Iterator[Cell]:
    """Exact coverage at each rate: the probability of the outcomes whose interval holds it."""
    low, high = np.array([bounds(hits, n, confidence, sides) for hits in range(n + 1)]).T
    # Limits grow with the hits, so the outcomes that are too low, and those too high, are those at either end.
    first = np.searchsorted(high, true, side="left")  # fewest hits whose upper limit is not below the truth
    last = np.searchsorted(low, true, side="right")  # fewest hits whose lower limit is above the truth
    below, above = binom.cdf(first - 1, n, true), binom.sf(last - 1, n, true)
    for rate, under, over in zip(true, below, above, strict=True):
        yield Cell(f"rate {rate:.3g}, n = {n:,}", 1 - under - over, float(under), float(over))


def sequence(quick: bool) -> Iterator[Row]:
    """At the first sample where the limit is decided, and at the worst possible one."""
    runs, most = (200, 3_000) if quick else (1_000, 10_000)
    for limit in (0.01, 0.05):
        cells = []
        for true in limit * np.array([0.1, 0.5, 0.9, 1, 1.1, 2]):
            rng, found = np.random.default_rng([1, int(1e6 * true)]), []
            for _ in range(runs):
                outcomes = rng.random(most) < true
                n = decided_at(outcomes, limit, CONFIDENCE) or most
                found.append(bounds_once(int(outcomes[:n].sum()), n))
            cells.append(cell(f"rate {true:.3g}", true, found))
        yield row("confidence sequence", f"stopped when {limit:.0%} is decided, at most {most:,}", cells, runs)
    cells = []
    for true in (0.001, 0.01, 0.05, 0.3, 0.5):
        rng = np.random.default_rng([2, int(1e6 * true)])
        ends = []
        for _ in range(runs):
            outcomes = rng.random(most) < true
            n = decided_at(outcomes, true, CONFIDENCE)  # the first sample whose interval excludes the truth
            ends.append((0.0, 1.0) if n is None else bounds_once(int(outcomes[:n].sum()), n))
        cells.append(cell(f"rate {true:.3g}", true, ends))
    yield row("confidence sequence", f"stopped where it is wrong, if ever within {most:,}", cells, runs)


@cache
def bounds_once(hits: int, n: int) -> Limits:
    return sequence_bounds(hits, n, CONFIDENCE)


def paired(quick: bool) -> Iterator[Row]:
    """After/before of a count on the same latents; PUL is one minus it. The truth is given how many held before."""
    runs = 300 if quick else 4_000
    for n, share in ((500, 0.1), (10_000, 0.1), (10_000, 0.01)):
        cells = []
        for stay in (0.0, 0.01, 0.1, 0.9):
            for gain in (0.0, 0.0005, 0.02):
                rng, ends, truths = np.random.default_rng([3, n, int(1e4 * stay), int(1e4 * gain)]), [], []
                for before in np.maximum(1, rng.binomial(n, share, runs)).tolist():
                    stayed, gained = int(rng.binomial(before, stay)), int(rng.binomial(n - before, gain))
                    counts = PairedCounts(stayed, before - stayed, gained, n - before - gained)
                    interval, truth = paired_ratio(counts, CONFIDENCE).interval, stay + gain * (n - before) / before
                    ends.append((interval.lower - truth, interval.upper - truth))
                    truths.append(truth)
                cells.append(cell(f"ratio {np.mean(truths):.3g} ({gain:.2%} new)", 0.0, ends))
        yield row("paired Clopper-Pearson (PUL)", f"n = {n:,}, {share:.0%} before", cells, runs)


def differences(quick: bool) -> Iterator[Row]:
    """After minus before of a rate on the same samples: every outcome of each size, gained and lost."""
    true = [0.0, 0.001, 0.01, 0.05, 0.3] if quick else [0.0, *np.geomspace(0.0005, 0.4, 12)]
    for n in (20, 100) if quick else (20, 100, 500):
        gained, lost = (side.ravel() for side in np.indices((n + 1, n + 1)))
        gained, lost = (side[gained + lost <= n] for side in (gained, lost))
        outcomes = np.stack([gained, lost, n - gained - lost], axis=1)
        found = np.array([(found.lower, found.upper) for found in (
            paired_difference(PairedCounts(0, left, came, n - came - left), CONFIDENCE).interval
            for came, left in zip(gained.tolist(), lost.tolist(), strict=True))])
        cells = []
        for gain in true:
            for loss in true:
                chance = multinomial.pmf(outcomes, n, [gain, loss, 1 - gain - loss])
                low, high = found[:, 1] < gain - loss - 1e-12, found[:, 0] > gain - loss + 1e-12
                below, above = float(chance[low].sum()), float(chance[high].sum())
                cells.append(Cell(f"{gain:.2%} gained, {loss:.2%} lost", 1 - below - above, below, above))
        yield row("paired difference, Bonferroni", f"n = {n}, up to {true[-1]:.0%} gained and lost", cells)


def shares(quick: bool) -> Iterator[Row]:
    """The smallest of nine retained classes' share after over before."""
    runs, classes = (60 if quick else 500), 10
    for n in (500, 10_000):
        cells = []
        for loss in (0.0, 0.02, 0.3):
            rng, ends = np.random.default_rng([4, n, int(100 * loss)]), []
            keep = np.array([0.0, *[1 - 0.01] * 8, 1 - loss])  # the first class is forgotten, the last loses
            for _ in range(runs):
                was = rng.integers(0, classes, n)
                goes = rng.random(n) >= keep[was]
                after = np.where(goes, rng.integers(1, classes, n), was)
                held = np.bincount(was, minlength=classes)
                arrive = ((1 - keep) * held).sum() / (classes - 1)
                truth = float(((keep * held + arrive) / held)[1:].min())
                interval = kept_shares(was, after, tuple(range(1, classes)), classes, CONFIDENCE).smallest.interval
                ends.append((interval.lower - truth, interval.upper - truth))
            cells.append(cell(f"one class loses {loss:.0%}", 0.0, ends))
        yield row("kept share, Bonferroni", f"n = {n:,}, nine classes", cells, runs)


# ------------------------------------------------------------------------------------------------- judge

JUDGES = (  # samples, images of the unwanted, sensitivity, other images, specificity
    (10_000, 178, 1.0, 1_619, 1.0), (10_000, 178, 0.98, 1_619, 0.999), (10_000, 178, 0.9, 1_619, 0.99),
    (2_000, 50, 0.95, 450, 0.99), (368, 178, 0.98, 1_619, 0.999), (2_000, 30, 0.9, 30, 0.9), (50, 50, 0.9, 50, 0.8),
)


def judged(quick: bool) -> Iterator[Row]:
    """The rate behind a judge that errs, for several judges and counts of real images."""
    runs = 60 if quick else 600
    for n, seen_of, se, others, sp in JUDGES:
        setting = f"n = {n:,}, Se {se:g} on {seen_of:,}, Sp {sp:g} on {others:,}"
        ours, theirs, many = [], [], 20_000 if quick else 200_000
        for true in (0.0, 0.001, 0.005, 0.01, 0.05, 0.3):
            rng = np.random.default_rng([5, n, seen_of, int(1e4 * true)])
            drawn = np.stack([rng.binomial(n, true * se + (1 - true) * (1 - sp), many),
                              rng.binomial(seen_of, se, many), rng.binomial(others, sp, many)])
            ours.append(cell(f"rate {true:g}", true, [
                corrected_once(n, seen_of, others, *map(int, counts)) for counts in drawn[:, :runs].T]))
            low, high = lang_reiczigel(n, seen_of, others, *drawn)
            theirs.append(Cell(f"rate {true:g}", float(((low <= true) & (true <= high)).mean()),
                               float((high < true).mean()), float((low > true).mean())))
        yield row("corrected rate, melded", setting, ours, runs)
        yield row("(corrected rate, Lang-Reiczigel)", setting, theirs, many)


@cache
def corrected_once(n: int, seen_of: int, others: int, hits: int, seen: int, right: int) -> Interval:
    return corrected_rate(hits, n, (seen, seen_of), (right, others), CONFIDENCE).interval


def lang_reiczigel(n: int, seen_of: int, others: int, hits: Floats, seen: Floats, right: Floats
                   ) -> tuple[Floats, Floats]:
    """Lang and Reiczigel 2014: Rogan-Gladen with two successes and failures more, or one of each, and a shift."""
    z = norm.ppf((1 + CONFIDENCE) / 2)
    p, se, sp = (hits + z * z / 2) / (n + z * z), (seen + 1) / (seen_of + 2), (right + 1) / (others + 2)
    rate = (p + sp - 1) / (se + sp - 1)
    seeing, passing = se * (1 - se) / seen_of, sp * (1 - sp) / others
    shift = 2 * z * z * (rate * seeing - (1 - rate) * passing)
    variance = p * (1 - p) / (n + z * z) + (1 - rate) ** 2 * passing + rate**2 * seeing
    reach = z * np.sqrt(variance) / (se + sp - 1)
    return np.clip(rate + shift - reach, 0, 1), np.clip(rate + shift + reach, 0, 1)


# ------------------------------------------------------------------------------------------------- ranks

Draw = Callable[[np.random.Generator, int, int], tuple[Floats, Floats]]


def scores() -> dict[str, tuple[Draw, float]]:
    """Kinds of scores with their true AUC."""
    found: dict[str, tuple[Draw, float]] = {}
    for true in (0.5, 0.7, 0.9, 0.97, 0.995):
        for wide in (0.2, 1.0, 5.0):
            shift = norm.ppf(true) * (1 + wide**2) ** 0.5
            found[f"AUC {true:g}, normal, members {wide:g} times as wide"] = (
                lambda rng, m, k, shift=shift, wide=wide: (rng.normal(shift, wide, m), rng.normal(0, 1, k)), true)
    for part in (0.05, 0.5, 0.9):
        found[f"AUC {0.5 + part / 2:g}, {part:.0%} of members stand out"] = (
            lambda rng, m, k, part=part: (rng.normal(size=m) + 100 * (rng.random(m) < part), rng.normal(size=k)),
            0.5 + part / 2)
    few = np.array([0.7, 0.2, 0.1])
    ties = sum(few[::-1][i] * (few[:i].sum() + few[i] / 2) for i in range(3))
    found[f"AUC {ties:g}, three values"] = (
        lambda rng, m, k: (rng.choice(3, m, p=few[::-1]) * 1.0, rng.choice(3, k, p=few) * 1.0), ties)
    return found


def ranks(quick: bool) -> Iterator[Row]:
    """Members against others, at small, unequal and tied samples."""
    runs = 100 if quick else 1_000
    for m, k in ((3, 3), (5, 5), (10, 100), (4, 200), (30, 30), (100, 100), (200, 1_000)):
        cells: dict[str, list[Cell]] = {}
        for number, (kind, (draw, true)) in enumerate(scores().items()):
            rng = np.random.default_rng([6, m, k, number])
            found: dict[str, list[Limits | Interval]] = {}
            for _ in range(runs if m + k < 1_000 else runs // 4):
                members, others = draw(rng, m, k)
                found.setdefault("AUC, Korn-Graubard", []).append(auc(members, others, CONFIDENCE).interval)
                for name, limits in other_ways(members, others).items():
                    found.setdefault(name, []).append(limits)
            for name, each in found.items():
                cells.setdefault(name, []).append(cell(kind, true, each))
        for name, each_cell in cells.items():
            yield row(name, f"{m:,} members, {k:,} others", each_cell, runs if m + k < 1_000 else runs // 4)


def other_ways(members: Floats, others: Floats) -> dict[str, Limits]:
    """DeLong's interval, the same on the log odds, and Newcombe's (2006) method 5, solved on a grid."""
    m, k, z = len(members), len(others), norm.ppf((1 + CONFIDENCE) / 2)
    both = rankdata(np.concatenate([members, others]))
    above, below = (both[:m] - rankdata(members)) / k, (both[m:] - rankdata(others)) / m
    value, error = above.mean(), (above.var(ddof=1) / m + below.var(ddof=1) / k) ** 0.5
    plain = (value - z * error, value + z * error)
    logit = (value, value)
    if 0 < value < 1:
        middle, reach = np.log(value / (1 - value)), z * error / (value * (1 - value))
        logit = tuple(1 / (1 + np.exp(-(middle + sign * reach))) for sign in (-1, 1))
    size = (m + k) / 2 - 1
    inside = GRID[(value - GRID) ** 2 <= z * z * GRID * (1 - GRID) / (m * k) * (
        1 + size * (1 - GRID) / (2 - GRID) + size * GRID / (1 + GRID))]
    newcombe = (min(inside.min(), value), max(inside.max(), value)) if inside.size else (value, value)
    return {"(AUC, DeLong)": plain, "(AUC, DeLong on log odds)": logit, "(AUC, Newcombe's method 5)": newcombe}


GRID = np.linspace(0, 1, 2_001)


# ----------------------------------------------------------------------------------------- medians and KID


def medians(quick: bool) -> Iterator[Row]:
    """Exact for whatever has no ties: how many repeats fall below the true median is binomial."""
    cells = []
    for repeats in range(fewest(CONFIDENCE), 100 if quick else 1_000):
        interval = median_interval(np.arange(1, repeats + 1), CONFIDENCE).interval
        low, high = int(interval.lower), int(interval.upper)
        under, over = binom.sf(high - 1, repeats, 0.5), binom.cdf(low - 1, repeats, 0.5)
        cells.append(Cell(f"{repeats} repeats", 1 - under - over, float(under), float(over)))
    yield row("median, order statistics", f"from {fewest(CONFIDENCE)} repeats on", cells)
    runs, budget = 500 if quick else 10_000, 60
    cells = []
    for repeats in (6, 9, 15):
        for mean in (20, 50, 58):  # the budget cuts off few repeats, some, or nearly half
            rng = np.random.default_rng([7, repeats, mean])
            true = float(np.median(rng.poisson(mean, 1_000_001)))
            drawn = rng.poisson(mean, (runs, repeats)).astype(float)
            drawn[drawn > budget] = np.inf
            cells.append(cell(f"{repeats} repeats, median {true:g}", true, [
                median_interval(values, CONFIDENCE, budget=budget).interval for values in drawn]))
    yield row("median, order statistics", f"whole steps, ended at {budget}", cells, runs)


def kernels(quick: bool) -> Iterator[Row]:
    """KID after minus before on the same latents: normal features in closed form, class-like ones by their mean."""
    runs, d = 40 if quick else 250, 4
    for n, m in ((200, 60), (2_000, 487)):
        cells = []
        for shift in (0.02, 0.1, 0.5):
            truth, found = kid_of_normals(shift, d), []
            for run in range(runs):
                rng = np.random.default_rng([8, n, run])
                before, reals = rng.normal(size=(n, d)), rng.normal(size=(m, d))
                found.append(compare_kid(before, before + shift, reals, seed=run, confidence=CONFIDENCE
                                         ).difference.interval)
            cells.append(cell(f"all moved by {shift:g}", truth, found))
        yield row("KID difference, half-sampling", f"normal, n = {n:,}, m = {m:,}", cells, runs)
    n, m, cells = 2_000, 487, []
    for fault in (0.02, 0.1, 0.3):
        found = []
        for run in range(runs):  # the same latents before and after
            before, after = (features_of(np.random.default_rng([10, run]), n, each) for each in (0.0, fault))
            reals = features_of(np.random.default_rng([11, run]), m)
            found.append(compare_kid(before, after, reals, seed=run, confidence=CONFIDENCE).difference)
        truth = float(np.mean([each.value for each in found]))  # the estimate is unbiased
        cells.append(cell(f"fault {fault:g}", truth, [each.interval for each in found]))
    setting = f"class-like, n = {n:,}, m = {m:,}, truth: mean of estimates"
    yield row("KID difference, half-sampling", setting, cells, runs)


def kid_of_normals(shift: float, d: int) -> float:
    """MMD^2 of N(shift, I) and N(0, I) for the kernel (x.y/d + 1)^3, by the moments of x.y."""

    def expected(a: float, b: float) -> float:
        # x.y sums d independent products of a + e and b + f; their cumulants add up.
        first, second, third = a * b, (1 + a * a) * (1 + b * b), (a**3 + 3 * a) * (b**3 + 3 * b)
        mean, var = d * first, d * (second - first**2)
        cube = d * (third - 3 * second * first + 2 * first**3) + 3 * var * mean + mean**3
        return 1 + 3 * mean / d + 3 * (var + mean**2) / d**2 + cube / d**3

    return expected(shift, shift) + expected(0, 0) - 2 * expected(0, shift)


# ------------------------------------------------------------------------------------------------ the table

QUESTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "exact": exact, "sequence": sequence, "paired": paired, "differences": differences, "shares": shares,
    "judged": judged, "ranks": ranks, "medians": medians, "kernels": kernels,
}


def table(rows: list[Row]) -> str:
    """One line per row; what falls short is marked, and counted below."""
    lines = ["| method | setting | nominal | worst coverage | at | too low | too high | Monte-Carlo error |",
             "|---|---|---|---|---|---|---|---|"]
    for each in rows:
        error = f"{each.error:.2%}" if each.error else "none: enumerated"
        lines.append(f"| {each.method} | {each.setting} | {each.nominal:.0%} | {each.worst:.2%}"
                     f"{'' if each.holds else ' **short**'} | {each.at} | {each.too_low:.2%} | {each.too_high:.2%} |"
                     f" {error} |")
    ours = [each for each in rows if not each.method.startswith("(")]
    short = [f"{each.method} ({each.setting})" for each in ours if not each.holds]
    lines += ["", f"Of {len(ours)} rows of methods in use, {len(short)} fall short{': ' if short else ''}"
                  f"{'; '.join(short)}."]
    return "\n".join(lines)


def main() -> None:
    """Prints the table; the quick one is not recorded."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--quick", action="store_true", help="fewer runs, a coarser grid, nothing recorded")
    ask.add_argument("--only", nargs="+", choices=QUESTIONS, default=list(QUESTIONS), help="some of it, not recorded")
    arguments = ask.parse_args()
    rows, began = [], time.monotonic()
    for name in arguments.only:
        with threadpool_limits(1):  # on one core; small matrices gain nothing from a second
            rows += QUESTIONS[name](arguments.quick)
        print(f"{name}: after {time.monotonic() - began:.0f} s", flush=True)
    if arguments.quick or arguments.only != list(QUESTIONS):
        print(table(rows))
        return
    record("coverage", {"seconds": time.monotonic() - began, "rows": [asdict(each) for each in rows]}, table(rows))


if __name__ == "__main__":
    main()
