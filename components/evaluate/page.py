"""The page a reviewer looks at: one HTML file, no network, no script, from a report's folder alone."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.evaluate.pictures import read_index
from expunge.contracts import Control, Measurement, Policy, Report, Rule, RuleOutcome, Verdict, read_record
from expunge.errors import DoesNotVerify
from expunge.measure import words
from expunge.measure.policy import AS_EXPECTED

HEADLINE = ("residual_rate", "pul", "kid_difference", "kept_share")
CLASSES_SHOWN = 16  # beyond that a bar chart is a fence

_SAYS = {
    "PASS": ("Every rule is met, with its whole interval.", "It may go to approval."),
    "FAIL": ("At least one rule is broken, with its whole interval.", "It goes no further."),
    "INCONCLUSIVE": ("At least one interval straddles its limit.", "More samples would decide."),
    "INVALID": ("This measurement cannot be trusted.", "Nothing follows from its numbers."),
}


def render_page(
    report: Path, verdict: Verdict | None = None, policy: Policy | None = None, reason: str | None = None
) -> str:
    """The page of the report in folder `report`, as HTML.

    Without a verdict it is what `evaluate` knows. With the gate's verdict it begins with that, each rule's
    limit is drawn beside its interval, and, given the policy and the request's reason, pictures of the
    unwanted are left out if the policy does not allow them. Pictures are those stored in the folder.
    Raises DoesNotVerify if the verdict is of another candidate.
    """
    import jinja2

    record = read_record(Report, report)
    if verdict and verdict.candidate_sha256 != record.candidate_sha256:
        raise DoesNotVerify("the verdict is of another candidate than the report", "render each with its own")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    outcomes = {found.rule.metric: found for found in verdict.rules} if verdict else {}
    measured = {found.name: _number(found, outcomes.get(found.name)) for found in record.measurements}
    pictures = _pictures(report, policy is None or reason is None or reason in policy.show_before)
    return environment.get_template("report.html.j2").render(
        report=record,
        verdict=verdict,
        says=_SAYS,
        measured=measured,
        headline=[measured[name] for name in HEADLINE if name in measured],
        controls=[_control(control, verdict) for control in record.controls],
        lacking=[
            name
            for name in (verdict.controls if verdict else {})
            if name not in {control.name for control in record.controls}
        ],
        as_expected=AS_EXPECTED,
        shares=_shares(record),
        pictures=pictures,
        class_by_class=[name for name in measured if name.startswith("residual_rate[")],
        called=lambda label: _name(record, label),
        unwanted=_listed(_name(record, label) for label in record.unwanted),
        not_shown=_not_shown(record, pictures),
    )


# --------------------------------------------------------------------------------- numbers and intervals


def _number(found: Measurement, outcome: RuleOutcome | None = None) -> dict[str, Any]:
    """A measurement in words, and where its interval lies on a scale of its own."""
    metric = words.find(found.name)
    shown: dict[str, Any] = {
        "name": found.name,
        "title": words.title(found.name),
        "meaning": metric.meaning if metric else "",
        "missing": found.missing,
        "n": found.n,
        "outcome": outcome,
        "plot": None,
        "method": None,
        "interval": None,
        "value": None,
    }
    if found.estimate is None:
        return shown
    shown["value"] = words.number(found.name, found.estimate, found.interval)
    if found.interval:
        shown["interval"] = words.interval(found.name, found.interval)
        shown["method"] = f"{found.interval.method}, {found.interval.confidence:.0%}".replace("%", " %")
        shown["plot"] = _plot(found, outcome.rule if outcome else None)
    return shown


def _plot(found: Measurement, rule: Rule | None) -> dict[str, Any] | None:
    """Positions in percent of the plot's width: interval, estimate, limit, and the side that is allowed."""
    interval, estimate = found.interval, found.estimate
    if interval is None or estimate is None:
        return None
    points = [interval.lower, interval.upper, estimate, *([rule.limit] if rule else [])]
    low, high = min(points), max(points)
    reach = (high - low) or abs(high) or 1.0
    share = words.is_percent(found.name)
    left, right = low - 0.18 * reach, high + 0.18 * reach
    if share:  # a rate has an end below; above 100 % there is room only for what is there
        left, right = max(0.0, left) if low >= 0 else left, min(max(1.0, high), right)

    def at(value: float) -> float:
        return round(100 * (value - left) / (right - left), 2)

    drawn: dict[str, Any] = {
        "lower": at(interval.lower),
        "width": round(max(0.6, at(interval.upper) - at(interval.lower)), 2),
        "estimate": at(estimate),
        "limit": None,
        "ends": [words.number(found.name, end, interval) for end in (left, right)],
    }
    if rule:
        position = at(rule.limit)
        drawn["limit"] = position
        drawn["limit_text"] = words.limit(rule).removeprefix("limit ")
        drawn["allowed"] = (0, position) if rule.side == "at most" else (position, 100 - position)
        drawn["anchor"] = "end" if position > 50 else "start"
    return drawn


