"""How the mass of a generator is spread over the classes, before and after, and what each class kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.proportions import Bounds, Estimate, PairedCounts, exact_bounds, method_of, paired_ratio

DEVIATION = "paired bootstrap of the deviation in total variation"
_DRAWS = 2_000  # bootstrap tables: a quantile at 0.95 is then off by at most 0.01 in probability
_AT_A_TIME = 100
_PSEUDO_MOVES = 2.0  # latents that are taken to have changed class besides those that did

KEPT_SHARE = "smallest of {classes} classes, {method}, Bonferroni over classes"


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
    before: ArrayLike, after: ArrayLike, retained: tuple[int, ...], classes: int, confidence: float = 0.95,
    *, bounds: Bounds = exact_bounds,
) -> KeptShares:
    """share(after)/share(before) of each class in `retained`, from labels [n] of the same n latents.

    Method: both models drew from the same latents, so share ratios are ratios of paired counts, and
    `proportions.paired_ratio` bounds each, exactly unless other `bounds` are given. With C classes each interval
    has confidence 1 - alpha/C, so all hold together with at least 1 - alpha (Bonferroni), and the smallest lower
    and the smallest upper bound enclose the smallest true ratio, whichever class that is. Picking the class after
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
        per_class[label] = paired_ratio(counts, each, bounds=bounds)
    smallest = min(per_class, key=lambda label: per_class[label].value)
    interval = Interval(
        lower=min(found.interval.lower for found in per_class.values()),
        upper=min(found.interval.upper for found in per_class.values()),
        confidence=confidence,
        method=KEPT_SHARE.format(classes=len(retained), method=method_of(bounds, paired=True)),
    )
    return KeptShares(per_class, Estimate(per_class[smallest].value, interval, len(was)), smallest)


def total_variation(
    before: ArrayLike, after: ArrayLike, retained: tuple[int, ...], classes: int, confidence: float = 0.95
) -> Estimate:
    """Total variation between the retained classes' shares after and before, from labels [n] of the same latents.

    Shares are fractions of the samples of retained classes, on either side its own. Half the sum of absolute
    differences: the smallest part of the samples that would have to change class for the shares to agree, from
    0 to 1. The estimate is biased upwards at small n; its interval is not, as follows.

    Let D be the vector of share differences and V(x) half the sum of |x|. V(D) is a norm, so by the triangle
    inequality |V(D found) - V(D)| <= V(D found - D): the interval reaches as far as the confidence quantile of
    V(D found - D) either way. D is a smooth function of the paired table of counts, hence that quantile can be
    had from the bootstrap also where D = 0, unlike one of V itself (Efron and Tibshirani 1993, section 12.3 on
    bootstrapping deviations). All cells where a latent changed class share two further latents in the bootstrap,
    as a rare move may not have occurred at all (the "plus four" of Agresti and Coull 1998). It covers with more
    than the confidence asked for where shares did move. `n` is the smaller count of retained samples.

    Raises BadInput if either side drew no retained class at all.
    """
    was, is_now = _labels(before, "before", classes), _labels(after, "after", classes)
    if was.shape != is_now.shape:
        raise BadInput(f"after: {is_now.size} labels, before: {was.size}", "measure the same latents")
    if not retained:
        raise BadInput("retained: there is no class", "forget fewer classes than the judge knows")
    place = np.full(classes, len(retained))  # of a class among the retained ones; the last is for all others
    place[list(retained)] = np.arange(len(retained))
    counts = [np.bincount(place[side], minlength=len(retained) + 1)[:-1] for side in (was, is_now)]
    for name, found in zip(("before", "after"), counts, strict=True):
        if not found.any():
            raise BadInput(f"{name}: no sample of a retained class", "shares among no samples cannot be compared")
    differences = counts[1] / counts[1].sum() - counts[0] / counts[0].sum()
    value = _halved(differences)
    reach = float(np.quantile(_deviations(place[was], place[is_now], len(retained)), confidence))
    interval = Interval(lower=max(0.0, value - reach), upper=min(1.0, value + reach), confidence=confidence,
                        method=DEVIATION)
    return Estimate(value, interval, min(int(found.sum()) for found in counts))


