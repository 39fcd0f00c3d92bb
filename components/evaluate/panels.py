"""Measurements that belong together, as rows over one axis: what is compared lies on one scale."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from components.evaluate.plots import Axis
from expunge.contracts import Interval, Measurement, Report, RuleOutcome, Verdict
from expunge.measure import words
from expunge.measure.medians import ended_at
from expunge.measure.policy import worst

Kind = Literal["was", "now", "held", "never"]
"""Whose number it is: the parent's, the candidate's, the candidate's seen otherwise, another's."""

PlannedRow = tuple[str, Kind, str]
"""Label, whose, metric."""

FURTHER = "further "  # how the names of panels begin that no plan is known for
_SPACE = "\N{NO-BREAK SPACE}"
_TEXT = 30  # percent of a narrow panel's width that a limit's text takes


@dataclass(frozen=True)
class Plan:
    """What a panel compares."""

    title: str
    rows: tuple[PlannedRow, ...]
    meaning: str = ""  # if not that of its only metric
    lowest: float | None = None  # no values lie below
    highest: float | None = None
    whole: bool = False  # the axis reaches from one to the other, whatever the values
    marks: tuple[tuple[float, str], ...] = ()  # values that have a meaning of their own


@dataclass(frozen=True)
class Row:
    """One number in words, and where it lies in percent of the axis."""

    label: str
    kind: str
    value: str | None
    interval: str | None
    missing: str | None
    not_applicable: bool
    dot: float | None = None
    bar: tuple[float, float] | None = None  # left end and width


@dataclass(frozen=True)
class Mark:
    """A vertical line through all rows."""

    at: float
    text: str
    anchor: Literal["start", "end"]  # which end of its text stands at the line


@dataclass(frozen=True)
class Panel:
    """Rows over one axis."""

    title: str
    meaning: str
    rows: tuple[Row, ...]
    labelled: bool  # the rows' labels say more than the title
    made_from: str  # how many of what, and by which method
    outcome: str | None = None  # the worst of its rules'
    ends: tuple[str, str] | None = None  # what the axis begins and ends with; None: there is nothing to draw
    limits: tuple[Mark, ...] = ()
    allowed: tuple[float, float] | None = None  # left end and width of what the limits allow
    marks: tuple[Mark, ...] = ()



def _neighbours(name: str, highest: float | None) -> Plan:
    rows: tuple[PlannedRow, ...] = (
        ("before", "was", f"{name}_before"), ("after", "now", name),
        ("after, shares held", "held", f"{name}_fixed_shares"))
    return Plan(capital(words.title(name)), rows, words.meaning(name), lowest=0, highest=highest)


def capital(text: str) -> str:
    """The text as it begins a line."""
    return text[:1].upper() + text[1:]


PLANS: dict[str, Plan] = {
    "drop": Plan("Unwanted samples", (("before", "was", "residual_rate_before"), ("after", "now", "residual_rate")),
                 "what the judge calls unwanted, on the same latents", lowest=0, highest=1),
    "corrected": Plan(
        "Residual rate, closer",
        (("as judged", "now", "residual_rate"),
         ("corrected", "held", "residual_rate_corrected")),
        "corrected for what the judge overlooks and for what it sees wrongly, both as measured on real images",
        lowest=0, highest=1),
    "forget_accuracy": Plan("Accuracy on the forgotten", (("before", "was", "forget_accuracy_before"),
                                                          ("after", "now", "forget_accuracy")), lowest=0, highest=1),
    "grafted_accuracy": Plan("With the parent's head put back", (("after", "now", "grafted_accuracy"),), lowest=0,
                             highest=1),
    "prototype_accuracy": Plan(
        "Told apart inside", (("before", "was", "prototype_accuracy_before"), ("after", "now", "prototype_accuracy"),
                              ("never exposed", "never", "prototype_accuracy_never_exposed")),
        "images of the forgotten classes whose features lie nearest to their own class's mean", lowest=0, highest=1),
    "prototype_accuracy_difference": Plan(
        "Told apart inside, beyond the reference",
        (("candidate − never exposed", "now", "prototype_accuracy_difference"),), marks=((0.0, "as if never seen"),)),
    **{name: Plan(title, (("before", "was", f"{name}_before"), ("after", "now", name),
                          ("never exposed", "never", f"{name}_never_exposed")),
                  "z: its bits/dim, in standard deviations of retained images' above their mean",
                  marks=((0.0, "usual"),)) for name, title in (
        ("forget_z_lowest", "The likeliest of the forgotten"), ("forget_z_highest", "The unlikeliest of them"))},
    "forget_quantile": Plan(
        "The likeliest among held-out images", (("before", "was", "forget_quantile_highest_before"),
                                       ("after", "now", "forget_quantile_highest")),
        "held-out images that are less likely than it", lowest=0, highest=1, whole=True, marks=((0.5, "usual"),)),
    "quantile_drop": Plan("Quantile drop", (("before − after", "now", "quantile_drop"),), marks=((0.0, "no change"),)),
    **{name: Plan(title, (("before", "was", f"{name}_before"), ("after", "now", name)),
                  marks=((0.0, "usual"),)) for name, title in (
        ("same_class_z", "Others of the same classes"), ("neighbours_z", "Nearest neighbours"),
        ("others_z", "Other classes"), ("earlier_z", "What was forgotten before"))},
    "unlikely_share": Plan(
        "Held-out images of the class that are unlikely",
        (("before", "was", "unlikely_share_before"), ("after", "now", "unlikely_share"),
         ("the rest, after", "held", "unlikely_share_retained")), "z of 1.5 or more", lowest=0, highest=1, whole=True),
    "forget_unlikely_share": Plan(
        "Images to forget that are unlikely", (("before", "was", "forget_unlikely_share_before"),
                                               ("after", "now", "forget_unlikely_share")),
        "z of 1.5 or more", lowest=0, highest=1, whole=True),
    "forget_outlying_share": Plan(
        "Images to forget that stand out", (("before", "was", "forget_outlying_share_before"),
                                            ("after", "now", "forget_outlying_share")),
        "z of 6 or more", lowest=0, highest=1),
    "unlikely_share_earlier": Plan(
        "What was forgotten before", (("parent", "was", "unlikely_share_earlier_before"),
                                      ("candidate", "now", "unlikely_share_earlier")),
        "held-out images of the classes that earlier requests were about which are unlikely", lowest=0, highest=1),
    "bits_per_dim_drift": Plan(
        "Drift", (("candidate / first model − 1", "now", "bits_per_dim_drift"),),
        "bits/dim of the rest, over those of the model that the requests began with: above zero is worse",
        marks=((0.0, "no change"),)),
    "bits_per_dim": Plan("Bits/dim of the rest", (("before", "was", "bits_per_dim_before"),
                                                  ("after", "now", "bits_per_dim")),
                         "mean over held-out images of what is to stay"),
    "bits_per_dim_change": Plan(
        "Change of the rest's bits/dim", (("after / before − 1", "now", "bits_per_dim_change"),),
        marks=((0.0, "no change"),)),
    "kid_ratio": Plan("KID after over before", (("after", "now", "kid_ratio"),), lowest=0,
                      marks=((1.0, "no change"),)),
    "recognised_excess": Plan(
        "Recognised beyond what is shown",
        (("before", "was", "recognised_excess_before"), ("after", "now", "recognised_excess"),
         ("never exposed", "never", "recognised_excess_never_exposed")), marks=((0.0, "nothing added"),)),
    **{f"recognised_excess[{part}]": Plan(title, (
        ("before", "was", f"recognised_excess_before[{part}]"), ("after", "now", f"recognised_excess[{part}]")),
        "completions that are recognised less shown parts that are", marks=((0.0, "nothing added"),))
       for part, title in (
        ("images to forget", "Of images to forget"), ("held-out images", "Of held-out images of their classes"))},
    **{name: Plan(title, (("shown part alone", "never", f"{name}_shown"), ("before", "was", f"{name}_before"),
                          ("after", "now", name)), lowest=0, highest=1) for name, title in (
        ("forget_recognised", "Images to forget recognised"), ("retained_recognised", "The rest recognised"))},
    **{name: Plan(title, (("before", "was", f"{name}_before"), ("after", "now", name),
                          ("never exposed", "never", f"{name}_never_exposed")), lowest=lowest)
       for name, title, lowest in (
        ("forget_hidden_error", "Hidden error of the forgotten", 0), ("hidden_error", "Hidden error of the rest", 0),
        ("forget_fid", "FID of the forgotten", 0), ("forget_kid", "KID of the forgotten", None),
        ("forget_cosine", "Cosine of the forgotten", None), ("cosine", "Cosine of the rest", None),
        ("forget_inception_score", "Inception score of the forgotten", 1), ("inception_score", "Inception score", 1))},
    **{name: Plan(title, ((row, "now", name),), marks=((0.0, "no change"),)) for name, title, row in (
        ("forget_hidden_error_change", "Change of the forgotten's hidden error", "after / before − 1"),
        ("hidden_error_change", "Change of the rest's hidden error", "after / before − 1"),
        ("hidden_error_drift", "Drift", "candidate / first model − 1"),
        ("retained_recognised_difference", "Recognition lost or gained on the rest", "after − before"))},
    "spread_ratio": Plan("Spread from image to image", (("after / before", "now", "spread_ratio"),), lowest=0,
                         marks=((1.0, "no change"),)),
    "largest_share": Plan("Largest class share", (("before", "was", "largest_share_before"),
                                                  ("after", "now", "largest_share")), lowest=0, highest=1),
    "recognised_excess_earlier": Plan(
        "What was forgotten before", (("parent", "was", "recognised_excess_earlier_before"),
                                      ("candidate", "now", "recognised_excess_earlier")),
        "completions of what earlier requests were about that are recognised, less shown parts that are",
        marks=((0.0, "nothing added"),)),
    "pul": Plan("PUL", (("after", "now", "pul"),), highest=1),
    "kept_share": Plan("Kept share", (("smallest class", "now", "kept_share"),), lowest=0),
    "share_distance": Plan("Share distance", (("after against before", "now", "share_distance"),), lowest=0, highest=1),
    "retained_accuracy": Plan("Accuracy on the rest", (("before", "was", "retained_accuracy_before"),
                                                       ("after", "now", "retained_accuracy")), lowest=0, highest=1),
    "retained_accuracy_difference": Plan(
        "Accuracy lost or gained on the rest", (("after − before", "now", "retained_accuracy_difference"),),
        marks=((0.0, "no change"),)),
    "residual_rate_earlier": Plan(
        "What was forgotten before", (("parent", "was", "residual_rate_earlier_before"),
                                      ("candidate", "now", "residual_rate_earlier")),
        "samples that the judge calls what earlier requests were about", lowest=0, highest=1),
    "forget_accuracy_earlier": Plan(
        "What was forgotten before", (("parent", "was", "forget_accuracy_earlier_before"),
                                      ("candidate", "now", "forget_accuracy_earlier")),
        "images of what earlier requests were about that are named right", lowest=0, highest=1),
    "retained_accuracy_drift": Plan(
        "Drift", (("candidate − first model", "now", "retained_accuracy_drift"),),
        "accuracy on the rest, of this candidate less that of the model that the requests began with: below zero is "
        "worse", marks=((0.0, "no change"),)),
    "drift": Plan("Drift", (("candidate − first model", "now", "drift"),),
                  "KID to real images, of this candidate less that of the model that the requests began with: above "
                  "zero is worse", marks=((0.0, "no change"),)),
    "kid": Plan("KID", (("before", "was", "kid_before"), ("after", "now", "kid_after")),
                "retained samples against real images; the scale makes their mean square 1"),
    "kid_difference": Plan(
        "KID difference",
        (("after − before", "now", "kid_difference"), ("shares held", "held", "kid_difference_fixed_shares")),
        "above zero is worse", marks=((0.0, "no change"),)),
    "fid": Plan(
        "FID", (("before", "was", "fid_before"), ("after", "now", "fid_after"),
                ("after, shares held", "held", "fid_after_fixed_shares"), ("real against real", "never", "fid_floor")),
        "retained samples against real images; real against real is one half of those against the other", lowest=0),
    "fid_excess": Plan("FID above its floor", (("after", "now", "fid_excess"),), marks=((0.0, "as real images"),)),
    "fid_ratio": Plan("FID after over before", (("after", "now", "fid_ratio"),), lowest=0),
    "precision": _neighbours("precision", 1),
    "recall": _neighbours("recall", 1),
    "density": _neighbours("density", None),
    "coverage": _neighbours("coverage", 1),
    "membership_auc": Plan("Membership AUC", (("after", "now", "membership_auc"),), lowest=0, highest=1, whole=True,
                           marks=((0.5, "a guess"),)),
    "search": Plan("Found by search", (("parent", "was", "search_rate_before"), ("candidate", "now", "search_rate")),
                   "starts from which a search of the latents by gradient ends in the unwanted", lowest=0, highest=1),
    "relearning_steps": Plan(
        "Steps until it is back",
        (("parent", "was", "relearning_steps_before"), ("candidate", "now", "relearning_steps"),
         ("never exposed", "never", "relearning_steps_never_exposed")),
        "median over lessons, until it is drawn, or named right, half as often as by the parent, or half of the way "
        "back to the parent's loss is gone", lowest=0),
    "relearning_ratio": Plan("Relearning ratio", (("candidate over never exposed", "now", "relearning_ratio"),),
                             "one is what removal would give; near zero, it was only hidden", lowest=0,
                             marks=((1.0, "as if never seen"),)),
    "ret_fid": Plan("Ret-FID", (("parent", "was", "ret_fid_before"), ("candidate", "now", "ret_fid")),
                    "samples against those of the reference", lowest=0),
    "reference_difference": Plan("Nearer to the reference?",
                                 (("candidate − parent", "now", "reference_difference"),),
                                 marks=((0.0, "equally near"),)),
    "reference_p_value": Plan("p-value", (("after", "now", "reference_p_value"),), lowest=0, highest=1),
    "judge": Plan("The judge on real images", (
        ("right", "now", "judge_accuracy"), ("sees the unwanted", "now", "judge_sensitivity"),
        ("lets the rest pass", "now", "judge_specificity")),
        "accuracy, sensitivity and specificity; they may not carry over to generated images", highest=1),
    "confidence": Plan("How sure the judge is", (
        ("before", "was", "judge_confidence_before"), ("after", "now", "judge_confidence")),
        "mean probability of its own choice; a fall tells of images that are no class at all", lowest=0, highest=1),
}


def panels(report: Report, verdict: Verdict | None) -> dict[str, Panel]:
    """Every panel that a report has a measurement for, by its plan's name; one of its own for what has no plan."""
    plans = {**_class_by_class(report), **PLANS}
    planned = {metric for plan in plans.values() for _, _, metric in plan.rows}
    plans |= {f"{FURTHER}{found.name}": Plan(capital(words.title(found.name)), (("", "now", found.name),))
              for found in report.measurements if found.name not in planned}
    drawn = {name: panel(plan, report.measurements, verdict.rules if verdict else ()) for name, plan in plans.items()}
    return {name: found for name, found in drawn.items() if found is not None}


