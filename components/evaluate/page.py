"""The page a reviewer looks at: one HTML file, no network, no script, from a report's folder alone."""

import base64
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.evaluate import figures
from components.evaluate.panels import FURTHER, capital, of_rule, panels
from components.evaluate.probes.is_it_still_completed import EXCESS_OF_SETS
from expunge.contracts import Control, Measurement, Policy, Report, RuleOutcome, Verdict, read_record
from expunge.errors import DoesNotVerify
from expunge.measure import words
from expunge.measure.policy import AS_EXPECTED, NOT_ASKED, went_wrong, worst
from expunge.pictures import to_show

if TYPE_CHECKING:
    from jinja2 import Template

HEADLINE = ("residual_rate", "pul", "kid_difference", "kept_share", "search_rate", "relearning_ratio",
            "residual_rate_earlier", "drift", "forget_accuracy", "retained_accuracy_difference",
            "forget_accuracy_earlier", "retained_accuracy_drift", "prototype_accuracy_difference", "membership_auc")
OF_A_FLOW = ("forget_z_lowest", "forget_z_highest", "quantile_drop", "bits_per_dim_change", "kid_ratio",
             "unlikely_share_earlier", "bits_per_dim_drift", "membership_auc")
OF_A_FLOWS_CLASS = ("unlikely_share", "forget_unlikely_share", "forget_outlying_share", "bits_per_dim_change",
                    "kid_ratio", "unlikely_share_earlier", "bits_per_dim_drift", "membership_auc")
OF_COMPLETIONS = ("recognised_excess", "hidden_error_change", "kid_ratio", "retained_recognised_difference",
                  "recognised_excess_earlier", "hidden_error_drift", "relearning_ratio", "membership_auc")
CLASSES_SHOWN = 16  # beyond that a bar chart is a fence
LONG_NAME = 4  # characters of a class's name that fit under an upright bar
PARENTS = {"classifier": "knew", "image_to_image": "completes"}  # what a parent does, of which quality speaks

_SAYS = {
    "PASS": ("Every rule is met, with its whole interval.", "It may go to approval."),
    "FAIL": ("At least one rule is broken, with its whole interval.", "It goes no further."),
    "INCONCLUSIVE": ("At least one interval straddles its limit.", "More samples would decide."),
    "INVALID": ("This measurement cannot be trusted.", "Nothing follows from its numbers."),
}
_WORST_FIRST = ("INVALID", "FAIL", "INCONCLUSIVE", "PASS")
_CONTROLS = {
    "parent": "The unchanged parent, as if it were the candidate.",
    "real": "Real held-out images of the retained classes, as if they had been generated.",
    "output filter": "The parent behind a filter that lets nothing pass which is unwanted. What comes out is clean, "
    "and the weights still hold it all.",
    "noise": "Images of nothing but noise in the place of those to forget: what nobody could find likely.",
    "rest": "The candidate asked about held-out images of the rest, as if they were of the class that was to go.",
    "worn images": "The parent asked about held-out images of which a quarter of the pixels was drawn at random.",
    "again": "The parent asked about the same held-out images by other chance: nothing has changed.",
    "other noise": "What is shown of the images to forget, the hole filled with other noise than that which it is held "
    "against: who adds nothing has forgotten.",
    **{f"noise: {what}": "What is shown of images of the rest, the hole filled with noise, as if the candidate had "
       "completed them so." for what in ("error", "KID", "recognised")},
    "worn draws": "The parent's samples with a quarter of their pixels drawn at random, as if the candidate had drawn "
    "them.",
    "masked": "The parent with the outputs of the unwanted classes struck out: a filter, which says of accuracy what "
    "is possible and of weights nothing.",
    "reference": "A model that was trained again without the unwanted, as if it were the candidate.",
    "origin": "The model that the earlier requests began with, as if it were the candidate: it still knows what they "
    "were about.",
}


