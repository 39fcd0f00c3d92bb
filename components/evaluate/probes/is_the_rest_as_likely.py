"""Is the rest as likely as it was? Bits per dimension of held-out images of what is to stay, before and after."""

from collections.abc import Iterator

import numpy as np

from components.evaluate.evidence import CONFIDENCE, attempt
from components.evaluate.evidence_of_flows import FlowEvidence, Likely
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.likelihoods import mean_bits
from expunge.measure.ratios import relative_change

CHANGE = "bits_per_dim_change"


def is_the_rest_as_likely(evidence: FlowEvidence) -> Iterator[Measurement]:
    """`bits_per_dim` and `bits_per_dim_before`, means over images, and `bits_per_dim_change`.

    The change is relative: after over before, less one; above zero is worse. Both flows are asked at the same points
    of the same images, so its interval is paired (Fieller's, see `measure.ratios`). Single images to forget leave
    their class where it is: then its other images are among the rest.
    """
    rest = evidence.held_out[evidence.kept]
    for ending, found in (("", rest.after), ("_before", rest.before)):
        yield from attempt((f"bits_per_dim{ending}",), lambda found=found: (  # type: ignore[misc]
            mean_bits(finite(found), CONFIDENCE),), len(rest))
    yield from change(rest.before, rest.after)


def change(before: Likely, after: Likely, name: str = CHANGE) -> Iterator[Measurement]:
    """The relative change of the mean, or why there is none."""
    yield from attempt((name,), lambda: (
        relative_change(finite(before), finite(after), CONFIDENCE),), len(before))


def finite(found: Likely) -> "np.typing.NDArray[np.float64]":
    """Its bits per dimension. BadInput, by the flow's name, where some are none."""
    spoiled = int((~np.isfinite(found.bits)).sum())
    if spoiled:
        raise BadInput(f"{found.model}: {spoiled} of {len(found)} held-out images have no finite likelihood",
                       "check its weights")
    return found.bits
