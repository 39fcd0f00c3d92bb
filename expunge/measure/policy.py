"""Rules to verdict: f(report, policy), the same for everyone who computes it.

INVALID > FAIL > INCONCLUSIVE > PASS, for each rule and over all of them. A number without an interval does
not open a door, and a rule passes only if its whole interval is on the right side of its limit.
"""

import math
from collections.abc import Callable, Iterable
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
from expunge.measure.judged import corrected_rate
from expunge.measure.medians import ended_at
from expunge.measure.proportions import (
    CLOPPER_PEARSON,
    Bounds,
    Sides,
    exact_bounds,
    samples_to_decide,
    sides_of,
)
from expunge.measure.sequential import SEQUENCE, sequence_bounds

AS_EXPECTED = "as expected"
NOT_ASKED = "not asked"  # how what is said of a control begins that covers no rule of the policy
OUTPUT_FILTER = "output filter"
# Metrics that an output filter cannot please.
WEIGHT_READING = ("search_rate", "search_ratio", "relearning_ratio", "grafted_accuracy")
_BOUNDS: dict[str, Bounds] = {CLOPPER_PEARSON: exact_bounds, SEQUENCE: sequence_bounds}
_WORST_FIRST: tuple[Outcome, ...] = ("INVALID", "FAIL", "INCONCLUSIVE", "PASS")
_TOLERANCE = 1e-9  # between a recorded interval and the one its counts give; betaincinv agrees to 1e-12
_MOST = 100_000_000  # samples: what would take more is said to be undecidable


def rules_for(policy: Policy, family: str, *, earlier: bool = False, images: bool = False) -> tuple[Rule, ...]:
    """The rules of a policy that are for models of a family; with `earlier`, also those for what came before.

    With `images` those for requests about single images, without it those for requests about whole classes.
    """
    about = "images" if images else "classes"
    return tuple(rule for rule in policy.rules
                 if (not rule.families or family in rule.families) and (earlier or not rule.if_earlier)
                 and rule.about in (None, about))


def decide(report: Report, policy: Policy, *, report_sha256: str, policy_sha256: str) -> Verdict:
    """The verdict of `policy` on `report`; both digests are of the stored bytes and are written into it.

    INVALID if the policy has no rule for the report's family, if a control did not come out as it must, if no
    control of either kind covers a rule, or if a rule's metric has no usable number; else FAIL if any rule's whole
    interval is beyond its limit; else INCONCLUSIVE if any interval straddles its limit; else PASS. Rules on what came
    before are asked if the report says that classes were forgotten before, and after requests about single images alone
    those of them that have a meaning then. Rules about single images, or about whole classes, are asked if the report
    says that this is what was to go.
    """
    asked = rules_for(policy, report.family, earlier=bool(report.earlier or report.came_before),
                      images=bool(report.single_images))
    if not report.earlier:
        without = {found.name for found in report.measurements if found.not_applicable}
        asked = tuple(rule for rule in asked if not (rule.if_earlier and rule.metric in without))
    rules = tuple(judge_rule(rule, report.measurements) for rule in asked)
    if not asked:
        rules = tuple(_of_another_kind(rule, report) for rule in policy.rules)
    controls = _judge_controls(report.controls, asked)
    outcome = worst(rule.outcome for rule in rules)
    if any(went_wrong(came) for came in controls.values()):
        outcome = "INVALID"
    return Verdict(
        outcome=outcome,
        report_sha256=report_sha256,
        policy_sha256=policy_sha256,
        candidate_sha256=report.candidate_sha256,
        rules=rules,
        controls=controls,
    )


def went_wrong(came: str) -> bool:
    """Whether what a verdict says of a control makes it INVALID: it neither came out as it must nor was not asked."""
    return came != AS_EXPECTED and not came.startswith(NOT_ASKED)


def preset(name: str) -> Policy:
    """A policy that ships with expunge: `standard`, `strict`, or `debug` for runs of debug size."""
    return parse_record(Policy, _yaml(preset_bytes(name), name), f"policy {name}")