def render_page(
    report: Path,
    verdict: Verdict | None = None,
    policy: Policy | None = None,
    reason: str | None = None,
    *,
    attempt: int = 1,
    attempts: int = 1,
    waived_by: tuple[str, ...] = (),
    waived: tuple[str, ...] = (),
) -> str:
    """The page of the report in folder `report`, as HTML.

    Without a verdict it is what `evaluate` knows. With the gate's verdict it begins with that, each rule's
    limit is drawn beside its interval, and, given the policy and the request's reason, pictures of the
    unwanted are left out if the policy does not allow them. Pictures are those stored in the folder. `attempt` is
    the number of this try at a verdict on its request, of `attempts` so far. `waived` are rules, by metric, that were
    INCONCLUSIVE and that the people in `waived_by` signed away.
    Raises DoesNotVerify if the verdict is of another candidate.
    """
    record = read_record(Report, report)
    if verdict and verdict.candidate_sha256 != record.candidate_sha256:
        raise DoesNotVerify("the verdict is of another candidate than the report", "render each with its own")
    drawn = panels(record, verdict)
    unwanted = _listed(_name(record, label) for label in record.unwanted)
    likely, completed = figures.likelihoods(report), figures.completed(report)
    what, gone = f"class {unwanted}", (*record.unwanted, *record.earlier)
    if likely:
        gone = () if likely.single else gone
        what = f"{likely.count:,} image{'s' if likely.count > 1 else ''} of {what}"
    if completed and completed.single:
        gone, what = (), f"{completed.images:,} image{'s' if completed.images > 1 else ''} of {what}"
    pictures = _pictures(report, record, policy, reason)
    return _template().render(
        report=record,
        made_by=record.made_by,
        verdict=verdict,
        attempt=attempt,
        attempts=max(attempt, attempts),
        waived_by=waived_by,
        waived=[capital(words.title(rule)) for rule in waived],
        says=_SAYS,
        headline=_headline(record, verdict),
        rules=_rules(record, verdict),
        panels=drawn,
        further=[name for name in drawn if name.startswith(FURTHER)],
        controls=[_control(control, verdict) for control in record.controls],
        wrong_controls=_wrong_controls(record, verdict),
        shares=_shares(record, gone),
        gone=gone,
        pictures=pictures,
        chances=figures.chances(report),
        above_half=figures.above_half,
        closeness=figures.closeness(report),
        likelihoods=likely,
        completed=completed,
        excess_by_class=[name for name in _parts(record, "recognised_excess") if name not in EXCESS_OF_SETS],
        what=what,
        searches=figures.searches(report),
        relearning=figures.relearning(record),
        kinds={"parent": "was", "candidate": "now", "never exposed": "never"},
        measured={found.name: found for found in record.measurements},
        held_shares=any(found.name.endswith("_fixed_shares") and not found.missing for found in record.measurements),
        class_by_class=_parts(record, "residual_rate", "forget_accuracy"),
        earlier=_listed(_name(record, label) for label in record.earlier),
        earlier_class_by_class=_parts(record, "residual_rate_earlier", "forget_accuracy_earlier"),
        called=lambda label: _name(record, label),
        unwanted=unwanted,
        not_shown=_not_shown(record, pictures),
    )


@functools.cache  # to compile it and its sections takes longer than to fill them in
def _template() -> "Template":
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("report.html.j2")


def _parts(report: Report, *wholes: str) -> list[str]:
    """The metrics of single classes, `rate[4]`, that belong to one of these."""
    return [found.name for found in report.measurements if found.name.partition("[")[0] in wholes and "[" in found.name]


# --------------------------------------------------------------------------------- numbers and verdict


def _headline(report: Report, verdict: Verdict | None) -> list[dict[str, Any]]:
    """The numbers to begin with. What looks at the weights is among them where somebody looked, or asks for it."""
    rules = verdict.rules if verdict else ()
    found = {measured.name: measured for measured in report.measurements}
    asked = {rule.rule.metric for rule in rules}
    of_a_flow = OF_A_FLOWS_CLASS if "unlikely_share" in found and not report.single_images else OF_A_FLOW
    names = {"flow": of_a_flow, "image_to_image": OF_COMPLETIONS}.get(report.family, HEADLINE)
    return [
        _number(found[name], [rule for rule in rules if rule.rule.metric == name])
        for name in names
        if name in found and (found[name].missing is None or name in (*asked, *names[:4]))
    ]


