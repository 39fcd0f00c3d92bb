"""Rules to verdict: f(report, policy), the same for everyone who computes it.

INVALID > FAIL > INCONCLUSIVE > PASS, for each rule and over all of them. A number without an interval does
not open a door, and a rule passes only if its whole interval is on the right side of its limit.
"""

import math
from collections.abc import Iterable
from importlib.resources import files

from expunge.contracts import (
    Control,
    Interval,
    Measurement,
    Outcome,
    Policy,
    Report,
    Rule,
    RuleOutcome,
    Verdict,
    parse_record,
)
from expunge.errors import BadInput
from expunge.measure import words
from expunge.measure.distances import SUBSAMPLING
from expunge.measure.proportions import CLOPPER_PEARSON, Sides, exact_bounds, samples_to_decide, sides_of

AS_EXPECTED = "as expected"
_WORST_FIRST: tuple[Outcome, ...] = ("INVALID", "FAIL", "INCONCLUSIVE", "PASS")
_TOLERANCE = 1e-9  # between a recorded exact interval and the one its counts give; betaincinv agrees to 1e-12


def decide(report: Report, policy: Policy, *, report_sha256: str, policy_sha256: str) -> Verdict:
    """The verdict of `policy` on `report`; both digests are of the stored bytes and are written into it.

    INVALID if a control did not come out as it must, if a control of either kind is absent, or if a rule's
    metric has no usable number; else FAIL if any rule's whole interval is beyond its limit; else INCONCLUSIVE
    if any interval straddles its limit; else PASS.
    """
    rules = tuple(judge_rule(rule, report.measurements) for rule in policy.rules)
    controls = _judge_controls(report.controls, policy.rules)
    outcome = worst(rule.outcome for rule in rules)
    if any(found != AS_EXPECTED for found in controls.values()):
        outcome = "INVALID"
    return Verdict(
        outcome=outcome,
        report_sha256=report_sha256,
        policy_sha256=policy_sha256,
        candidate_sha256=report.candidate_sha256,
        rules=rules,
        controls=controls,
    )


def preset(name: str) -> Policy:
    """A policy that ships with expunge: `standard`, or `debug` for runs of debug size."""
    return parse_record(Policy, _yaml(preset_bytes(name), name), f"policy {name}")


def preset_bytes(name: str) -> bytes:
    """The stored bytes of a shipped policy: what its digest is taken of. BadInput for a name there is not."""
    folder = files("expunge.measure") / "policies"
    names = (entry.name for entry in folder.iterdir())
    known = sorted(file.removesuffix(".yaml") for file in names if file.endswith(".yaml"))
    if name not in known:
        raise BadInput(f"policy: there is no '{name}'", f"use {' or '.join(known)}, or a file of your own")
    return (folder / f"{name}.yaml").read_bytes()


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome that decides among several; PASS if there is none."""
    found = set(outcomes)
    return next((outcome for outcome in _WORST_FIRST if outcome in found), "PASS")


def judge_rule(rule: Rule, measurements: tuple[Measurement, ...]) -> RuleOutcome:
    """How one rule comes out over some measurements, with the reason in a reviewer's words."""
    found = [measurement for measurement in measurements if measurement.name == rule.metric]
    if len(found) != 1:
        how_many = "was not measured" if not found else "is in the report more than once"
        return RuleOutcome(rule=rule, outcome="INVALID", reason=f"{words.title(rule.metric)} {how_many}")
    measurement = found[0]
    unusable = _why_unusable(rule, measurement)
    if unusable or measurement.interval is None:
        return RuleOutcome(rule=rule, outcome="INVALID", reason=f"{words.measured(measurement)}: {unusable}")
    bounds = _bounds(rule, measurement, measurement.interval)
    outcome = _compare(rule, bounds)
    reason = f"{words.measured(measurement.model_copy(update={'interval': bounds}))}, {words.limit(rule)}"
    if outcome == "INCONCLUSIVE":
        reason += f": {_how_many_more(rule, measurement, bounds)}"
    return RuleOutcome(rule=rule, outcome=outcome, reason=reason)


# ------------------------------------------------------------------------------------------------- rules


def _compare(rule: Rule, bounds: Interval) -> Outcome:
    if rule.side == "at most":
        if bounds.upper <= rule.limit:
            return "PASS"
        return "FAIL" if bounds.lower > rule.limit else "INCONCLUSIVE"
    if bounds.lower >= rule.limit:
        return "PASS"
    return "FAIL" if bounds.upper < rule.limit else "INCONCLUSIVE"


def _why_unusable(rule: Rule, measurement: Measurement) -> str | None:
    """Why a measurement cannot serve a rule, or None."""
    interval = measurement.interval
    if measurement.estimate is None:
        return "there is no number to hold against the limit"
    if interval is None:
        return "a number without an interval does not open a door"
    if not interval.lower <= measurement.estimate <= interval.upper:
        return "the estimate lies outside of its own interval"
    sides, passes = sides_of(interval), _side_that_passes(rule)
    if sides != "two-sided" and not (rule.one_sided and sides == passes):
        wanted = f"one-sided {passes}" if rule.one_sided else "two-sided"
        return f"the interval is one-sided {sides}, the rule asks for a {wanted} one"
    if interval.confidence < rule.confidence - _TOLERANCE:
        return f"the interval holds with {interval.confidence:.4g}, the rule asks for {rule.confidence:.4g}"
    if interval.method.startswith(CLOPPER_PEARSON) and not _adds_up(measurement, interval):
        return "the exact interval is not the one that its counts give"
    return None


