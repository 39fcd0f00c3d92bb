"""Is what it draws still good? Distances to real images, of both flows' samples, and which classes they are of."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import CONFIDENCE, Mask, Measured, Real, absent, attempt
from components.evaluate.evidence_of_flows import FlowEvidence
from components.evaluate.probes.is_the_judge_sure import is_the_judge_sure
from components.evaluate.probes.is_the_rest_still_good import is_the_rest_still_good
from expunge.contracts import Measurement
from expunge.measure.distances import kid_ratio, unit_scale
from expunge.measure.proportions import rate

Draws: TypeAlias = tuple[NDArray[np.float32], Mask]
"""Features [n, d] of what was drawn, and which of it counts."""

RATIO = "kid_ratio"
CORE = (RATIO, "kid_difference", "kid_before", "kid_after", "fid_before", "fid_after", "kept_share", "share_distance",
        "residual_rate", "residual_rate_before", "judge_accuracy")  # what is said to be absent where nothing was drawn


def is_what_it_draws_still_good(evidence: FlowEvidence) -> Iterator[Measurement]:
    """`kid_ratio`, `residual_rate` before and after, all that `is_the_rest_still_good` says, and the judge's sureness.

    Both flows draw from the same latents, if they can be told from which, and else from the same random stream.
    Compared are samples that the judge calls a class that is to stay with held-out images of such classes; all of them,
    where single images are to be forgotten. The ratio is KID after over KID before, with Fieller's bounds: one is as
    far from real images as the parent's. How often the judge sees the unwanted classes is told, and decides nothing:
    what was asked for is that given images become unlikely.
    """
    drawn = evidence.drawn
    if drawn is None:
        yield from absent(CORE, evidence.no_draws or "nothing was drawn")
        return
    before, after = ((seen.features, drawn.kept(seen)) for seen in (drawn.before, drawn.after))
    yield from ratio_of(before, after, drawn.real_retained)
    for name, seen in (("residual_rate", drawn.after), ("residual_rate_before", drawn.before)):
        hits = np.isin(seen.classes, evidence.unwanted)
        yield from attempt((name,), lambda hits=hits: (rate(hits, CONFIDENCE),), len(hits))  # type: ignore[misc]
    yield from is_the_rest_still_good(drawn)
    yield from is_the_judge_sure(drawn)


def ratio_of(before: Draws, after: Draws, real: Real) -> Iterator[Measurement]:
    """KID of what was drawn after over KID of what was drawn before, or why there is no ratio."""

    def ratio() -> tuple[Measured, ...]:
        scale = np.float64(unit_scale(real.seen.features))
        was, is_now, images = (some * scale for some in (before[0], after[0], real.seen.features))
        return (kid_ratio(was, is_now, images, kept_before=before[1], kept_after=after[1], real_strata=real.labels,
                          confidence=CONFIDENCE),)

    yield from attempt((RATIO,), ratio, int(after[1].sum()))
