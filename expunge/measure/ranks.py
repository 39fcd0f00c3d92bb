"""How well a score tells members from others: the area under the ROC curve, from ranks alone."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.proportions import Estimate, Floats, exact_bounds

KORN_GRAUBARD = "Korn-Graubard on DeLong's variance"


def auc(members: ArrayLike, others: ArrayLike, confidence: float = 0.95) -> Estimate:
    """P(a member scores above another) + P(they tie) / 2, from scores of members [m] and of others [k].

    One half says nothing; both far above and far below tell the two apart. Only the order counts, so an
    infinite score is as good as any. `n` of the result is the smaller of m and k, which carries the claim.

    The interval is the exact one of a rate with an effective sample size (Korn and Graubard 1998, Survey
    Methodology 24, 193-201): the rate's AUC (1 - AUC) over the variance of the AUC. The variance is DeLong's
    (DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44, 837-845), the sum of that of the members' and that
    of the others' placements, and the effective size is reduced by the squared ratio of the normal quantile
    to Student's, with the degrees of freedom of Brunner and Munzel (2000, Biometrical Journal 42, 17-25). For
    the variance alone, one further score is added at either end of both groups: it would be zero where the
    groups do not overlap, which is when small counts say least. Approximate; `benchmarks/coverage.py` holds
    it against known truth at small, unequal and tied samples and near 1, beside DeLong's own interval, its
    logit and Newcombe's (2006, method 5), which fall short there.

    Raises BadInput for NaN, and for fewer than two scores of a kind.
    """
    if not 0 < confidence < 1:
        raise BadInput(f"confidence: {confidence}", "give a fraction between 0 and 1, such as 0.95")
    member, other = _in_order(_scores(members, "members"), _scores(others, "others"))
    value = float(_placements(member, other).mean())
    ends = np.array([0.0, len(member) + len(other) + 1.0])
    effective = _effective_size(np.concatenate([member, ends]), np.concatenate([other, ends]), confidence)
    lower, upper = exact_bounds(value * effective, effective, confidence)
    interval = Interval(lower=lower, upper=upper, confidence=confidence, method=KORN_GRAUBARD)
    return Estimate(value, interval, min(len(member), len(other)))


def _effective_size(member: Floats, other: Floats, confidence: float) -> float:
    """How many independent trials would know a rate of the AUC's size as well as these scores know it."""
    above, below = _placements(member, other), 1 - _placements(other, member)
    rate = above.mean()
    parts = np.array([above.var(ddof=1) / len(above), below.var(ddof=1) / len(below)])
    variance = parts.sum()
    freedom = variance**2 / (parts**2 / [len(above) - 1, len(below) - 1]).sum()
    normal, student = stdtrit([np.inf, freedom], (1 + confidence) / 2)
    return max(1.0, float(rate * (1 - rate) / variance * (normal / student) ** 2))


def _placements(scores: Floats, among: Floats) -> Floats:
    """For each score, the share of the others that it exceeds, ties counted half."""
    everywhere = _ranks(np.concatenate([scores, among]))[: len(scores)]
    return np.asarray((everywhere - _ranks(scores)) / len(among))


def _in_order(member: Floats, other: Floats) -> tuple[Floats, Floats]:
    """Both by their ranks among all: 1 to m + k, equal scores alike."""
    ranks = _ranks(np.concatenate([member, other]))
    return ranks[: len(member)], ranks[len(member) :]


def _ranks(values: Floats) -> Floats:
    """From 1, equal values by the mean of theirs; `scipy.stats.rankdata` gives the same, and is slow to import."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((counts.cumsum() - (counts - 1) / 2)[which])


def _scores(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise BadInput(f"{name}: scores of shape {array.shape}", "give at least two, as an array [n]")
    if np.isnan(array).any():
        raise BadInput(f"{name}: {int(np.isnan(array).sum())} of {len(array)} scores are NaN",
                       "check the model that made them")
    return array
