"""How many samples a policy's rules need before anything is drawn: planning, by the gate's own arithmetic.

Nothing is computed here that `policy` and `proportions` do not compute: each answer is found by asking
`judge_rule` about a measurement that a run could come to, and searching for where its answer changes.
"""

from collections.abc import Callable

from expunge.contracts import Frozen, Measurement, Policy, Rule
from expunge.errors import BadInput
from expunge.measure import words
from expunge.measure.policy import judge_rule
from expunge.measure.proportions import Estimate, PairedCounts, clopper_pearson, pul

RATE, PAIRED = "residual_rate", "pul"
MOST = 1_000_000  # samples: as many as a request may ask for


class RuleNeeds(Frozen):
    """What one rule needs to pass. What cannot be known before anything is drawn is null."""

    metric: str
    limit: str  # in a reviewer's words
    samples: int | None  # fewest that can pass, with nothing unwanted left; null: unknown, or more than `MOST`
    remaining: int | None = None  # most hits among the planned samples with which it still passes
    unwanted_before: int | None = None  # PUL: fewest of the planned latents that the parent must draw it on
    can_pass: bool | None  # with the planned number of samples; null: not known beforehand
    note: str


def needs(policy: Policy, planned: int, confidence: float, share: float | None = None) -> tuple[RuleNeeds, ...]:
    """What each rule of a policy needs, and whether `planned` samples can meet it.

    `confidence` is the two-sided one that evaluation measures with. `share` is the part of the parent's samples
    that was unwanted when it was last measured, a fraction, or None if nobody has. Raises BadInput for counts
    that cannot be.
    """
    if planned < 1:
        raise BadInput(f"sampling.evaluate: {planned}", "draw at least one sample")
    return tuple(_of(rule, planned, confidence, share) for rule in policy.rules)


def _of(rule: Rule, planned: int, confidence: float, share: float | None) -> RuleNeeds:
    limit = words.limit(rule)
    if rule.confidence > confidence:
        return RuleNeeds(metric=rule.metric, limit=limit, samples=None, can_pass=False, note=(
            f"cannot pass: the rule asks for {rule.confidence:.4g}, evaluation measures with {confidence:.4g}"))
    if rule.metric == RATE and rule.side == "at most":
        return _of_rate(rule, limit, planned, confidence)
    if rule.metric == PAIRED and rule.side == "at least":
        return _of_pul(rule, limit, planned, confidence, share)
    return RuleNeeds(metric=rule.metric, limit=limit, samples=None, can_pass=None,
                     note="what it needs depends on what is measured: not known beforehand")


def _of_rate(rule: Rule, limit: str, planned: int, confidence: float) -> RuleNeeds:
    def passes(hits: int, n: int) -> bool:
        return _passes(rule, Measurement(
            name=rule.metric, estimate=hits / n, interval=clopper_pearson(hits, n, confidence), n=n))

    fewest = _first(lambda n: passes(0, n), 1, MOST)
    if not passes(0, planned):
        return RuleNeeds(metric=rule.metric, limit=limit, samples=fewest, can_pass=False,
                         note=_too_few(planned, fewest))
    beyond = _first(lambda hits: not passes(hits, planned), 0, planned)
    remaining = planned if beyond is None else beyond - 1
    return RuleNeeds(
        metric=rule.metric, limit=limit, samples=fewest, remaining=remaining, can_pass=True,
        note=f"at least {fewest:,} samples; with {planned:,} it passes with up to {remaining:,} unwanted among them")


def _of_pul(rule: Rule, limit: str, planned: int, confidence: float, share: float | None) -> RuleNeeds:
    """The claim rests on the latents that drew the unwanted before: it is they that must be many enough."""

    def passes(before: int, n: int, stayed: int = 0) -> bool:
        counts = PairedCounts(stayed=stayed, left=before - stayed, gained=0, never=n - before)
        found: Estimate = pul(counts, confidence)
        return _passes(rule, Measurement(name=rule.metric, estimate=found.value, interval=found.interval, n=found.n))

    before = _first(lambda count: passes(count, planned), 1, planned)
    if before is None:
        fewest = _first(lambda n: passes(n, n), 1, MOST)
        return RuleNeeds(metric=rule.metric, limit=limit, samples=fewest, can_pass=False,
                         note=_too_few(planned, fewest))
    if share is None:
        fewest = _first(lambda n: passes(n, n), 1, MOST)
        return RuleNeeds(
            metric=rule.metric, limit=limit, samples=fewest, unwanted_before=before, can_pass=None,
            note=f"the parent must draw it on at least {before:,} of {planned:,} latents ({before / planned:.2%}); "
                 "how often it does is not known yet")
    expected = int(share * planned)
    fewest = _first(lambda n: int(share * n) > 0 and passes(int(share * n), n), 1, MOST)
    if expected < before:
        how_many = f"sampling.evaluate needs about {fewest:,}" if fewest else "no number of samples would do"
        return RuleNeeds(
            metric=rule.metric, limit=limit, samples=fewest, unwanted_before=before, can_pass=False,
            note=f"cannot pass: the parent draws it on about {expected:,} of {planned:,} latents, "
                 f"it takes {before:,}: {how_many}")
    beyond = _first(lambda stayed: not passes(expected, planned, stayed), 0, expected)
    remaining = expected if beyond is None else beyond - 1
    return RuleNeeds(
        metric=rule.metric, limit=limit, samples=fewest, remaining=remaining, unwanted_before=before, can_pass=True,
        note=f"the parent draws it on about {expected:,} of {planned:,} latents, it takes {before:,}; "
             f"it passes with up to {remaining:,} of them left and no new ones")


def _too_few(planned: int, fewest: int | None) -> str:
    if fewest is None:
        return f"cannot pass: not even {MOST:,} samples without a single hit would pass"
    return f"cannot pass with {planned:,} samples: it takes at least {fewest:,}, with nothing left"


def _passes(rule: Rule, measurement: Measurement) -> bool:
    return judge_rule(rule, (measurement,)).outcome == "PASS"


def _first(holds: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number from `low` to `high` for which `holds`, if it holds from there on; None if for none."""
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
