"""What a page draws from the data beside a report: histograms, the search in numbers, relearning curves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import HALF
from components.evaluate.plots import Axis, Histogram, Line, at_step, curve, step_axis
from components.evaluate.relearning_completions import WAY_BACK
from components.evaluate.tables import COMPLETIONS, LIKELIHOODS, MEMBERSHIP, SCORES, SEARCH
from expunge.contracts import Curve, Interval, Report
from expunge.measure import words

BINS = 24  # an even number: one half is an edge
FINE = 48  # bins of a histogram in which single images are marked
MARKED = 40  # images at most: more are drawn as a histogram of their own
TAIL = 0.5  # percent of held-out images at either end that no axis makes room for
MODELS = ("candidate", "parent", "never exposed")
_TICKS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

Column = NDArray[Any]
_TO_TENTHS = Interval(lower=0.0, upper=10.0, confidence=0.5, method="how exactly z is read")


@dataclass(frozen=True)
class Search:
    """What a search of one model's latents came to."""

    model: str
    starts: int
    at_start: int  # that drew the unwanted without any search
    found: int  # those included


@dataclass(frozen=True)
class Forgotten:
    """One image to forget: where it stands before and after."""

    at: tuple[float, float]  # in percent of the axis
    z: tuple[str, str]
    quantile: tuple[str, str]  # held-out images that are less likely


@dataclass(frozen=True)
class Likelihoods:
    """Bits/dim of held-out images before and after, and of the images to forget."""

    histogram: Histogram  # held-out images; and those to forget, if they are many
    images: tuple[Forgotten, ...]  # none if they are too many to mark one by one
    count: int  # of images to forget
    held_out: int
    single: bool  # some images of their classes are to be forgotten: others of them are among the retained ones


@dataclass(frozen=True)
class Completed:
    """Hidden errors of images of the rest and of those to forget, before and after."""

    histogram: Histogram
    rest: int
    forget: int  # completions of images to forget
    images: int  # how many images these are
    single: bool  # some images of their classes are to be forgotten: others of them are among the rest


@dataclass(frozen=True)
class Taught:
    """One model being taught the unwanted again."""

    model: str
    lines: tuple[Line, ...]
    looks: tuple[tuple[tuple[int, str], ...], ...]  # lesson by lesson: after how many steps, which rate


@dataclass(frozen=True)
class Relearning:
    """The curves of all models, in one box."""

    taught: tuple[Taught, ...]
    half: float | None  # half of the parent's rate, from the top in percent
    half_text: str
    steps: tuple[tuple[float, str], ...]  # ticks from the left
    rates: tuple[tuple[float, str], ...]  # ticks from the top


def chances(folder: Path) -> Histogram | None:
    """How probable the judge finds the unwanted, before and after. None without the table of scores."""
    scores = _read(folder / SCORES)
    if scores is None:
        return None
    return Histogram.of({"before": scores["unwanted_before"], "after": scores["unwanted_after"]}, BINS, (0.0, 1.0))


