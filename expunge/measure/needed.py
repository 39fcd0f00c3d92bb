"""How many samples a policy's rules need before anything is drawn: planning, by the gate's own arithmetic.

Nothing is computed here that `policy` and `proportions` do not compute: each answer is found by asking
`judge_rule` about a measurement that a run could come to, and searching for where its answer changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from expunge.contracts import Frozen, Interval, Measurement, Policy, Rule
from expunge.errors import BadInput
from expunge.measure import words
from expunge.measure.policy import judge_rule, rules_for
from expunge.measure.proportions import CLOPPER_PEARSON, Estimate, PairedCounts, exact_bounds, pul
from expunge.measure.sequential import SEQUENCE, sequence_bounds

RATE, EARLIER, SEARCH, PAIRED = "residual_rate", "residual_rate_earlier", "search_rate", "pul"
CONFIDENCE = 0.95  # two-sided, of what evaluation measures; a policy may ask for less, never for more
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


@dataclass(frozen=True)
class Drawing:
    """What a run is going to draw, and how it will measure.

    Attributes:
        samples: how many, or at most how many where sampling may stop early.
        confidence: the two-sided one that evaluation measures with.
        share: the part of the parent's samples that was unwanted when it was last measured, a fraction; None if
            nobody has.
        starts: from how many latents the unwanted is searched for; None if that is not known.
        sequential: whether sampling stops as soon as the verdict is decided.
        without: metrics that this run cannot have, and why.
        earlier: whether earlier requests made the checkpoint what it is.
        images: whether single images are to be forgotten, and not whole classes.
    """

    samples: int
    confidence: float
    share: float | None = None
    starts: int | None = None
    sequential: bool = False
    without: Mapping[str, str] | None = None
    earlier: bool = False
    images: bool = False

    def rate(self, metric: str, hits: int, n: int) -> Measurement:
        """A rate as evaluation would report it."""
        stops_early = self.sequential and metric in (RATE, EARLIER)
        bounds, method = (sequence_bounds, SEQUENCE) if stops_early else (exact_bounds, CLOPPER_PEARSON)
        lower, upper = bounds(hits, n, self.confidence)
        return Measurement(name=metric, estimate=hits / n, n=n, interval=Interval(
            lower=lower, upper=upper, confidence=self.confidence, method=method))

    def pul(self, counts: PairedCounts) -> Measurement:
        """PUL as evaluation would report it."""
        bounds = sequence_bounds if self.sequential else exact_bounds
        found: Estimate = pul(counts, self.confidence, bounds=bounds)
        return Measurement(name=PAIRED, estimate=found.value, interval=found.interval, n=found.n)


def needs(policy: Policy, drawing: Drawing, family: str = "gan") -> tuple[RuleNeeds, ...]:
    """What each rule of a policy for models of a family needs, and whether what is drawn can meet it.

    Raises BadInput for counts that cannot be.
    """
    if drawing.samples < 1:
        raise BadInput(f"sampling.evaluate: {drawing.samples}", "draw at least one sample")
    return tuple(_of(rule, drawing) for rule in rules_for(policy, family, earlier=drawing.earlier,
                                                        images=drawing.images))


def _of(rule: Rule, drawing: Drawing) -> RuleNeeds:
    limit = words.limit(rule)
    if rule.confidence > drawing.confidence:
        return RuleNeeds(metric=rule.metric, limit=limit, samples=None, can_pass=False, note=(
            f"cannot pass: the rule asks for {rule.confidence:.4g}, evaluation measures with {drawing.confidence:.4g}"))
    if rule.metric in (drawing.without or {}):
        return RuleNeeds(metric=rule.metric, limit=limit, samples=None, can_pass=False,
                         note=f"cannot pass: {(drawing.without or {})[rule.metric]}")
    if rule.metric in (RATE, EARLIER) and rule.side == "at most":
        return _of_rate(rule, limit, drawing, drawing.samples)
    if rule.metric == SEARCH and rule.side == "at most" and drawing.starts is not None:
        return _of_rate(rule, limit, drawing, drawing.starts)
    if rule.metric == PAIRED and rule.side == "at least":
        return _of_pul(rule, limit, drawing)
    return RuleNeeds(metric=rule.metric, limit=limit, samples=None, can_pass=None,
                     note="what it needs depends on what is measured: not known beforehand")


def _of_rate(rule: Rule, limit: str, drawing: Drawing, planned: int) -> RuleNeeds:
    known = words.find(rule.metric)
    unit = known.unit if known else "samples"

    def passes(hits: int, n: int) -> bool:
        return _passes(rule, drawing.rate(rule.metric, hits, n))

    fewest = _first(lambda n: passes(0, n), 1, MOST)
    if not passes(0, planned):
        return RuleNeeds(metric=rule.metric, limit=limit, samples=fewest, can_pass=False,
                         note=_too_few(planned, fewest, unit))
    beyond = _first(lambda hits: not passes(hits, planned), 0, planned)
    remaining = planned if beyond is None else beyond - 1
    return RuleNeeds(
        metric=rule.metric, limit=limit, samples=fewest, remaining=remaining, can_pass=True,
        note=f"at least {fewest:,} {unit}; with {planned:,} it passes with up to {remaining:,} unwanted among them")


def _of_pul(rule: Rule, limit: str, drawing: Drawing) -> RuleNeeds:
    """The claim rests on the latents that drew the unwanted before: it is they that must be many enough."""
    planned, share = drawing.samples, drawing.share

    def passes(before: int, n: int, stayed: int = 0) -> bool:
        return _passes(rule, drawing.pul(
            PairedCounts(stayed=stayed, left=before - stayed, gained=0, never=n - before)))

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


def _too_few(planned: int, fewest: int | None, unit: str = "samples") -> str:
    if fewest is None:
        return f"cannot pass: not even {MOST:,} {unit} without a single hit would pass"
    return f"cannot pass with {planned:,} {unit}: it takes at least {fewest:,}, with nothing left"


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
