"""Is the rest still good? FID and KID of the retained samples, and what each class kept of its share."""

from collections.abc import Iterator

import numpy as np

from components.evaluate.evidence import CONFIDENCE, Evidence, Measured, attempt
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.distances import compare_kid, fid, fid_floor, unit_scale
from expunge.measure.shares import kept_shares


def is_the_rest_still_good(evidence: Evidence) -> Iterator[Measurement]:
    """`fid_*`, `kid_*` and `kept_share`.

    Features are the judge's penultimate activations. Compared are the generated samples that the judge calls
    retained with the real held-out images whose label is retained.

    - `fid_before`, `fid_after`: on raw features. `n` is the count of generated samples.
    - `fid_floor`: real against real, one random half against the other, mean over ten splits; `n` is the size
      of one half. With fewer samples than FID before and after it is biased upwards, so a good generator
      can come out below it.
    - `fid_ratio`: after/before. No interval of it covers at these sample sizes, so it is never gated on.
    - `kid_before`, `kid_after`, `kid_difference`: features scaled so that the real ones have mean square 1.
      The holdout's mixture of classes is taken as fixed (it is split class by class), so what remains in the
      interval is which images of each class were held out, and which latents were drawn.
    - `kept_share`: the smallest over retained classes of share after over share before.
    """
    real = evidence.real_retained.features
    before, after = evidence.before.features, evidence.after.features
    kept_before, kept_after = ~evidence.hits_before, ~evidence.hits_after

    def ratio() -> tuple[Measured, ...]:
        was = fid(before[kept_before], real)
        if was == 0:
            raise BadInput("fid_before: it is zero, so there is no ratio", "check the holdout")
        return (fid(after[kept_after], real) / was,)

    def kids() -> tuple[Measured, ...]:
        scale = np.float64(unit_scale(real))
        found = compare_kid(
            before * scale,
            after * scale,
            real * scale,
            kept_before=kept_before,
            kept_after=kept_after,
            real_strata=evidence.real_retained_labels,
            confidence=CONFIDENCE,
        )
        return found.before, found.after, found.difference

    def kept() -> tuple[Measured, ...]:
        return (
            kept_shares(
                evidence.before.classes,
                evidence.after.classes,
                evidence.retained,
                evidence.classes,
                CONFIDENCE,
            ).smallest,
        )

    yield from attempt(("fid_before",), lambda: (fid(before[kept_before], real),), int(kept_before.sum()))
    yield from attempt(("fid_after",), lambda: (fid(after[kept_after], real),), int(kept_after.sum()))
    yield from attempt(("fid_floor",), lambda: (fid_floor(real),), len(real) // 2)
    yield from attempt(("fid_ratio",), ratio, int(kept_after.sum()))
    yield from attempt(("kid_before", "kid_after", "kid_difference"), kids, 0)
    yield from attempt(("kept_share",), kept, len(after))
