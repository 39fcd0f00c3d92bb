"""Is its class unlikely? Of a whole class that is to go, the share of images that lie beyond the threshold."""

from collections.abc import Iterator

import numpy as np

from components.evaluate.evidence import CONFIDENCE, Mask, Measured, attempt, not_applicable
from components.evaluate.evidence_of_flows import Compared, FlowEvidence, Likely
from components.evaluate.probes.is_it_unlikely import measured_by
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.likelihoods import OUTLYING, UNLIKELY, extreme_share

SHARE, OF_FORGET, STANDS_OUT, RETAINED = (
    "unlikely_share", "forget_unlikely_share", "forget_outlying_share", "unlikely_share_retained")
SINGLE = "single images were to be forgotten, and others of their class stay as they were"


def is_its_class_unlikely(evidence: FlowEvidence) -> Iterator[Measurement]:
    """`unlikely_share`, `forget_unlikely_share`, `forget_outlying_share`, each also `_before`, and the rest beside it.

    An image is unlikely where its z (see `is_it_unlikely`) is at least 1.5, and stands out where it is at least 6. The
    thresholds are fixed here: what the request's method aimed at (its delta) decides nothing. `unlikely_share` is of
    held-out images of the class, which nobody learned from, and the one that says whether a class has gone;
    `forget_...` are of the images that training saw. `unlikely_share_retained` is that of held-out images of the rest.

    Intervals are exact, over images; of several classes it is the one that is worst off. Mean and standard deviation of
    the retained images are taken as they were found.
    """
    of_class = evidence.held_out[evidence.alike]
    asked = ((SHARE, of_class, UNLIKELY), (OF_FORGET, evidence.forget, UNLIKELY),
             (STANDS_OUT, evidence.forget, OUTLYING))
    if evidence.single:
        names = (name + ending for name, *_ in asked for ending in ("", "_before"))
        yield from not_applicable((*names, RETAINED), SINGLE)
        return
    for name, images, threshold in asked:
        for ending, found, retain in (("", images.after, evidence.retain.after),
                                      ("_before", images.before, evidence.retain.before)):
            yield from share(name + ending, found, images.labels, evidence.unwanted, retain, threshold)
    yield from rest_as(RETAINED, evidence)


def rest_as(name: str, evidence: FlowEvidence) -> Iterator[Measurement]:
    """By that name, the share of held-out images of the rest that the candidate finds unlikely, as of one class."""
    rest: Compared = evidence.held_out[evidence.kept]
    yield from share(name, rest.after, np.zeros(len(rest), np.int64), (0,), evidence.retain.after, UNLIKELY)


def share(name: str, found: Likely, labels: "np.typing.NDArray[np.int64]", classes: tuple[int, ...], retain: Likely,
          threshold: float) -> Iterator[Measurement]:
    """Of these classes' images, how many lie at the threshold or beyond, for the class that is worst off; or why not.

    Worst off is that with the fewest unlikely ones, or with the most that stand out.
    """

    def shares() -> tuple[Measured, ...]:
        of = [beyond(found[labels == label], retain, threshold) for label in classes]
        return (extreme_share(of, "highest" if threshold == OUTLYING else "lowest", CONFIDENCE),)

    yield from attempt((name,), shares, int(np.isin(labels, classes).sum()))


def beyond(found: Likely, retain: Likely, threshold: float) -> Mask:
    """Which images [n] lie so many standard deviations of the retained ones above their mean. BadInput for none."""
    if not len(found):
        raise BadInput("holdout: it has no image of a class that is asked about", "hold out some of every one")
    spoiled = int((~np.isfinite(found.bits)).sum())
    if spoiled:
        raise BadInput(f"{found.model}: {spoiled} of {len(found)} such images have no finite likelihood",
                       "check its weights")
    return np.asarray(measured_by(retain).z(found.bits) >= threshold)
