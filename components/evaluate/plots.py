"""Where things lie in a plot: places in percent of its width and height, from numbers alone.

The page draws them as boxes and as inline SVG without text. Words stay in HTML beside the drawing: they do not
shrink with it on a phone, and a screen reader finds them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

ROOM = 0.15  # beside what is drawn, as a share of its reach

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A stretch of numbers, drawn from left to right."""

    left: float
    right: float

    @classmethod
    def around(cls, points: Iterable[float], lowest: float | None = None, highest: float | None = None) -> Self:
        """An axis with some room beside its points; beyond `lowest` and `highest` only as far as points lie."""
        found = list(points)
        low, high = min(found), max(found)
        reach = (high - low) or abs(high) or 1.0
        left, right = low - ROOM * reach, high + ROOM * reach
        if lowest is not None and low >= lowest:
            left = max(lowest, left)
        if highest is not None and high <= highest:
            right = min(highest, right)
        return cls(left, right)

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the width; what lies beyond an end is drawn at it."""
        share = (value - self.left) / (self.right - self.left)
        return round(100 * min(1.0, max(0.0, share)), 2)


# ------------------------------------------------------------------------------------------- histograms


@dataclass(frozen=True)
class Histogram:
    """How many values fall into each of some bins of one width, series by series."""

    edges: tuple[float, ...]  # [b + 1]
    counts: Mapping[str, tuple[int, ...]]  # [b] each
    left_out: int  # values that are no finite numbers

    @classmethod
    def of(cls, series: Mapping[str, ArrayLike], bins: int, between: tuple[float, float] | None = None) -> Self | None:
        """Counts values between two ends (those beyond go into the last bin), or over all that there are.

        None if there is not one finite value.
        """
        arrays = {name: np.asarray(values, dtype=np.float64).ravel() for name, values in series.items()}
        finite = {name: values[np.isfinite(values)] for name, values in arrays.items()}
        everything = np.concatenate([*finite.values(), np.empty(0)])
        if not len(everything):
            return None
        low, high = between or (float(everything.min()), float(everything.max()))
        edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
        counts = {name: np.histogram(values.clip(edges[0], edges[-1]), edges)[0] for name, values in finite.items()}
        return cls(tuple(edges.tolist()), {name: tuple(count.tolist()) for name, count in counts.items()},
                   sum(map(len, arrays.values())) - len(everything))

    @property
    def highest(self) -> int:
        """The largest count of all."""
        return max(max(counts) for counts in self.counts.values())

    def log_outline(self, name: str) -> str:
        """The outline of a series as an SVG path, heights as the logarithm of one more than the count."""
        return step_path([self.log_height(count) for count in self.counts[name]])

    def log_height(self, count: float) -> float:
        """How high a count stands, in percent: nothing for none, and the largest count reaches the top."""
        return 100 * math.log1p(count) / math.log1p(self.highest)

    def log_ticks(self) -> list[tuple[float, str]]:
        """Where the powers of ten lie, in percent from the top, and what they are called; none beside none."""
        powers = range(int(math.log10(self.highest)) + 1)
        return [(100.0, "0"), *((round(100 - self.log_height(10.0**power), 2), f"{10**power:,}") for power in powers)]

    def share_outline(self, name: str) -> str:
        """The outline of a series as an SVG path, heights as shares of the series: for series of unequal length."""
        shares = {each: np.array(counts) / max(1, sum(counts)) for each, counts in self.counts.items()}
        top = max(float(share.max()) for share in shares.values())
        return step_path((100 * shares[name] / top).tolist())


def step_path(heights: Sequence[float]) -> str:
    """The outline of bars of these heights, in percent, as an SVG path in a box of 100 by 100."""
    width = 100 / len(heights)
    bars = (f"V{_places(100 - height)}H{_places(width * (number + 1))}" for number, height in enumerate(heights))
    return f"M0 100{''.join(bars)}V100"


# ----------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Line:
    """One line of a plot, and where it ends."""

    path: str  # an SVG path in a box of 100 by 100
    end: Point  # from the left and from the top, in percent


def step_axis(most: int) -> Axis:
    """The axis of steps 0 to `most` for `at_step`."""
    return Axis(0.0, math.log2(1 + max(1, most)))


def at_step(axis: Axis, step: float) -> float:
    """Where a step lies: as the logarithm of one more than the step, so that there is room for step 0."""
    return axis.at(math.log2(1 + step))


def curve(steps: Sequence[int], values: Sequence[float], across: Axis, up: Axis) -> Line:
    """A value at some steps as a line, on axes from `step_axis` and from the values' own."""
    points = [(at_step(across, step), _places(100 - up.at(value))) for step, value in zip(steps, values, strict=True)]
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    return Line(path, (points[-1][0], float(points[-1][1])))


def _places(value: float) -> str:
    """As many digits as anybody sees."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