def preset_bytes(name: str) -> bytes:
    """The stored bytes of a shipped policy: what its digest is taken of. BadInput for a name there is not."""
    if name not in preset_names():
        raise BadInput(f"policy: there is no '{name}'", f"use {' or '.join(preset_names())}, or a file of your own")
    return (files("expunge.measure") / "policies" / f"{name}.yaml").read_bytes()


def preset_names() -> tuple[str, ...]:
    """The policies that ship with expunge, by name."""
    names = (entry.name for entry in (files("expunge.measure") / "policies").iterdir())
    return tuple(sorted(file.removesuffix(".yaml") for file in names if file.endswith(".yaml")))


def ever_shipped() -> frozenset[str]:
    """Digests of all policies that ship with this expunge or shipped with an earlier one."""
    listed = (files("expunge.measure") / "policies" / "shipped.txt").read_text()
    return frozenset(line.split()[0] for line in listed.splitlines())


def deciding(verdict: Verdict, report: Report) -> list[tuple[Rule, Interval]]:
    """The rules of a verdict that had a number, each with the interval that it was held against."""
    measured = {measurement.name: measurement for measurement in report.measurements}
    return [(came.rule, _bounds(came.rule, found, found.interval)) for came in verdict.rules
            if came.outcome != "INVALID" and (found := measured.get(came.rule.metric)) and found.interval]


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
        reason += f": {_how_many_more(rule, measurement, bounds, measurements)}"
    if outcome == "FAIL" and rule.breach:
        reason = f"{rule.breach}: {reason}"
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
    if measurement.not_applicable:
        return "the rule asks for a number where the question has no meaning"
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
    ended = ended_at(interval)
    if ended is not None and rule.limit >= ended:
        return f"repeats ended at {ended:g}, so it says nothing of a limit from there on"
    if _bounds_of(interval) is not None and not _adds_up(measurement, interval):
        kind = "exact interval" if interval.method.startswith(CLOPPER_PEARSON) else "confidence sequence"
        return f"the {kind} is not the one that its counts give"
    return None


def _bounds(rule: Rule, measurement: Measurement, interval: Interval) -> Interval:
    """The interval that decides.

    A rate's record holds its counts, so its interval is computed at the rule's own confidence and side: exactly
    for a number of samples fixed in advance, by the confidence sequence where sampling stopped early. Any other is
    used as it stands: one side of a two-sided interval errs with half of its alpha, which is more than a one-sided
    rule of the same confidence asks for.
    """
    counts, bounds = _counts(measurement), _bounds_of(interval)
    if counts is None or bounds is None:
        return interval
    hits, n = counts
    # A one-sided rule says FAIL by the bound of the other side, with the same certainty as PASS.
    lower = bounds(hits, n, rule.confidence, "lower" if rule.one_sided else "two-sided")[0]
    upper = bounds(hits, n, rule.confidence, "upper" if rule.one_sided else "two-sided")[1]
    return Interval(lower=lower, upper=upper, confidence=rule.confidence, method=interval.method)


def _side_that_passes(rule: Rule) -> Sides:
    return "upper" if rule.side == "at most" else "lower"


def _bounds_of(interval: Interval) -> Bounds | None:
    """The function that gives a rate's interval from its counts; None for an interval that has no counts."""
    return next((bounds for method, bounds in _BOUNDS.items() if interval.method.startswith(method)), None)


def _counts(measurement: Measurement) -> tuple[int, int] | None:
    """(hits, samples) of a rate whose interval is made from its counts; None for anything else."""
    if measurement.interval is None or measurement.n is None or measurement.estimate is None:
        return None
    if _bounds_of(measurement.interval) is None:
        return None
    return round(measurement.estimate * measurement.n), measurement.n


def _adds_up(measurement: Measurement, interval: Interval) -> bool:
    counts, bounds = _counts(measurement), _bounds_of(interval)
    if counts is None or bounds is None or measurement.estimate is None:
        return False
    hits, n = counts
    if not 0 <= hits <= n or n < 1 or abs(hits / n - measurement.estimate) > _TOLERANCE:
        return False
    lower, upper = bounds(hits, n, interval.confidence, sides_of(interval))
    return abs(lower - interval.lower) < _TOLERANCE and abs(upper - interval.upper) < _TOLERANCE


