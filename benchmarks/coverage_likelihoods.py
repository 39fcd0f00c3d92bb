"""Do the intervals of what is measured of flows cover? Simulated with known truth; also where they do not.

python benchmarks/coverage_likelihoods.py [--runs 2000]

Bits per dimension are drawn normal, and skewed as those of images are; a row is marked that falls short by more than
two Monte-Carlo errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from coverage_distances import CONFIDENCE, Row, falls_short, features_of, repeated, row
from recording import record

from expunge.measure.distances import kid, kid_ratio, unit_scale
from expunge.measure.likelihoods import Yardstick, quantile_drop, standings
from expunge.measure.proportions import Estimate
from expunge.measure.ratios import relative_change

MANY = 40_000
POINTS, NOISE = 10, 0.1  # points of a forget image; their spread in standard deviations of the retained images
SHAPES = {"normal": 0.0, "skewed": 4.0, "very skewed": 1.0}  # shape of a gamma distribution; 0 is the normal one


def bits(rng: np.random.Generator, n: int, shape: float) -> np.ndarray:
    """Bits/dim of retained images, in units of their standard deviation, around 10."""
    return 10 + (rng.standard_normal(n) if not shape else (rng.gamma(shape, 1.0, n) - shape) / shape**0.5)


def standing(runs: int) -> Iterator[Row]:
    """Lowest and highest z of 1, 4 and 15 forget images around 4."""
    for name, shape in SHAPES.items():
        for retained in (500, 5_000):
            for k in (1, 4, 15):
                truth = 4 + np.linspace(-0.5, 0.5, k) if k > 1 else np.array([4.0])

                def once(rng: np.random.Generator, run: int, shape: float = shape, retained: int = retained,
                         truth: np.ndarray = truth, which: int = 0) -> Estimate:
                    points = 10 + truth[:, None] + NOISE * rng.standard_normal((len(truth), POINTS))
                    return standings(points.mean(axis=1), points.std(axis=1, ddof=1) / POINTS**0.5, POINTS,
                                     Yardstick.of(bits(rng, retained, shape)), CONFIDENCE)[which]

                for which, metric in enumerate(("forget_z_lowest", "forget_z_highest")):
                    found = repeated(runs, lambda rng, run, which=which, once=once: once(rng, run, which=which), k)
                    yield row(metric, f"{name}, {retained:,} retained images, {k} to forget",
                              float(truth[0 if which == 0 else -1]), found)


def changes(runs: int) -> Iterator[Row]:
    """Bits/dim after over before, less one, on the same held-out images."""
    for name, shape in SHAPES.items():
        for n in (100, 1_000):
            def once(rng: np.random.Generator, run: int, n: int = n, shape: float = shape) -> Estimate:
                before = bits(rng, n, shape)
                return relative_change(before, before * 1.004 + 0.2 * (bits(rng, n, shape) - 10), CONFIDENCE)

            yield row("bits_per_dim_change", f"{name}, {n:,} held-out images", 0.004, repeated(runs, once, n))


def drops(runs: int) -> Iterator[Row]:
    """By how much four images fall among others that moved a little as well."""
    was, is_now = 10 + np.array([-0.5, 0.0, 0.3, 1.0]), 10 + np.array([1.0, 1.5, 2.0, 3.5])
    for name, shape in SHAPES.items():
        endless = bits(np.random.default_rng(1), 4_000_000, shape)
        less_likely = [float(np.mean([(endless > one).mean() for one in some])) for some in (was, is_now)]
        truth = less_likely[0] - less_likely[1]
        for n in (100, 1_000):
            def once(rng: np.random.Generator, run: int, n: int = n, shape: float = shape) -> Estimate:
                others = bits(rng, n, shape)
                return quantile_drop(was, is_now, others, others, CONFIDENCE)

            yield row("quantile_drop", f"{name}, {n:,} held-out images", truth, repeated(runs, once, n))


def ratios(runs: int) -> Iterator[Row]:
    """KID after over before, of models that draw from the same latents and are the worse the higher their fault is."""
    truths = {}
    for fault in (0.2, 0.21, 0.25, 0.3):
        rng = np.random.default_rng(3)
        real = features_of(np.random.default_rng(4), MANY)
        scale = unit_scale(real)
        truths[fault] = kid(features_of(rng, MANY, fault) * scale, real * scale).value
    labels = np.repeat(np.arange(10), 49)
    for n in (1_000, 2_000):
        for before, after in ((0.2, 0.2), (0.2, 0.21), (0.2, 0.25), (0.2, 0.3)):
            def once(rng: np.random.Generator, run: int, n: int = n, before: float = before, after: float = after
                     ) -> Estimate:
                state = int(rng.integers(2**32))
                was, is_now = (features_of(np.random.default_rng(state), n, fault) for fault in (before, after))
                if before == after:  # as good, and not the same
                    is_now = features_of(rng, n, after)
                real = features_of(rng, len(labels), labels=labels)
                scale = unit_scale(real)
                return kid_ratio(was * scale, is_now * scale, real * scale, real_strata=labels, confidence=CONFIDENCE,
                                 seed=run)

            found = repeated(max(100, runs // 10), once, n)
            drawn = "drawn apart" if before == after else "on the same latents"
            yield row("kid_ratio", f"fault {before} and {after}, {drawn}, n = {n:,}, m = {len(labels)}",
                      truths[after] / truths[before], found)


def table(found: list[Row]) -> str:
    """One line per row; what falls short is marked."""
    short = sum(map(falls_short, found))
    lines = [f"Nominal {CONFIDENCE:.0%}. {short or 'None'} of {len(found)} rows fall short; by chance one in forty "
             "would.", "", "| metric | setting | runs | truth | mean | covered | too low | too high | width |",
             "|---|---|---|---|---|---|---|---|---|"]
    for each in found:
        lines.append(f"| {each['metric']} | {each['setting']} | {each['runs']} | {each['truth']:.4f} | "
                     f"{each['mean']:.4f} | {each['covered']:.1%}{' **short**' if falls_short(each) else ''} | "
                     f"{each['too_low']:.1%} | {each['too_high']:.1%} | {each['width']:.4f} |")
    return "\n".join(lines)


def main() -> None:
    """Runs the benchmark."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--runs", type=int, default=2_000)
    runs = ask.parse_args().runs
    found = [*standing(runs), *changes(runs), *drops(runs), *ratios(runs)]
    record("coverage_likelihoods", {"runs": runs, "rows": found}, table(found))


if __name__ == "__main__":
    main()
