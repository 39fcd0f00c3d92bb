"""Is it gone? The residual rate before and after, corrected for the judge's errors, and PUL."""

from collections.abc import Iterator

from components.evaluate.evidence import CONFIDENCE, Evidence, Measured, attempt
from expunge.contracts import Measurement
from expunge.measure.judged import corrected_rate
from expunge.measure.proportions import PairedCounts, pul, rate


def is_it_gone(evidence: Evidence) -> Iterator[Measurement]:
    """`residual_rate`, `residual_rate_before` and `pul`; the rates also class by class.

    Of several unwanted classes, each has its `residual_rate[class]`: one that stays cannot hide behind the others.
    A sample is a hit if the judge's first choice is an unwanted class. Intervals are exact for a number of samples
    fixed in advance; where sampling stopped by what was seen, the confidence sequence is the interval.
    """
    before, after, bounds = evidence.hits_before, evidence.hits_after, evidence.bounds
    n = len(after)
    yield from attempt(("residual_rate",), lambda: (rate(after, CONFIDENCE, bounds=bounds),), n)
    yield from attempt(("residual_rate_before",), lambda: (rate(before, CONFIDENCE, bounds=bounds),), n)
    yield from attempt(("pul",), lambda: (pul(PairedCounts.of(before, after), CONFIDENCE, bounds=bounds),), n)
    for label in evidence.unwanted if len(evidence.unwanted) > 1 else ():
        for name, seen in (("residual_rate", evidence.after), ("residual_rate_before", evidence.before)):
            hits = seen.classes == label
            yield from attempt((f"{name}[{evidence.name(label)}]",),
                               lambda hits=hits: (rate(hits, CONFIDENCE, bounds=bounds),), n)  # type: ignore[misc]


def is_it_gone_behind_the_judge(evidence: Evidence) -> Iterator[Measurement]:
    """`residual_rate_corrected`, and the judge's `judge_sensitivity` and `judge_specificity` on the real images.

    Corrected (see `measure.judged`) for what the judge overlooks and what it sees where there is nothing; its upper
    bound is the one to gate on. Both shares are of real images: they may not carry over to generated ones. Made
    from the samples that were to be drawn in any case.
    """
    fixed = evidence.of_fixed_size
    hits = fixed.hits_after
    seen = evidence.real.of(evidence.unwanted).hits(evidence.unwanted)
    passed = ~evidence.real_retained.hits(evidence.unwanted)

    def corrected() -> tuple[Measured, ...]:
        return (corrected_rate(
            int(hits.sum()), len(hits), sensitivity=(int(seen.sum()), len(seen)),
            specificity=(int(passed.sum()), len(passed)), confidence=CONFIDENCE),)

    yield from attempt(("residual_rate_corrected",), corrected, len(hits))
    yield from attempt(("judge_sensitivity",), lambda: (rate(seen, CONFIDENCE),), len(seen))
    yield from attempt(("judge_specificity",), lambda: (rate(passed, CONFIDENCE),), len(passed))
