"""Is it like a model that never knew? With a reference: FID to it, and which of the two models is nearer."""

from collections.abc import Iterator

import numpy as np

from components.evaluate.evidence import CONFIDENCE, Evidence, Measured, absent, attempt
from expunge.contracts import Measurement
from expunge.measure.distances import fid, unit_scale
from expunge.measure.relative import nearer

NAMES = ("ret_fid", "ret_fid_before", "reference_difference", "reference_p_value")


def is_it_like_one_that_never_knew(evidence: Evidence) -> Iterator[Measurement]:
    """`ret_fid` of candidate and parent, `reference_difference`, and `reference_p_value`.

    Ret-FID is the FID between a model's samples and those of a model retrained without the forget data (Tiwary et
    al. 2023, section 5); all samples count, for the parent's unwanted ones are what sets it apart. The difference
    is KID to the reference, candidate minus parent: below zero, the candidate is nearer; the p-value is of the
    claim that it is not (the relative three-sample test).
    """
    if evidence.reference is None:
        yield from absent(NAMES, "the request names no reference, a model retrained without the forget data")
        return
    compared = evidence.of_fixed_size
    before, after = compared.before.features, compared.after.features
    reference = evidence.reference.features[: len(after)]

    def test() -> tuple[Measured, ...]:
        scale = np.float64(unit_scale(reference))
        return nearer(before * scale, after * scale, reference * scale, confidence=CONFIDENCE)

    yield from attempt(("ret_fid",), lambda: (fid(after, reference),), len(after))
    yield from attempt(("ret_fid_before",), lambda: (fid(before, reference),), len(before))
    yield from attempt(("reference_difference", "reference_p_value"), test, len(after))
