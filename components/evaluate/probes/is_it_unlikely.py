"""Is it unlikely? Where the images to forget stand among retained ones, before and after, and on both sides."""

from collections.abc import Iterator

import numpy as np

from components.evaluate.evidence import CONFIDENCE, Measured, absent, attempt
from components.evaluate.evidence_of_flows import FlowEvidence, Likely
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.likelihoods import Yardstick, highest_quantile, quantile_drop, standings

LOWEST, HIGHEST = "forget_z_lowest", "forget_z_highest"


def is_it_unlikely(evidence: FlowEvidence) -> Iterator[Measurement]:
    """`forget_z_lowest`, `forget_z_highest`, `forget_quantile_highest`, each also `_before`, and `quantile_drop`.

    z of an image is (b - mu) / sigma: its bits per dimension, in standard deviations of retained images' above their
    mean, each under the same flow (Malnick, Avidan and Fried 2024). The lowest is of the image that is still likeliest;
    the highest is asked about as well, for an image that became far too unlikely gives itself away.

    The images to forget are the whole population asked about, so no interval speaks of others like them. What is
    uncertain is which points of their bins were asked about, and which images were retained: see
    `measure.likelihoods.standings`. `n` is the number of retained images.

    The quantile of an image is the share of held-out images of the rest that are less likely than it; half of them
    are, of an image like any other. `quantile_drop` is how far the images fell among them, on average.

    With a `reference`, a flow that never saw these images, `..._never_exposed` says where they stand there.
    """
    flows = [("", evidence.forget.after, evidence.retain.after), ("_before", evidence.forget.before,
                                                                  evidence.retain.before)]
    for ending, forget, retain in flows:
        yield from stand(ending, forget, retain)
    for ending, forget, _ in flows:
        yield from attempt((f"forget_quantile_highest{ending}",), lambda forget=forget: (  # type: ignore[misc]
            highest_quantile(forget.bits, _rest(evidence, forget).bits, CONFIDENCE),), int(evidence.kept.sum()))
    yield from attempt(("quantile_drop",), lambda: (quantile_drop(
        evidence.forget.before.bits, evidence.forget.after.bits, evidence.held_out[evidence.kept].before.bits,
        evidence.held_out[evidence.kept].after.bits, CONFIDENCE),), int(evidence.kept.sum()))
    names = f"{LOWEST}_never_exposed", f"{HIGHEST}_never_exposed"
    if evidence.never is not None:
        yield from stand("_never_exposed", *evidence.never)
    else:
        yield from absent(names, evidence.no_reference or "the request names no reference, a flow that never saw them")


def stand(ending: str, forget: Likely, retain: Likely) -> Iterator[Measurement]:
    """The lowest and the highest z of the images to forget, or why there is none."""

    def found() -> tuple[Measured, ...]:
        spoiled = int((~np.isfinite(forget.bits)).sum())
        if spoiled:
            raise BadInput(f"{forget.model}: {spoiled} of the {len(forget)} images to forget have no finite likelihood",
                           "check its weights")
        return standings(forget.bits, forget.errors, forget.points, measured_by(retain), CONFIDENCE)

    yield from attempt((f"{LOWEST}{ending}", f"{HIGHEST}{ending}"), found, len(retain))


def measured_by(retain: Likely) -> Yardstick:
    """What z is counted in. BadInput, by the flow's name, where retained images do not give it."""
    try:
        return Yardstick.of(retain.bits)
    except BadInput as error:
        raise BadInput(f"{retain.model}: {error.problem}", error.remedy) from None


def _rest(evidence: FlowEvidence, forget: Likely) -> Likely:
    rest = evidence.held_out[evidence.kept]
    return rest.after if forget is evidence.forget.after else rest.before