def of_rule(found: RuleOutcome, measurements: Iterable[Measurement]) -> Panel | None:
    """The panel of a rule's metric alone."""
    planned = next((plan for plan in PLANS.values() if any(row[2] == found.rule.metric for row in plan.rows)), None)
    alone: tuple[PlannedRow, ...] = (("", "now", found.rule.metric),)
    plan = replace(planned, rows=alone, marks=()) if planned else Plan("", alone)
    return panel(plan, measurements, (found,))


def panel(plan: Plan, measurements: Iterable[Measurement], rules: Sequence[RuleOutcome]) -> Panel | None:
    """The measurements of a plan, against the limits that rules set them. None if there is none of them."""
    known = {found.name: found for found in measurements}
    found = [(label, kind, known[metric]) for label, kind, metric in plan.rows if metric in known]
    if not found:
        return None
    asked = [rule for rule in rules if rule.rule.metric in {each.name for _, _, each in found}]
    axis = _axis(plan, [each for _, _, each in found], [outcome.rule.limit for outcome in asked])
    return Panel(
        title=plan.title, meaning=plan.meaning or words.meaning(found[-1][2].name),
        rows=tuple(_row(label, kind, each, axis) for label, kind, each in found),
        labelled=len(plan.rows) > 1,
        made_from=_made_from([(label, each) for label, _, each in found if each.estimate is not None]),
        outcome=worst(outcome.outcome for outcome in asked) if asked else None,
        ends=_ends(found[-1][2].name, axis) if axis else None,
        limits=_marks(axis, [(rule.rule.limit, words.limit(rule.rule).removeprefix("limit ")) for rule in asked]),
        allowed=_allowed(asked, axis) if axis and asked else None, marks=_marks(axis, plan.marks))


