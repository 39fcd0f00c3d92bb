"""What of its like? How unlikely held-out images became that are of the same classes, near, or neither."""

from collections.abc import Iterator

import numpy as np

from components.evaluate.evidence import CONFIDENCE, Mask, Measured, attempt, not_applicable
from components.evaluate.evidence_of_flows import FlowEvidence
from components.evaluate.probes.is_it_unlikely import measured_by
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.medians import median_interval


def what_of_its_like(evidence: FlowEvidence) -> Iterator[Measurement]:
    """`same_class_z`, `neighbours_z`, `others_z` and `earlier_z`, each also `_before`: medians over held-out images.

    z as in `is_it_unlikely`. Of the same classes: held-out images of the classes that the images to forget are of.
    Neighbours: of the rest, the five that are nearest to some image to forget, in the features that are compared.
    Others: all of the rest that are of other classes. Earlier: of classes that an earlier request was about.

    The interval of a median is exact; mean and standard deviation of the retained images are taken as they were found.
    """
    groups = [("same_class_z", evidence.alike), ("neighbours_z", evidence.near),
              ("others_z", evidence.kept & ~evidence.alike)]
    if evidence.earlier:
        groups.append(("earlier_z", np.isin(evidence.held_out.labels, evidence.earlier)))
    else:
        yield from not_applicable(("earlier_z", "earlier_z_before"), "no request came before this one")
    for name, rows in groups:
        for ending in ("", "_before"):
            yield from attempt((name + ending,), lambda rows=rows, ending=ending: (  # type: ignore[misc]
                _median(evidence, rows, ending),), int(rows.sum()))


def _median(evidence: FlowEvidence, rows: Mask, ending: str) -> Measured:
    of, retain = ((side.before if ending else side.after) for side in (evidence.held_out, evidence.retain))
    if not rows.any():
        raise BadInput("holdout: it has no such image", "hold out some of every class that is asked about")
    spoiled = int((~np.isfinite(of[rows].bits)).sum())
    if spoiled:
        raise BadInput(f"{of.model}: {spoiled} of {int(rows.sum())} such held-out images have no finite likelihood",
                       "check its weights")
    return median_interval(measured_by(retain).z(of[rows].bits), CONFIDENCE)