def _of_another_kind(rule: Rule, report: Report) -> RuleOutcome:
    """What is said of each rule of a policy that has none for such a request."""
    of_it = not rule.families or report.family in rule.families
    what, but = " and ".join(rule.families), ""
    if of_it and rule.about is not None and (rule.about == "images") != bool(report.single_images):
        what = f"requests about {'single images' if rule.about == 'images' else 'whole classes'}"
        but = f" that {'single images' if report.single_images else 'whole classes'} were asked of"
    elif of_it:
        what, but = "what earlier requests made a model forget", " that nothing was asked of before"
    return RuleOutcome(rule=rule, outcome="INVALID", reason=(
        f"{words.title(rule.metric)}: the rule is for {what}, and the policy has none for a {report.family}{but}"))


# -------------------------------------------------------------------------------------- what would decide


def _how_many_more(rule: Rule, measurement: Measurement, bounds: Interval,
                   measurements: tuple[Measurement, ...]) -> str:
    """What would decide: exactly for a rate, else as intervals shrink with 1/sqrt(n)."""
    counts, exactly, known = _counts(measurement), _bounds_of(bounds), words.find(rule.metric)
    unit, beside = (known.unit, known.beside) if known else ("samples", "")
    if counts is not None and exactly is not None:
        hits, n = counts
        more = samples_to_decide(
            hits, n, rule.limit, rule.confidence, _side_that_passes(rule) if rule.one_sided else "two-sided",
            bounds=exactly)
        if more is None:
            return f"at this rate no number of {unit} would decide"
        return f"{more:,} more {unit} at the same rate would decide ({n + more:,} in all)"
    if measurement.n is None or measurement.estimate is None:
        return f"more {unit} may decide"
    gap = rule.limit - measurement.estimate
    reach = (bounds.upper if gap > 0 else bounds.lower) - measurement.estimate
    if gap == 0 or not math.isfinite(reach / gap):
        return f"the estimate is the limit itself, no number of {unit} would decide"
    if rule.metric == "residual_rate_corrected":
        told = _what_the_correction_lacks(rule, measurements)
        if told:
            return told
    factor = (reach / gap) ** 2
    if beside:  # both make this interval wide
        total = math.ceil(measurement.n * factor)
        return f"about {factor:.2g} times as many {unit} ({total:,} in all), and {beside}, would decide"
    more = max(1, math.ceil(measurement.n * factor) - measurement.n)
    return f"about {more:,} more {unit} like these {measurement.n:,} would decide"


def _what_the_correction_lacks(rule: Rule, measurements: tuple[Measurement, ...]) -> str:
    """Whether it is samples or real images that a corrected rate lacks, found by asking for more of either.

    Each is tried at the rates that were measured, the other as it is; empty if the judge's own rates are not there.
    """
    of = {name: next((found for found in measurements if found.name == name), None)
          for name in ("residual_rate", "residual_rate_corrected", "judge_sensitivity", "judge_specificity")}
    rate, sensitivity, specificity = (
        _counts(found) if found else None for name, found in of.items() if name != "residual_rate_corrected")
    corrected = of["residual_rate_corrected"]
    interval, n = (corrected.interval, corrected.n) if corrected else (None, None)
    if rate is None or sensitivity is None or specificity is None or interval is None or n is None:
        return ""
    share = rate[0] / rate[1]  # of all samples: where sampling stopped early the correction uses fewer

    def decided(samples: float, images: float) -> bool:
        def more(counts: tuple[int, int]) -> tuple[int, int]:
            total = round(counts[1] * images)
            return round(counts[0] / counts[1] * total), total

        total = round(n * samples)
        found = corrected_rate(round(share * total), total, sensitivity=more(sensitivity),
                               specificity=more(specificity), confidence=interval.confidence)
        return _compare(rule, found.interval) != "INCONCLUSIVE"

    most = _MOST / max(n, sensitivity[1], specificity[1])
    samples, images, both = (
        _least_factor(test, most) for test in (
            lambda factor: decided(factor, 1), lambda factor: decided(1, factor),
            lambda factor: decided(factor, factor)))
    if samples is not None and (images is None or samples <= images):
        return f"about {samples:.2g} times as many samples ({math.ceil(n * samples):,} in all) would decide"
    pool = sensitivity[1] + specificity[1]
    if images is not None:
        return (f"what is lacking are real images that show how the judge errs: about {images:.2g} times as many "
                f"({math.ceil(pool * images):,} in all) would decide, more samples alone would not"
                if samples is None else
                f"about {images:.2g} times as many real images ({math.ceil(pool * images):,} in all) would decide")
    if both is not None:
        return (f"neither samples nor real images alone: about {both:.2g} times as many of both "
                f"({math.ceil(n * both):,} and {math.ceil(pool * both):,} in all) would decide")
    return "at these rates no number of samples and real images would decide"