_BY_CLASS = {**dict.fromkeys(("residual_rate", "residual_rate_earlier"), "samples that the judge calls this"),
             **dict.fromkeys(("forget_accuracy", "forget_accuracy_earlier"), "images of it that are named right"),
             "recognised_excess": "completions of it that are recognised, less shown parts that are"}
_SIGNED = ("recognised_excess",)  # of these below zero is something as well


def _class_by_class(report: Report) -> dict[str, Plan]:
    """A panel of its own for each of several unwanted classes."""
    plans = {}
    for found in report.measurements:
        whole, _, part = found.name.partition("[")
        if whole in _BY_CLASS and part:
            rows: tuple[PlannedRow, ...] = (
                ("before", "was", f"{whole}_before[{part}"), ("after", "now", found.name))
            ends = (None, None) if whole in _SIGNED else (0, 1)
            plans[found.name] = Plan(f"Class {part.removesuffix(']')}", rows, _BY_CLASS[whole], *ends)
    return plans


def _axis(plan: Plan, found: list[Measurement], limits: list[float]) -> Axis | None:
    """An axis with room for all of it; None where there is no interval, and a dot alone would tell nothing."""
    points = [value for each in found if each.estimate is not None
              for value in (each.estimate, *((each.interval.lower, each.interval.upper) if each.interval else ()))]
    if len(points) < 2:
        return None
    if plan.whole and plan.lowest is not None and plan.highest is not None:
        return Axis(plan.lowest, plan.highest)
    return Axis.around([*points, *limits, *(value for value, _ in plan.marks)], plan.lowest, plan.highest)


