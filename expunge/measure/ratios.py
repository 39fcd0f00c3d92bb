"""Ratios of two numbers that were both measured, with intervals that know that the lower one was measured too."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.proportions import Estimate

FIELLER = "Fieller, paired"


def fieller(top: float, bottom: float, covariance: NDArray[np.float64], quantile: float) -> tuple[float, float]:
    """Bounds of top/bottom, from the covariance [2, 2] of their errors (Fieller 1954, JRSS B 16, 175-185).

    Those r for which |top - r bottom| is within `quantile` of its standard error. That is an interval only where
    `bottom` itself is further than that from zero.

    Raises:
        BadInput: it is not.
    """
    (top_top, top_bottom), (_, bottom_bottom) = covariance
    doubt = quantile**2 * bottom_bottom / bottom**2 if bottom > 0 else math.inf
    if not doubt < 1:
        raise BadInput("the lower number of the ratio cannot be told from zero", "measure on more")
    value = top / bottom
    slant = top_bottom / bottom_bottom if bottom_bottom > 0 else 0.0
    spread = top_top - 2 * value * top_bottom + value**2 * bottom_bottom - doubt * (top_top - slant * top_bottom)
    reach = quantile / bottom * math.sqrt(max(0.0, spread))
    return (value - doubt * slant - reach) / (1 - doubt), (value - doubt * slant + reach) / (1 - doubt)


def relative_change(before: ArrayLike, after: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of `after` over mean of `before`, less one, of the same n things measured twice: arrays [n].

    By Fieller's bounds with Student's t: what a thing has in common with itself does not widen them.

    Raises:
        BadInput: there are fewer than two, some are no finite numbers, or the mean before is not clearly above zero.
    """
    was, is_now = (np.asarray(values, dtype=np.float64) for values in (before, after))
    if was.ndim != 1 or was.shape != is_now.shape or len(was) < 2:
        raise BadInput(f"values: {was.shape} before, {is_now.shape} after", "measure at least two things twice")
    if not (np.isfinite(was).all() and np.isfinite(is_now).all()):
        raise BadInput("values: some are no finite numbers", "check what made them")
    top, bottom = float(is_now.mean()), float(was.mean())
    quantile = float(stdtrit(len(was) - 1, (1 + confidence) / 2))
    lower, upper = fieller(top, bottom, np.cov(is_now, was) / len(was), quantile)
    change = top / bottom - 1
    return Estimate(change, Interval(lower=min(change, lower - 1), upper=max(change, upper - 1), confidence=confidence,
                                     method=FIELLER), len(was))