def _least_factor(decides: Callable[[float], bool], most: float) -> float | None:
    """The least factor from 1 to `most` that decides, to two digits; None if `most` does not."""
    if not decides(most):
        return None
    low, high = 1.0, most
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high


# ---------------------------------------------------------------------------------------------- controls


def _judge_controls(controls: tuple[Control, ...], rules: tuple[Rule, ...]) -> dict[str, str]:
    """Every control's name with how it came out, and what is lacking among them.

    A control that covers no rule is not asked and spoils nothing; but one that must FAIL and one that must not have
    to cover a rule, and a policy that looks at weights needs the output filter to FAIL every such rule.
    """
    found: dict[str, str] = {}
    for control in controls:
        twice = control.name in found
        found[control.name] = "is in the report more than once" if twice else _judge_control(control, rules)
    for must, kind in (("FAIL", "negative"), ("not FAIL", "positive")):
        if not any(control.must == must and _covered(control, rules) for control in controls):
            found[f"{kind} control"] = f"was not run: nothing that had to come out as {must} covers a rule"
    reading = tuple(rule for rule in rules if rule.metric in WEIGHT_READING)
    if reading and not went_wrong(found.get(OUTPUT_FILTER, AS_EXPECTED)):
        found[OUTPUT_FILTER] = _judge_filter(controls, reading)
    return found


def _covered(control: Control, rules: tuple[Rule, ...]) -> list[Rule]:
    return [rule for rule in rules if rule.metric in control.covers]


def _judge_control(control: Control, rules: tuple[Rule, ...]) -> str:
    covered = _covered(control, rules)
    if not covered:
        return f"{NOT_ASKED}: the policy has no rule on {_titles(control.covers)}"
    outcomes = [judge_rule(rule, control.measurements) for rule in covered]
    outcome = worst(found.outcome for found in outcomes)
    if outcome == "FAIL" if control.must == "FAIL" else outcome in ("PASS", "INCONCLUSIVE"):
        return AS_EXPECTED
    culprit = next(found for found in outcomes if found.outcome == outcome)
    return f"must {'FAIL' if control.must == 'FAIL' else 'not FAIL'}, came out {outcome}: {culprit.reason}"


def _judge_filter(controls: tuple[Control, ...], reading: tuple[Rule, ...]) -> str:
    """Whether the filter FAILs each rule that looks at weights: one that it passed would let hiding through."""
    control = next((found for found in controls if found.name == OUTPUT_FILTER and found.must == "FAIL"), None)
    if control is None:
        asked = _titles(rule.metric for rule in reading)
        return f"was not run: nothing shows that hiding would fail the rules on {asked}"
    for rule in reading:
        if rule.metric not in control.covers:
            return f"does not cover the rule on {words.title(rule.metric)}"
        found = judge_rule(rule, control.measurements)
        if found.outcome != "FAIL":
            return f"must FAIL, came out {found.outcome}: {found.reason}"
    return AS_EXPECTED


def _titles(metrics: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(words.title(metric) for metric in metrics)) or "anything it measures"


def _yaml(data: bytes, name: str) -> object:
    import yaml

    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise BadInput(f"policy {name}: {str(error).splitlines()[0]}", "correct the file") from None
