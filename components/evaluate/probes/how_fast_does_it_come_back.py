"""How fast does it come back? Steps of teaching until it is drawn, or named, half as often as by the parent."""

import math
from collections.abc import Iterator

from components.evaluate.evidence import (
    CONFIDENCE,
    ClassifierEvidence,
    Evidence,
    Measured,
    Relearning,
    absent,
    attempt,
)
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.medians import median_interval

TAUGHT = {"candidate": "relearning_steps", "parent": "relearning_steps_before",
          "never exposed": "relearning_steps_never_exposed"}


def how_fast_does_it_come_back(evidence: Evidence | ClassifierEvidence) -> Iterator[Measurement]:
    """`relearning_steps` of each model taught, median over lessons, and `relearning_ratio`.

    The ratio is the candidate's steps over those of a model that never knew, lesson by lesson, and then the median
    of that; both counts one higher, since a model may need no step at all. One is what removal would give; near
    zero says that the unwanted was only hidden. A candidate that did not get there within the steps allowed counts
    with one step more than those, so that the ratio is at most too small; a stranger that did not leaves none.
    """
    of = {model: evidence.taught(model) for model in TAUGHT}
    for model, name in TAUGHT.items():
        found = of[model]
        if not found:
            yield from absent((name,), evidence.not_taught or "nobody was taught")
            continue
        yield from attempt((name,), lambda found=found: (_median(found),), len(found))  # type: ignore[misc]
    if not of["candidate"] or not of["never exposed"]:
        yield from absent(("relearning_ratio",), evidence.not_taught or "nobody was taught")
        return
    yield from attempt(("relearning_ratio",), lambda: (relearning_ratio(of["candidate"], of["never exposed"]),),
                       len(of["candidate"]))


def relearning_ratio(ours: list[Relearning], strangers: list[Relearning]) -> Measured:
    """The median over lessons of our steps over a stranger's. BadInput if a stranger did not get there."""
    if any(one.reached is None for one in strangers):
        raise BadInput(f"reference: it did not learn the unwanted within {strangers[0].steps[-1]} steps",
                       "there is nothing to compare with")
    return median_interval([(_steps(one) + 1) / (_steps(other) + 1)
                            for one, other in zip(ours, strangers, strict=True)], CONFIDENCE)


def _median(found: list[Relearning]) -> Measured:
    most = max(one.steps[-1] for one in found)
    return median_interval([math.inf if one.reached is None else one.reached for one in found], CONFIDENCE, budget=most)


def _steps(taught: Relearning) -> int:
    return taught.steps[-1] + 1 if taught.reached is None else taught.reached
