"""What each metric is called, how its number is written, and which question it answers."""

from dataclasses import dataclass, replace
from typing import Literal

from expunge.contracts import Interval, Measurement, Rule

Style = Literal["percent", "plain"]


@dataclass(frozen=True)
class Metric:
    """A metric in a reviewer's words."""

    title: str
    style: Style = "plain"
    meaning: str = ""


METRICS: dict[str, Metric] = {
    "residual_rate": Metric("residual rate", "percent", "samples that the judge still calls unwanted"),
    "residual_rate_before": Metric("unwanted rate before", "percent", "the same rate, drawn from the parent"),
    "pul": Metric("PUL", "percent", "the parent's unwanted samples that are gone, on the same latents"),
    "fid_before": Metric("FID before", meaning="the parent's retained samples against real retained images"),
    "fid_after": Metric("FID after", meaning="the candidate's retained samples against the same images"),
    "fid_floor": Metric("FID floor", meaning="one half of the real images against the other half"),
    "fid_ratio": Metric("FID after/before", meaning="shown, not decided on: it has no interval that holds"),
    "kid_before": Metric("KID before", meaning="the parent's retained samples against real retained images"),
    "kid_after": Metric("KID after", meaning="the candidate's retained samples against the same images"),
    "kid_difference": Metric("KID difference", meaning="KID after minus KID before: above zero is worse"),
    "kept_share": Metric("kept share", "percent", "smallest retained class: share after over share before"),
    "judge_confidence": Metric("judge confidence", "percent", "mean probability of the judge's own choice"),
    "judge_confidence_before": Metric(
        "judge confidence before", "percent", "the same, for the parent's samples"
    ),
    "judge_accuracy": Metric("judge accuracy", "percent", "on the real held-out images, which have labels"),
}


def find(metric: str) -> Metric | None:
    """What is known of a metric; `rate[4]` is `rate`, of one class."""
    whole, _, part = metric.partition("[")
    known = METRICS.get(whole)
    if known is None or not part:
        return known
    return replace(known, title=f"{known.title} of {part.removesuffix(']')}")


def title(metric: str) -> str:
    """A metric's name as a person says it."""
    known = find(metric)
    return known.title if known else metric.replace("_", " ")


def is_percent(metric: str) -> bool:
    """Whether people read it in percent."""
    known = find(metric)
    return known is not None and known.style == "percent"


def number(metric: str, value: float, between: Interval | None = None) -> str:
    """A value with its unit, to as many digits as tell the ends of its interval apart."""
    percent = is_percent(metric)
    scale = 100.0 if percent else 1.0
    width = abs(between.upper - between.lower) * scale if between else abs(value) * scale
    digits = 1 if percent and width >= 1 else 2
    if not percent:
        width = width or abs(value)
        digits = next((places for places in range(1, 7) if width >= 10.0 ** (2 - places)), 7)
    text = f"{value * scale:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")  # "-0.00" makes people look for a sign that means nothing
    text = text.replace("-", "−")
    return f"{text} %" if percent else text


def interval(metric: str, found: Interval) -> str:
    """An interval as text: "0.13 % to 0.33 %"."""
    return f"{number(metric, found.lower, found)} to {number(metric, found.upper, found)}"


def measured(measurement: Measurement) -> str:
    """A measurement as text: "residual rate 0.21 % (0.13 % to 0.33 %)"."""
    name = title(measurement.name)
    if measurement.estimate is None:
        return f"{name} is absent ({measurement.missing})"
    if measurement.interval is None:
        return f"{name} {number(measurement.name, measurement.estimate)}"
    value = number(measurement.name, measurement.estimate, measurement.interval)
    return f"{name} {value} ({interval(measurement.name, measurement.interval)})"


def limit(rule: Rule) -> str:
    """A rule's limit as text: "limit at most 1 %"."""
    percent = is_percent(rule.metric)
    value = f"{rule.limit * 100:g} %" if percent else f"{rule.limit:g}"
    return f"limit {rule.side} {value.replace('-', '−')}"
