"""Do the intervals of distances and of shares cover? Simulated with known truth; also where they do not.

python benchmarks/coverage_distances.py [--runs 250]

A row is marked that falls short by more than two Monte-Carlo errors. A metric in brackets is measured otherwise than
`evaluate` does it and stands here for comparison: there the classes of the real images are given.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from recording import record

from expunge.measure.distances import fid, fid_excess
from expunge.measure.neighbours import neighbours
from expunge.measure.proportions import Estimate
from expunge.measure.relative import nearer
from expunge.measure.shares import total_variation

CONFIDENCE, D, CLASSES = 0.95, 48, 10
Row = dict[str, Any]

_world = np.random.default_rng(99)
MIXING, SHIFT = _world.normal(size=(24, D)), _world.normal(size=D) / 2
CENTRES = 2 * _world.normal(size=(CLASSES, 24))


def features_of(
    rng: np.random.Generator, n: int, fault: float = 0.0, lost: bool = False, labels: np.ndarray | None = None
) -> np.ndarray:
    """Features as a classifier's last activations are: ten classes, never negative, strongly correlated.

    `fault` blurs and moves all of them; `lost` leaves one class out; `labels` [n] says of which class each is.
    """
    labels = rng.integers(int(lost), CLASSES, n) if labels is None else labels
    hidden = (1 + fault) * rng.normal(size=(n, 24)) + CENTRES[labels]
    return np.maximum(0, hidden @ MIXING / 5 + SHIFT + fault) + rng.normal(size=(n, D)) / 20


def row(metric: str, setting: str, truth: float | None, found: list[Estimate]) -> Row:
    """How often intervals held the truth; without one, the mean of the estimates is what they are about."""
    values = np.array([each.value for each in found])
    true = float(values.mean()) if truth is None else truth
    low, high = (np.array([getattr(each.interval, end) for each in found]) for end in ("lower", "upper"))
    return {
        "metric": metric, "setting": setting, "truth": true, "mean": float(values.mean()), "sd": float(values.std()),
        "runs": len(found), "nominal": CONFIDENCE, "covered": float(((low <= true) & (true <= high)).mean()),
        "too_low": float((high < true).mean()), "too_high": float((low > true).mean()),
        "width": float((high - low).mean()), "method": found[0].interval.method,
    }


def repeated(runs: int, once: Callable[[np.random.Generator, int], Estimate], seed: int) -> list[Estimate]:
    return [once(np.random.default_rng([seed, run]), run) for run in range(runs)]


def excess(runs: int) -> Iterator[Row]:
    """FID minus floor, against the FID of 300,000 samples a side."""
    faults = (("same distribution", {}), ("slightly blurred", {"fault": 0.1}), ("a class lost", {"lost": True}))
    for name, fault in faults:
        rng = np.random.default_rng(5)
        truth = fid(features_of(rng, 300_000, **fault), features_of(rng, 300_000)) if fault else 0.0
        for n, each in ((500, 20), (400, 40), (2_000, 48), (10_000, 200)):
            for labels in (np.repeat(np.arange(CLASSES), each), None):
                many = 3 * runs if n <= 2_000 else runs  # where it may fall short it must be known more exactly
                found = repeated(many, lambda rng, run, n=n, each=each, labels=labels, fault=fault: fid_excess(
                    features_of(rng, n, **fault), features_of(rng, CLASSES * each, labels=labels),
                    real_strata=labels, confidence=CONFIDENCE, seed=run), n)
                mixture = "any mixture" if labels is None else f"{each} of each class"
                yield row("(fid_excess)" if labels is None else "fid_excess",
                          f"{name}, n = {n:,}, m = {CLASSES * each:,}, {mixture}", truth, found)
    uneven = np.repeat(np.arange(CLASSES), 8 * np.arange(1, CLASSES + 1))
    found = repeated(3 * runs, lambda rng, run: fid_excess(
        features_of(rng, 2_000, labels=rng.choice(uneven, 2_000)), features_of(rng, len(uneven), labels=uneven),
        real_strata=uneven, confidence=CONFIDENCE, seed=run), 11)
    yield row("fid_excess", f"same distribution, n = 2,000, m = {len(uneven)}, 8 to 80 of a class", 0.0, found)


def balls(runs: int) -> Iterator[Row]:
    """Precision, density and coverage given three sets of reals, recall given three sets of generated samples."""
    for n, m, fault in ((500, 250, 0.0), (500, 250, 0.3), (2_000, 487, 0.1)):
        for given in range(3):
            fixed = np.random.default_rng([6, given])
            real, generated = features_of(fixed, m), features_of(fixed, n, fault)
            drawn = [neighbours(features_of(np.random.default_rng([7, run]), n, fault), real, confidence=CONFIDENCE)
                     for run in range(runs)]
            beside = [neighbours(generated, features_of(np.random.default_rng([8, run]), m), confidence=CONFIDENCE)
                      for run in range(runs)]
            for name in ("precision", "recall", "density", "coverage"):
                found = [getattr(each, name) for each in (beside if name == "recall" else drawn)]
                yield row(name, f"fault {fault}, n = {n:,}, m = {m:,}, given set {given + 1}", None, found)


def shares(runs: int) -> Iterator[Row]:
    """Total variation of nine retained classes: nothing moves, all classes mix, or mass moves to one class."""
    share = np.full(CLASSES, 1 / CLASSES)
    for n in (500, 10_000):
        for name, moved, drift in (("1 in 1,000 mixes", 0.001, False), ("1 in 10 mixes", 0.1, False),
                                   ("1 in 1,000 moves", 0.001, True), ("1 in 10 moves", 0.1, True)):
            after = share * (1 - moved) + moved * (np.eye(CLASSES)[1] if drift else share)
            truth = float(np.abs(after[1:] / after[1:].sum() - 1 / 9).sum() / 2)

            def once(rng: np.random.Generator, run: int, n: int = n, moved: float = moved, drift: bool = drift
                     ) -> Estimate:
                was, goes = rng.integers(0, CLASSES, n), rng.random(n) < moved
                target = np.ones(n, dtype=np.int64) if drift else rng.integers(0, CLASSES, n)
                return total_variation(was, np.where(goes, target, was), tuple(range(1, CLASSES)), CLASSES, CONFIDENCE)

            yield row("share_distance", f"{name}, n = {n:,}", truth, repeated(runs, once, n))


def relative(runs: int) -> Iterator[Row]:
    """How often the relative test finds a candidate nearer at 5 %, by how much nearer it is."""
    for name, before, after in (("as far as the parent", 0.2, 0.2), ("half as far", 0.2, 0.1),
                                ("twice as far", 0.1, 0.2)):
        p = []
        for run in range(runs):
            rng = np.random.default_rng([9, run])
            reference = features_of(rng, 487)
            p.append(nearer(features_of(rng, 2_000, before), features_of(rng, 2_000, after), reference, seed=run)[1])
        yield {"metric": "reference_p_value", "setting": f"{name}, n = 2,000, m = 487", "runs": runs,
               "below_0.05": float(np.mean(np.array(p) < 0.05))}


def rows(runs: int) -> list[Row]:
    return [*excess(runs), *balls(runs), *shares(runs), *relative(runs)]


def falls_short(each: Row) -> bool:
    """Whether it covers less often than its runs could show of a method that holds."""
    return bool(each["covered"] < CONFIDENCE - 2 * (CONFIDENCE * (1 - CONFIDENCE) / each["runs"]) ** 0.5)


def table(found: list[Row]) -> str:
    """One line per row; what falls short is marked, and counted below."""
    intervals = [each for each in found if "covered" in each]
    lines = [f"Nominal {CONFIDENCE:.0%}. Of {len(intervals)} rows, one in forty falls short by chance.", "",
             "| metric | setting | runs | truth | mean | covered | too low | too high | width |",
             "|---|---|---|---|---|---|---|---|---|"]
    for each in intervals:
        lines.append(f"| {each['metric']} | {each['setting']} | {each['runs']} | {each['truth']:.4f} | "
                     f"{each['mean']:.4f} | {each['covered']:.1%}{' **short**' if falls_short(each) else ''} | "
                     f"{each['too_low']:.1%} | {each['too_high']:.1%} | {each['width']:.4f} |")
    for used, what in ((True, "methods in use"), (False, "methods for comparison")):
        some = [each for each in intervals if each["metric"].startswith("(") != used]
        short = [f"{each['metric'].strip('()')} ({each['setting']})" for each in some if falls_short(each)]
        lines += ["", f"Of {len(some)} rows of {what}, {len(short) or 'none'} fall short"
                      f"{': ' if short else ''}{'; '.join(short)}."]
    lines += ["", "| test | setting | p below 0.05 |", "|---|---|---|"]
    lines += [f"| {each['metric']} | {each['setting']} | {each['below_0.05']:.1%} |"
              for each in found if "below_0.05" in each]
    return "\n".join(lines)


def main() -> None:
    """Runs the benchmark."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--runs", type=int, default=250)
    runs = ask.parse_args().runs
    found = rows(runs)
    record("coverage_distances", {"runs": runs, "rows": found}, table(found))


if __name__ == "__main__":
    main()
