"""Was it seen? How near the candidate's samples come to images that its parent was trained on."""

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import Evidence, Membership, Real


def nearness(evidence: Evidence, members: Real) -> Membership:
    """The attack on generators: an image that some sample comes near is taken for a member.

    The score is the negative distance, in the extractor's features, to the nearest of the candidate's samples
    (Chen et al. 2020, "GAN-Leaks", the full black-box attack). Members and non-members are of the unwanted
    classes alike, for an attack that only tells one class from another says nothing of membership.
    """
    drawn = evidence.of_fixed_size.after.features

    def scores(real: Real) -> NDArray[np.float64]:
        return -_nearest(real.of(evidence.unwanted).seen.features, drawn)

    return Membership(scores(members), scores(evidence.real))


def _nearest(points: NDArray[np.float32], cloud: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distance of each point [m, d] to the nearest of the cloud [n, d]; NaN where either holds what is not finite."""
    from sklearn.metrics import pairwise_distances_argmin_min

    if not len(points):
        return np.empty(0)
    if not (np.isfinite(points).all() and np.isfinite(cloud).all()):
        return np.full(len(points), np.nan)
    return np.asarray(pairwise_distances_argmin_min(points, cloud)[1], dtype=np.float64)