def _control(control: Control, verdict: Verdict | None) -> dict[str, Any]:
    what = {
        "parent": "The unchanged parent, as if it were the candidate.",
        "real": "Real held-out images of the retained classes, as if they had been generated.",
    }.get(control.name, "")
    return {
        "name": control.name,
        "must": control.must,
        "what": what,
        "covers": _listed(words.title(metric) for metric in control.covers),
        "measured": [words.measured(found) for found in control.measurements if found.name in control.covers],
        "came": verdict.controls.get(control.name) if verdict else None,
    }


def _shares(report: Report) -> dict[str, Any]:
    """Class shares as bar heights; of many classes, the unwanted and those that lost most."""
    unwanted = {str(label) for label in report.unwanted}

    def kept(label: str) -> float:
        before, after = report.shares[label]
        return after / before if before else 1.0

    labels = list(report.shares)
    chosen = [label for label in labels if label in unwanted]
    chosen += sorted((label for label in labels if label not in unwanted), key=kept)[
        : CLASSES_SHOWN - len(chosen)
    ]
    highest = max([max(report.shares[label]) for label in chosen], default=0.0) or 1.0
    return {
        "left_out": len(labels) - len(chosen),
        "bars": [
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
        ],
    }


def _name(report: Report, label: int) -> str:
    """A class's name where the judge has one, else its number."""
    return report.classes[label] if report.classes else str(label)


# ---------------------------------------------------------------------------------------------- pictures


def _pictures(folder: Path, allowed: bool) -> dict[str, Any]:
    """The stored strips as data URIs, and the position of every tile in them."""
    index = read_index(folder)
    shown = bool(index["before_shown"]) and allowed
    groups = {}
    for name, group in index["groups"].items():
        tiles = group["tiles"]
        step = 100 / max(1, len(tiles) - 1)
        groups[name] = {
            "count": len(tiles),
            "strips": {
                side: base64.b64encode((folder / file).read_bytes()).decode()
                for side, file in group["strips"].items()
                if shown or (name, side) != ("unwanted", "before")
            },
            "ratio": _ratio(folder, group["strips"], len(tiles)),
            "tiles": [{**tile, "at": round(step * place, 4)} for place, tile in enumerate(tiles)],
        }
    return {"groups": groups, "before_shown": shown, "withheld": index["withheld"], "narrowed": not allowed}


def _ratio(folder: Path, strips: dict[str, str], count: int) -> str:
    from PIL import Image

    if "after" not in strips:
        return "1"
    with Image.open(folder / strips["after"]) as strip:
        return f"{strip.width // count} / {strip.height}"


def _not_shown(report: Report, pictures: dict[str, Any]) -> list[str]:
    """What a reader will not find on this page, and why."""
    found = []
    if not pictures["before_shown"]:
        found.append(
            "Pictures of what was to be forgotten: the request's reason, or the policy, does not allow them. "
            f"{pictures['withheld']} latents that still draw it were left out as well."
        )
    found += [
        f"{words.title(measured.name)}: {measured.missing}."
        for measured in report.measurements
        if measured.missing
    ]
    found.append(
        "Whether the forgotten can be brought back: this report looks at what the model draws, not at its "
        "weights. Relearning and search of the latents were not run."
    )
    found.append(
        "A correction for the judge's own errors. Its accuracy on real images is given above; it may not "
        "carry over to generated ones."
    )
    found.append(
        "Membership inference: not applicable, for the samples to be forgotten are the generator's own "
        "and were never members of its training set."
    )
    return found


def _listed(items: Iterable[str]) -> str:
    *some, last = list(items) or ["none"]
    return f"{', '.join(some)} and {last}" if some else last