def _number(found: Measurement, rules: list[RuleOutcome]) -> dict[str, Any]:
    """A measurement in words."""
    metric = words.find(found.name)
    return {
        "title": capital(words.title(found.name)),
        "meaning": metric.meaning if metric else "",
        "missing": found.missing,
        "not_applicable": found.not_applicable,
        "outcome": worst(rule.outcome for rule in rules) if rules else None,
        "interval": words.interval(found.name, found.interval) if found.interval else None,
        "value": None if found.estimate is None else words.number(found.name, found.estimate, found.interval),
    }


def _rules(report: Report, verdict: Verdict | None) -> list[dict[str, Any]]:
    """Every rule with its interval against its limit; what decides comes first."""
    found = sorted(verdict.rules if verdict else (), key=lambda rule: _WORST_FIRST.index(rule.outcome))
    return [{"found": rule, "panel": of_rule(rule, report.measurements)} for rule in found]


def _wrong_controls(report: Report, verdict: Verdict | None) -> list[tuple[str, str]]:
    """What went wrong with which control, or with there being none of a kind."""
    run = {control.name for control in report.controls}
    return [
        (f"control {name}" if name in run else name, came)
        for name, came in (verdict.controls if verdict else {}).items()
        if went_wrong(came)
    ]


def _control(control: Control, verdict: Verdict | None) -> dict[str, Any]:
    came = verdict.controls.get(control.name) if verdict else None
    known = {found.name: found for found in control.measurements}
    return {
        "name": control.name,
        "must": control.must,
        "what": _CONTROLS.get(control.name, ""),
        "covers": _listed(words.title(metric) for metric in control.covers),
        "measured": [words.measured(known[metric]) for metric in control.covers if metric in known],
        "came": came,
        "outcome": None if came is None or came.startswith(NOT_ASKED) else "INVALID" if went_wrong(came) else "PASS",
        "short": came if came == AS_EXPECTED else NOT_ASKED if came and came.startswith(NOT_ASKED) else "wrong",
    }


def _shares(report: Report, gone: tuple[int, ...]) -> dict[str, Any]:
    """Class shares as bar lengths; of many classes, those that were to go and those that lost most."""
    unwanted = {str(label) for label in gone}

    def kept(label: str) -> float:
        before, after = report.shares[label]
        return after / before if before else 1.0

    labels = list(report.shares)
    chosen = [label for label in labels if label in unwanted]
    chosen += sorted((label for label in labels if label not in unwanted), key=kept)[
        : CLASSES_SHOWN - len(chosen)
    ]
    highest = max([max(report.shares[label]) for label in chosen], default=0.0) or 1.0
    bars = [
        {
            "label": _name(report, int(label)),
            "unwanted": label in unwanted,
            "before": round(100 * report.shares[label][0] / highest, 1),
            "after": round(100 * report.shares[label][1] / highest, 1),
            "before_text": f"{report.shares[label][0]:.1%}".replace("%", " %"),
            "after_text": f"{report.shares[label][1]:.1%}".replace("%", " %"),
            "kept": None if label in unwanted else f"×{kept(label):.2f}",
        }
        for label in sorted(chosen, key=labels.index)
    ]
    return {
        "left_out": len(labels) - len(chosen),
        "long": any(len(str(bar["label"])) > LONG_NAME for bar in bars),
        "bars": bars,
    }


def _name(report: Report, label: int) -> str:
    """A class's name where the judge has one, else its number."""
    return report.classes[label] if report.classes else str(label)


# ---------------------------------------------------------------------------------------------- pictures