def hold_shares(labels: ArrayLike, target: ArrayLike, retained: tuple[int, ...]) -> NDArray[np.intp]:
    """The largest subset of samples whose retained classes have the target shares: ascending indices.

    `labels` [n] are of the samples to choose from, `target` [classes] holds shares (or counts) of which only those
    of `retained` matter, relative to each other. Of every class the first ones are taken, so that nothing but
    their class decides; the scarcest class is used whole. Shares are met to one sample in each class. What is
    measured on the subset (KID, FID, precision) compares how classes look, however much of each there is.

    Raises BadInput naming the class if one with a target share has too few samples to be held.
    """
    wanted = np.asarray(target, dtype=np.float64)
    if wanted.ndim != 1 or not np.isfinite(wanted).all() or (wanted < 0).any():
        raise BadInput(f"target: {wanted.dtype} of shape {wanted.shape}", "give a share of at least 0 for each class")
    found = _labels(labels, "labels", len(wanted))
    held = [label for label in retained if wanted[label] > 0]
    if not held:
        raise BadInput("target: no retained class has a share", "there is nothing to hold")
    counts = np.bincount(found, minlength=len(wanted))
    for label in held:
        if not counts[label]:
            raise BadInput(f"labels: class {label} has no sample, its target share is {wanted[label]:.4g}",
                           "draw more samples; a class that is gone cannot be compared")
    scarcest = min(counts[label] / wanted[label] for label in held)
    chosen = [np.flatnonzero(found == label)[: int(scarcest * wanted[label] + 1e-6)] for label in held]
    return np.sort(np.concatenate(chosen))


def _halved(differences: NDArray[np.float64]) -> float:
    return float(np.abs(differences).sum() / 2)


def _deviations(was: NDArray[np.intp], is_now: NDArray[np.intp], retained: int) -> NDArray[np.float64]:
    """V(D* - D) of bootstrap tables [draws]; places from 0 to `retained`, the last for all unwanted classes."""
    from scipy.sparse import csr_array

    n, sides = len(was), retained + 1
    places = np.arange(sides)
    moves = places * sides + (places + 1) % sides  # one cell off the diagonal for each class
    cells, at = np.unique(np.concatenate([was * sides + is_now, moves]), return_inverse=True)
    counts = np.bincount(at, weights=np.concatenate([np.ones(n), np.full(sides, _PSEUDO_MOVES / sides)]))
    chances = counts / counts.sum()
    whole = np.ones(len(cells)), np.arange(len(cells))
    rows, columns = (csr_array((whole[0], (whole[1], side)), shape=(len(cells), sides))
                     for side in (cells // sides, cells % sides))

    def shares(tables: NDArray[np.float64], sums: Any) -> NDArray[np.float64]:
        kept = (tables @ sums)[:, :retained]
        return np.asarray(kept / np.maximum(kept.sum(axis=1, keepdims=True), 1))

    def differences(tables: NDArray[np.float64]) -> NDArray[np.float64]:
        return shares(tables, columns) - shares(tables, rows)

    rng, centre = np.random.default_rng(0), differences(n * chances[None])
    parts = []
    for _ in range(0, _DRAWS, _AT_A_TIME):
        tables = rng.multinomial(n, chances, size=_AT_A_TIME).astype(np.float64)
        parts.append(np.abs(differences(tables) - centre).sum(axis=1) / 2)
    return np.concatenate(parts)


def _labels(values: ArrayLike, name: str, classes: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in "iu":
        raise BadInput(f"{name}: {array.dtype} of shape {array.shape}", "give integer labels [n]")
    if array.min() < 0 or array.max() >= classes:
        raise BadInput(f"{name}: labels from {array.min()} to {array.max()}", f"use 0 to {classes - 1}")
    return array.astype(np.int64)
