"""Does what was forgotten before stay forgotten, and how far has the model drifted over all requests?"""

from collections.abc import Iterator

import numpy as np

from components.evaluate.evidence import CONFIDENCE, Evidence, Measured, absent, attempt, not_applicable
from expunge.contracts import Measurement
from expunge.measure.distances import compare_kid, unit_scale
from expunge.measure.proportions import rate

NOTHING_BEFORE = "no request came before this one"
NO_ORIGIN = "the request names no origin, the model from before the earlier requests"


def does_it_stay_forgotten(evidence: Evidence) -> Iterator[Measurement]:
    """`residual_rate_earlier` and `residual_rate_earlier_before`; of several earlier classes, also class by class.

    A sample is a hit if the judge's first choice is a class that an earlier request was about. Intervals are those of
    `residual_rate`: exact, or the confidence sequence where sampling stopped by what was seen.
    """
    names = ("residual_rate_earlier", "residual_rate_earlier_before")
    if not evidence.earlier:
        yield from not_applicable(names, NOTHING_BEFORE)
        return
    classes = [("", evidence.earlier)]
    if len(evidence.earlier) > 1:
        classes += [(f"[{evidence.name(label)}]", (label,)) for label in evidence.earlier]
    for part, labels in classes:
        for name, seen in zip(names, (evidence.after, evidence.before), strict=True):
            hits = np.isin(seen.classes, labels)
            yield from attempt((name + part,), lambda hits=hits: (  # type: ignore[misc]
                rate(hits, CONFIDENCE, bounds=evidence.bounds),), len(hits))


def how_far_has_it_drifted(evidence: Evidence) -> Iterator[Measurement]:
    """`drift`: KID of the candidate less KID of the first model of the chain, both to the real retained images.

    It is `kid_difference` with the chain's first model in the parent's place, on the same latents: what each request
    cost is added up, where `kid_difference` sees only the last of them. Retained is what no request was about.
    """
    if not evidence.earlier:
        yield from not_applicable(("drift",), NOTHING_BEFORE)
        return
    origin = evidence.origin
    if origin is None:
        yield from absent(("drift",), NO_ORIGIN)
        return
    compared = evidence.of_fixed_size
    real = compared.real_retained

    def drift() -> tuple[Measured, ...]:
        scale = np.float64(unit_scale(real.seen.features))
        return (compare_kid(
            origin.features * scale, compared.after.features * scale, real.seen.features * scale,
            kept_before=compared.kept(origin), kept_after=compared.kept(compared.after), real_strata=real.labels,
            confidence=CONFIDENCE).difference,)

    yield from attempt(("drift",), drift, len(compared.after.classes))