def _pictures(folder: Path, report: Report, policy: Policy | None, reason: str | None) -> dict[str, Any]:
    """What may be shown of the stored strips, as data URIs, and the position of every tile in them."""
    found = to_show(folder, report, policy, reason)
    groups = {}
    for name, group in found.groups.items():
        step = 100 / max(1, len(group.tiles) - 1)
        width, height = group.size
        groups[name] = {
            "count": len(group.tiles),
            "strips": {side: base64.b64encode(group.png(side)).decode() for side in group.strips},
            "ratio": f"{width} / {height}",
            "tiles": [{**tile, "at": round(step * place, 4)} for place, tile in enumerate(group.tiles)],
        }
    return {"groups": groups, "before_shown": found.before_shown, "withheld": found.withheld,
            "narrowed": found.narrowed}


# ------------------------------------------------------------------------------------------ what is not


def _not_shown(report: Report, pictures: dict[str, Any]) -> list[str]:
    """What a reader will not find on this page, and why; and what its numbers do not say."""
    found = []
    if not pictures["before_shown"]:
        left_out = f" {pictures['withheld']} latents that still draw it were left out as well."
        found.append(
            "Pictures of what was to be forgotten: the request's reason, or the policy, does not allow them."
            + (left_out if pictures["withheld"] else "")
        )
    found += _missing(report.measurements)
    if report.holdout_lacks:
        named = [_name(report, label) for label in report.holdout_lacks]
        more = len(named) - CLASSES_SHOWN
        lacking = "class " + _listed(named[:CLASSES_SHOWN] + ([f"{more} more"] if more > 0 else []))
        found.append(
            f"Real images of {lacking}: none was held out. What is compared with real images says nothing of how these "
            "look, and takes samples of them for strange ones." if report.shares else
            f"Held-out images of {lacking}: there is none, so nothing says how well these are still recognised.")
    if report.family == "image_to_image":
        found.append("How the shown part of an image comes out: as it was, which was looked at for every completion. "
                     "Only the hidden part is drawn, so there is no number to give.")
    if report.family == "flow":
        found.append("The images that were to be forgotten: no picture of them is in this report, whatever the policy "
                     "allows.")
    if report.forget_id or report.retain_id:
        could = _listed(what for what, there in (("what was to be forgotten", report.forget_id),
                                                 ("what was to stay", report.retain_id)) if there)
        found.append(f"How much of the quality is the parent's: training could read real images of {could}, so it is "
                     f"not bounded by what the parent {PARENTS.get(report.family, 'draws')}.")
    measured = {measurement.name for measurement in report.measurements if measurement.missing is None}
    if measured.isdisjoint(("search_rate", "relearning_steps")):
        found.append("Whether the weights still hold it: nothing in this report looked at more than outputs.")
    asked = {measurement.name for measurement in report.measurements}
    if "judge_accuracy" in asked:
        found.append(
            "How often the judge errs on generated images. Its accuracy, sensitivity and specificity are those on "
            "real ones, and may not carry over; nor may what is corrected by them."
        )
    if "fid_after" in asked and report.extractor_sha256 in (None, report.judge_sha256):
        found.append("Damage that the judge's own features do not notice: distances use those, and nothing else.")
    found.append(
        "That nothing is left of it. Every number is about what these weights put out, or about the probes that were "
        "run, within its interval: a longer search or a better teacher may find more."
    )
    return found


def _missing(measurements: Iterable[Measurement]) -> list[str]:
    """What could not be measured or does not apply, each reason once."""
    reasons: dict[tuple[str, bool], list[str]] = {}
    for found in measurements:
        if found.missing is not None:
            reasons.setdefault((found.missing, found.not_applicable), []).append(words.title(found.name))
    return [
        f"{_listed(titles)}{', not applicable' if not_applicable else ''}: {reason}."
        for (reason, not_applicable), titles in reasons.items()
    ]


def _listed(items: Iterable[str]) -> str:
    *some, last = list(items) or ["none"]
    return f"{', '.join(some)} and {last}" if some else last
