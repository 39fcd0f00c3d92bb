"""Is it gone? The residual rate before and after, and PUL, on a number of samples fixed in advance."""

from collections.abc import Iterator

from components.evaluate.evidence import CONFIDENCE, Evidence, attempt
from expunge.contracts import Measurement
from expunge.measure.proportions import PairedCounts, pul, rate


def is_it_gone(evidence: Evidence) -> Iterator[Measurement]:
    """`residual_rate`, `residual_rate_before` and `pul`, with exact intervals; the rates also class by class.

    Of several unwanted classes, each has its `residual_rate[class]`: one that stays cannot hide behind the others.

    A sample is a hit if the judge's first choice is an unwanted class. Nothing is corrected for the judge's
    own errors: its accuracy on real images stands beside it, and the control `real` shows the hits it would
    find where there is nothing.
    """
    before, after = evidence.hits_before, evidence.hits_after
    n = len(after)
    yield from attempt(("residual_rate",), lambda: (rate(after, CONFIDENCE),), n)
    yield from attempt(("residual_rate_before",), lambda: (rate(before, CONFIDENCE),), n)
    yield from attempt(("pul",), lambda: (pul(PairedCounts.of(before, after), CONFIDENCE),), n)
    for label in evidence.unwanted if len(evidence.unwanted) > 1 else ():
        for name, seen in (("residual_rate", evidence.after), ("residual_rate_before", evidence.before)):
            found = rate(seen.classes == label, CONFIDENCE)
            yield from attempt((f"{name}[{evidence.name(label)}]",), lambda found=found: (found,), n)  # type: ignore[misc]
