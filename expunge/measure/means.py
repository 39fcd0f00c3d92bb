"""The mean of numbers that were measured on things alike, with an interval over the things."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.proportions import Estimate


def mean_of(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of one number [n] per held-out image, with Student's t over the images.

    Raises:
        BadInput: there are fewer than two, or some are no finite numbers.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) < 2 or not np.isfinite(found).all():
        raise BadInput(f"holdout: {len(found)} images, or some of which the number is none that is finite",
                       "hold out at least two, and check the model's weights")
    mean = float(found.mean())
    reach = float(stdtrit(len(found) - 1, (1 + confidence) / 2) * found.std(ddof=1) / np.sqrt(len(found)))
    return Estimate(mean, Interval(lower=mean - reach, upper=mean + reach, confidence=confidence,
                                   method="Student's t over images"), len(found))
