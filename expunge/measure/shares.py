"""How the mass of a generator is spread over the classes, before and after, and what each class kept."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.proportions import PAIRED, Estimate, PairedCounts, paired_ratio

KEPT_SHARE = f"smallest of {{classes}} classes, {PAIRED}, Bonferroni over classes"


def class_shares(labels: ArrayLike, classes: int) -> NDArray[np.float64]:
    """The share of each of `classes` classes among integer labels [n], as fractions that sum to 1."""
    found = _labels(labels, "labels", classes)
    return np.bincount(found, minlength=classes) / len(found)


@dataclass(frozen=True)
class KeptShares:
    """After/before of every retained class's share, and of the smallest, which is the one to gate on."""

    per_class: dict[int, Estimate]
    smallest: Estimate
    smallest_class: int


def kept_shares(
    before: ArrayLike, after: ArrayLike, retained: tuple[int, ...], classes: int, confidence: float = 0.95
) -> KeptShares:
    """share(after)/share(before) of each class in `retained`, from labels [n] of the same n latents.

    Method: both models drew from the same latents, so share ratios are ratios of paired counts, and
    `proportions.paired_ratio` bounds each exactly. With C classes each interval has confidence
    1 - alpha/C, so all hold together with at least 1 - alpha (Bonferroni), and the smallest lower and the
    smallest upper bound enclose the smallest true ratio, whichever class that is. Picking the class after
    looking therefore costs nothing further.

    Raises BadInput if a retained class was never drawn before: it has no ratio.
    """
    was, is_now = _labels(before, "before", classes), _labels(after, "after", classes)
    if not retained:
        raise BadInput("retained: there is no class", "forget fewer classes than the judge knows")
    each = 1 - (1 - confidence) / len(retained)
    per_class = {}
    for label in retained:
        counts = PairedCounts.of(was == label, is_now == label)
        if not counts.before:
            raise BadInput(
                f"before: class {label} was never drawn in {len(was)} samples",
                "draw more, or use a judge that knows the parent's classes",
            )
        per_class[label] = paired_ratio(counts, each)
    smallest = min(per_class, key=lambda label: per_class[label].value)
    interval = Interval(
        lower=min(found.interval.lower for found in per_class.values()),
        upper=min(found.interval.upper for found in per_class.values()),
        confidence=confidence,
        method=KEPT_SHARE.format(classes=len(retained)),
    )
    return KeptShares(per_class, Estimate(per_class[smallest].value, interval, len(was)), smallest)


def _labels(values: ArrayLike, name: str, classes: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise BadInput(f"{name}: {array.dtype} of shape {array.shape}", "give integer labels [n]")
    if array.min() < 0 or array.max() >= classes:
        raise BadInput(f"{name}: labels from {array.min()} to {array.max()}", f"use 0 to {classes - 1}")
    return array.astype(np.int64)