def above_half(histogram: Histogram, name: str) -> int:
    """How many values of a series lie in the upper half of its bins."""
    return sum(histogram.counts[name][len(histogram.counts[name]) // 2:])


def closeness(folder: Path) -> Histogram | None:
    """The attack's scores of members and of others. None where membership was not asked about."""
    scores = _read(folder / MEMBERSHIP)
    if scores is None:
        return None
    member = scores["member"].astype(bool)
    return Histogram.of({"members": scores["score"][member], "others": scores["score"][~member]}, BINS)


def likelihoods(folder: Path) -> Likelihoods | None:
    """How likely a flow finds images, before and after. None without the table, or where some of it are no numbers."""
    rows = _read(folder / LIKELIHOODS)
    if rows is None:
        return None
    of = {name: rows["set"] == name for name in ("forget", "retain", "holdout")}
    rest = rows["rest"].astype(bool)
    sides = [rows[f"bits_{side}"] for side in ("before", "after")]
    if not all(np.isfinite(bits[each]).all() for bits in sides for each in (of["forget"], of["retain"], rest)):
        return None
    usual = np.concatenate([np.percentile(bits[rest], (TAIL, 100 - TAIL)) for bits in sides])
    everything = [*usual, *(end for bits in sides for end in (bits[of["forget"]].min(), bits[of["forget"]].max()))]
    axis = Axis(min(everything), max(everything) if max(everything) > min(everything) else min(everything) + 1.0)
    count = int(of["forget"].sum())
    series = {"before": sides[0][rest], "after": sides[1][rest]}
    if count > MARKED:
        series |= {"forget before": sides[0][of["forget"]], "forget after": sides[1][of["forget"]]}
    drawn = Histogram.of(series, FINE, (axis.left, axis.right))
    if drawn is None:
        return None
    standings = []
    for bits in sides:
        retained = bits[of["retain"]]
        standings.append(tuple(
            (axis.at(one), words.number("forget_z_lowest", (one - retained.mean()) / retained.std(ddof=1), _TO_TENTHS),
             words.number("forget_quantile_highest", float((bits[rest] > one).mean())))
            for one in bits[of["forget"]]))
    images = tuple(Forgotten(*zip(was, is_now, strict=True)) for was, is_now in zip(*standings, strict=True))
    single = bool(np.isin(rows["label"][of["retain"]], rows["label"][of["forget"]]).any())
    return Likelihoods(drawn, images if count <= MARKED else (), count, int(rest.sum()), single)


def completed(folder: Path) -> Completed | None:
    """How far completions are from what was hidden. None without the table, or where there is no finite number."""
    rows = _read(folder / COMPLETIONS)
    if rows is None:
        return None
    of = {name: rows["set"] == name for name in ("rest", "forget")}
    series = {f"{prefix}{side}": rows[f"error_{side}"][of[name]]
              for name, prefix in (("rest", ""), ("forget", "forget ")) for side in ("before", "after")}
    finite = np.concatenate([found[np.isfinite(found)] for found in series.values()])
    drawn = Histogram.of(series, FINE, (0.0, float(np.percentile(finite, 100 - TAIL)))) if len(finite) else None
    if drawn is None:
        return None
    single = bool(np.isin(rows["label"][of["rest"]], rows["label"][of["forget"]]).any())
    return Completed(drawn, int(of["rest"].sum()), int(of["forget"].sum()),
                     len(np.unique(rows["number"][of["forget"]])), single)


def searches(folder: Path) -> tuple[Search, ...]:
    """What the search came to, parent first. Empty without its table."""
    rows = _read(folder / SEARCH)
    if rows is None:
        return ()
    return tuple(
        Search(model, int(chosen.sum()), int(rows["at_start"][chosen].sum()), int(rows["found"][chosen].sum()))
        for model in ("parent", "candidate") if (chosen := rows["model"] == model).any())


def relearning(report: Report) -> Relearning | None:
    """The relearning curves, with the line that counts as having it back. None if nobody was taught."""
    curves = [found for found in report.curves if found.steps]
    if not curves:
        return None
    across = step_axis(max(max(found.steps) for found in curves))
    rates = {found.name: found.estimate for found in report.measurements}
    before = rates.get(f"{curves[0].name}_before")
    half = before / 2 if before is not None else HALF if curves[0].name == WAY_BACK else None
    up = Axis(0.0, 1.08 * max([value for found in curves for value in found.values] + [half or 0.0]) or 1.0)
    most = max(max(found.steps) for found in curves)
    taught = tuple(_taught(model, [found for found in curves if found.model == model], across, up)
                   for model in _in_order(curves))
    return Relearning(
        taught, None if half is None else _from_top(up, half),
        "" if half is None else words.number("residual_rate", half),
        tuple((at_step(across, step), f"{step:,}") for step in _TICKS if step <= most),
        tuple((_from_top(up, value), f"{100 * value:.3g} %") for value in (0.0, _round_below(up.right))))


def _in_order(curves: Iterable[Curve]) -> list[str]:
    models = {found.model for found in curves}
    return [model for model in MODELS if model in models] + sorted(models.difference(MODELS))


def _taught(model: str, curves: list[Curve], across: Axis, up: Axis) -> Taught:
    lessons = sorted(curves, key=lambda found: found.repeat)
    return Taught(
        model, tuple(curve(found.steps, found.values, across, up) for found in lessons),
        tuple(tuple((step, words.number("residual_rate", value)) for step, value in zip(
            found.steps, found.values, strict=True)) for found in lessons))


def _from_top(up: Axis, value: float) -> float:
    return round(100 - up.at(value), 2)


def _round_below(value: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above the value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step * power for step in (1, 2, 5) if step * power <= value))


def _read(file: Path) -> Mapping[str, Column] | None:
    """A table's columns, or None where the report has no such table: its question was not asked, or it is old."""
    if not file.exists():
        return None
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    return {name: table[name].to_numpy() for name in table.column_names}
