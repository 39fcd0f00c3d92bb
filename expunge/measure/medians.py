"""The median of a few repeats, and an interval that assumes nothing of how they are spread."""

import numpy as np
from numpy.typing import ArrayLike

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.proportions import Estimate

ORDER_STATISTICS = "order statistics of the median"
_CENSORED = ", at least: repeats ended at "


def median_interval(values: ArrayLike, confidence: float = 0.95, *, budget: float | None = None) -> Estimate:
    """The sample median of r independent repeats, with the exact interval between two of them.

    Sorted, the l-th smallest and the l-th largest value enclose the true median except when fewer than l of
    the repeats fall on one of its sides, and how many do is Bin(r, 1/2) whatever the distribution (Thompson
    1936, Annals of Mathematical Statistics 7, 122-128). l is the largest for which that happens with at most
    alpha/2 on either side. Coverage is at least nominal, for values with ties too. Values may be of any unit.

    A repeat that never got there within its `budget` is +inf. The median and its interval need not notice:
    they are read off the order of the values. Where one of the three does fall on such a repeat it is only
    known to be beyond the budget. All values are then counted as at most `budget`, which is also what is given
    for those that are beyond, and `Interval.method` ends with "at least: repeats ended at <budget>". Any limit
    below the budget is decided by such an interval as it would be by the full one; `ended_at` gives the budget
    back to whoever must refuse a limit beyond it.

    Raises:
        BadInput: NaN or -inf; fewer repeats than the confidence needs (6 for 95 %); the interval reaches
            repeats that never got there and no budget is given.
    """
    found = np.sort(np.asarray(values, dtype=np.float64))
    if found.ndim != 1 or np.isnan(found).any() or np.isneginf(found).any():
        raise BadInput("values: not an array [r] of numbers, or some are NaN or -inf", "check the repeats")
    rank = _rank(len(found), confidence)
    if not rank:
        raise BadInput(f"values: {len(found)} repeats", f"a confidence of {confidence:g} needs {fewest(confidence)}")
    method = ORDER_STATISTICS
    if np.isposinf(found[-rank]):  # it is the highest of the three
        if budget is None:
            raise BadInput("values: an end of the interval is a repeat that never got there", "give its budget")
        found, method = np.minimum(found, budget), f"{ORDER_STATISTICS}{_CENSORED}{budget:.12g}"
    interval = Interval(lower=float(found[rank - 1]), upper=float(found[-rank]), confidence=confidence, method=method)
    return Estimate(float(np.median(found)), interval, len(found))


def fewest(confidence: float) -> int:
    """How many repeats an interval of that confidence needs."""
    return next(repeats for repeats in range(1, 10_000) if _rank(repeats, confidence))


def ended_at(interval: Interval) -> float | None:
    """The budget at which an interval was cut off; None if it is whole."""
    _, censored, budget = interval.method.partition(_CENSORED)
    return float(budget) if censored else None


def _rank(repeats: int, confidence: float) -> int:
    """The largest l with P(Bin(repeats, 1/2) < l) at most half of alpha; 0 if there is none."""
    if not 0 < confidence < 1:
        raise BadInput(f"confidence: {confidence}", "give a fraction between 0 and 1, such as 0.95")
    from scipy.special import bdtr

    tails = bdtr(np.arange(repeats), repeats, 0.5)  # of at most 0, 1, ...
    return int((tails <= (1 - confidence) / 2).sum())