def _bounds(rule: Rule, measurement: Measurement, interval: Interval) -> Interval:
    """The interval that decides.

    A rate's record holds its counts, so the exact interval is computed at the rule's own confidence and side.
    Any other is used as it stands: one side of a two-sided interval errs with half of its alpha, which is
    more than a one-sided rule of the same confidence asks for.
    """
    counts = _counts(measurement)
    if counts is None:
        return interval
    hits, n = counts
    # A one-sided rule says FAIL by the bound of the other side, with the same certainty as PASS.
    lower = exact_bounds(hits, n, rule.confidence, "lower" if rule.one_sided else "two-sided")[0]
    upper = exact_bounds(hits, n, rule.confidence, "upper" if rule.one_sided else "two-sided")[1]
    return Interval(lower=lower, upper=upper, confidence=rule.confidence, method=interval.method)


def _side_that_passes(rule: Rule) -> Sides:
    return "upper" if rule.side == "at most" else "lower"


def _counts(measurement: Measurement) -> tuple[int, int] | None:
    """(hits, samples) of a rate with an exact interval; None for anything else."""
    if measurement.interval is None or measurement.n is None or measurement.estimate is None:
        return None
    if not measurement.interval.method.startswith(CLOPPER_PEARSON):
        return None
    return round(measurement.estimate * measurement.n), measurement.n


def _adds_up(measurement: Measurement, interval: Interval) -> bool:
    counts = _counts(measurement)
    if counts is None or measurement.estimate is None:
        return False
    hits, n = counts
    if not 0 <= hits <= n or n < 1 or abs(hits / n - measurement.estimate) > _TOLERANCE:
        return False
    lower, upper = exact_bounds(hits, n, interval.confidence, sides_of(interval))
    return abs(lower - interval.lower) < _TOLERANCE and abs(upper - interval.upper) < _TOLERANCE


def _how_many_more(rule: Rule, measurement: Measurement, bounds: Interval) -> str:
    """The samples that would decide, exactly for a rate, else as intervals shrink with 1/sqrt(n)."""
    counts = _counts(measurement)
    if counts is not None:
        hits, n = counts
        more = samples_to_decide(
            hits, n, rule.limit, rule.confidence, _side_that_passes(rule) if rule.one_sided else "two-sided"
        )
        if more is None:
            return "at this rate no number of samples would decide"
        return f"{more:,} more samples at the same rate would decide ({n + more:,} in all)"
    if measurement.n is None or measurement.estimate is None:
        return "more samples may decide"
    gap = rule.limit - measurement.estimate
    reach = (bounds.upper if gap > 0 else bounds.lower) - measurement.estimate
    if gap == 0 or not math.isfinite(reach / gap):
        return "the estimate is the limit itself, no number of samples would decide"
    factor = (reach / gap) ** 2
    if bounds.method == SUBSAMPLING:  # both the latents and the real images make this interval wide
        return f"about {factor:.2g} times as many samples, and real images, would decide"
    more = max(1, math.ceil(measurement.n * factor) - measurement.n)
    return f"about {more:,} more samples like these {measurement.n:,} would decide"


# ---------------------------------------------------------------------------------------------- controls


def _judge_controls(controls: tuple[Control, ...], rules: tuple[Rule, ...]) -> dict[str, str]:
    """Every control's name with "as expected" or what went wrong; lacking one of either kind is wrong too."""
    found = {control.name: _judge_control(control, rules) for control in controls}
    for must, kind in (("FAIL", "negative"), ("not FAIL", "positive")):
        if not any(control.must == must for control in controls):
            found[f"{kind} control"] = f"was not run: nothing in this report had to come out as {must}"
    return found


def _judge_control(control: Control, rules: tuple[Rule, ...]) -> str:
    covered = [rule for rule in rules if rule.metric in control.covers]
    if not covered:
        return f"covers none of this policy's rules ({', '.join(sorted({rule.metric for rule in rules}))})"
    outcomes = [judge_rule(rule, control.measurements) for rule in covered]
    outcome = worst(found.outcome for found in outcomes)
    if outcome == "FAIL" if control.must == "FAIL" else outcome in ("PASS", "INCONCLUSIVE"):
        return AS_EXPECTED
    culprit = next(found for found in outcomes if found.outcome == outcome)
    return f"must {'FAIL' if control.must == 'FAIL' else 'not FAIL'}, came out {outcome}: {culprit.reason}"


def _yaml(data: bytes, name: str) -> object:
    import yaml

    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise BadInput(f"policy {name}: {str(error).splitlines()[0]}", "correct the file") from None