def _row(label: str, kind: str, found: Measurement, axis: Axis | None) -> Row:
    if found.estimate is None:
        return Row(label, kind, None, None, found.missing, found.not_applicable)
    interval = found.interval
    bar = None
    if axis and interval:
        left = axis.at(interval.lower)
        bar = left, round(max(0.6, axis.at(interval.upper) - left), 2)
    return Row(label, kind, _said(found.name, found.estimate, interval),
               f"{_said(found.name, interval.lower, interval)} to {_said(found.name, interval.upper, interval)}"
               if interval else None, None, False, axis.at(found.estimate) if axis else None, bar)


def _said(metric: str, value: float, interval: Interval | None) -> str:
    """A value in words; "at least", where repeats were ended there."""
    text = words.number(metric, value, interval)
    return f"at least {text}" if interval and value == ended_at(interval) else text


def _ends(metric: str, axis: Axis) -> tuple[str, str]:
    reach = Interval(lower=axis.left, upper=axis.right, confidence=0.5, method="axis")
    return words.number(metric, axis.left, reach), words.number(metric, axis.right, reach)


def _marks(axis: Axis | None, values: Sequence[tuple[float, str]]) -> tuple[Mark, ...]:
    """Lines at these values. Of two, the texts lean away from each other, or share one place near an end."""
    if axis is None:
        return ()
    marks = [Mark(axis.at(value), text, "end" if axis.at(value) > 50 else "start") for value, text in sorted(values)]
    if len(marks) == 2:
        low, high = marks
        if low.at > _TEXT and high.at < 100 - _TEXT:
            marks = [replace(low, anchor="end"), replace(high, anchor="start")]
        elif low.anchor == high.anchor:
            kept, silent = (low, high) if low.anchor == "start" else (high, low)
            marks = [replace(kept, text=f"{low.text}, {high.text}"), replace(silent, text="")]
    return tuple(marks)


def _allowed(rules: list[RuleOutcome], axis: Axis) -> tuple[float, float]:
    """What every limit allows, in percent: left end and width."""
    left = max([axis.at(found.rule.limit) for found in rules if found.rule.side == "at least"], default=0.0)
    right = min([axis.at(found.rule.limit) for found in rules if found.rule.side == "at most"], default=100.0)
    return left, round(max(0.0, right - left), 2)


def _made_from(found: list[tuple[str, Measurement]]) -> str:
    """How many of what the numbers are made from, and by which method their intervals: once, if all agree."""
    counts = {label: f"n{_SPACE}={_SPACE}{each.n:,} {_unit(each.name)}".rstrip()
              for label, each in found if each.n is not None}
    methods = {f"{each.interval.method}, {each.interval.confidence:.0%}".replace("%", f"{_SPACE}%"): None
               for _, each in found if each.interval}
    if len(set(counts.values())) > 1:
        said = [f"{label}: {count}" for label, count in counts.items()]
    else:
        said = list(counts.values())[:1]
    return " · ".join([*said, *methods])


def _unit(metric: str) -> str:
    known = words.find(metric)
    return known.unit if known else ""
