"""Was it seen? Who may be held against whom, and how near samples come to images that the parent was trained on."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import Evidence, Membership, Real
from expunge.errors import BadInput
from expunge.measure.shares import hold_shares

FEWEST = 2  # images on either side, or ranks say nothing
Labels: TypeAlias = NDArray[np.int64]
Rows: TypeAlias = NDArray[np.intp]


def comparable(members: Labels, others: Labels, unwanted: tuple[int, ...], name: Callable[[int], str]
               ) -> tuple[Rows, Rows]:
    """Which members may be held against which others: rows of either, given the labels of both.

    Both are of the unwanted classes, and of each class in the same proportion: an attack that only tells one class
    from another says nothing of membership. The members' proportion holds; of the others, the first of each class
    are taken.

    Raises:
        BadInput: there are too few, or none of a class that members are of.
    """
    ours, theirs = (np.flatnonzero(np.isin(labels, unwanted)) for labels in (members, others))
    for label in np.setdiff1d(members[ours], others[theirs]):
        raise BadInput(f"holdout: it has no image of class {name(int(label))}, of which members are",
                       "hold out some: members can only be held against others of the same class")
    if len(ours):
        counts = np.bincount(members[ours])
        theirs = theirs[hold_shares(others[theirs], np.pad(counts, (0, int(others.max()))), unwanted)]
    for field, rows in (("members", ours), ("holdout", theirs)):
        if len(rows) < FEWEST:
            raise BadInput(f"{field}: {len(rows)} images of the unwanted classes",
                           "at least two on either side are needed to tell members from others, and some tens of each "
                           "for the answer to mean anything")
    return ours, theirs


def nearness(evidence: Evidence, members: Real) -> Membership:
    """The attack on generators: an image that some sample comes near is taken for a member.

    The score is the negative distance, in the extractor's features, to the nearest of the candidate's samples
    (Chen et al. 2020, "GAN-Leaks", the full black-box attack).

    Raises:
        BadInput: members cannot be compared with the held-out images, see `comparable`.
    """
    ours, theirs = comparable(members.labels, evidence.real.labels, evidence.unwanted, evidence.name)
    drawn = evidence.of_fixed_size.after.features
    return Membership(*(-_nearest(real.seen.features[rows], drawn)
                        for real, rows in ((members, ours), (evidence.real, theirs))))


def _nearest(points: NDArray[np.float32], cloud: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distance of each point [m, d] to the nearest of the cloud [n, d]; NaN where either holds what is not finite."""
    from sklearn.metrics import pairwise_distances_argmin_min

    if not (np.isfinite(points).all() and np.isfinite(cloud).all()):
        return np.full(len(points), np.nan)
    return np.asarray(pairwise_distances_argmin_min(points, cloud)[1], dtype=np.float64)
