"""How unlikely a flow finds images: in standard deviations of others' bits per dimension, and among others.

Bits per dimension of an image are the mean over some points of its bins (uniform dequantisation), so that each comes
with an error of its own. The images asked about are all there are of their kind: no interval here speaks of others
like them. What is uncertain is what their points happened to be, and which of the others were looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from expunge.contracts import Interval
from expunge.errors import BadInput
from expunge.measure.means import mean_of
from expunge.measure.proportions import Bools, Estimate, rate

STANDING = "Student's t over points and retained images, Bonferroni over images"
UNLIKELY, OUTLYING = 1.5, 6.0  # z from which an image counts as unlikely, and as one that stands out
FEWEST = 8  # retained images, or their standard deviation says nothing


@dataclass(frozen=True)
class Yardstick:
    """Mean and standard deviation of retained images' bits per dimension, and how sure they are."""

    mean: float
    std: float
    skewness: float
    kurtosis: float  # 3 of a normal distribution
    n: int

    @classmethod
    def of(cls, bits: ArrayLike) -> "Yardstick":
        """Taken from the bits/dim [n] of retained images.

        Raises:
            BadInput: there are fewer than eight, some are no finite numbers, or all are the same.
        """
        found = np.asarray(bits, dtype=np.float64)
        if found.ndim != 1 or len(found) < FEWEST:
            raise BadInput(f"retain: {len(found)} images, at least {FEWEST} are needed to say what is usual",
                           "bring more images of what is to stay")
        if not np.isfinite(found).all():
            raise BadInput(f"retain: {int((~np.isfinite(found)).sum())} of {len(found)} images have no finite "
                           "likelihood", "check the flow's weights")
        std = float(found.std(ddof=1))
        if std == 0:
            raise BadInput("retain: all images are equally likely", "check the flow's weights")
        apart = (found - found.mean()) / found.std()
        return cls(float(found.mean()), std, float((apart**3).mean()), float((apart**4).mean()), len(found))

    def z(self, bits: ArrayLike) -> NDArray[np.float64]:
        """How many standard deviations less likely than the mean: (bits - mean) / std (Malnick et al. 2024)."""
        return (np.asarray(bits, dtype=np.float64) - self.mean) / self.std


def standings(bits: ArrayLike, errors: ArrayLike, points: int, by: Yardstick, confidence: float = 0.95
              ) -> tuple[Estimate, Estimate]:
    """The lowest and the highest z of some images: `bits` [k] are means over `points` points, with errors [k].

    To first order the error of z is that of the mean over points, e / std, and that of mean and standard deviation
    of the n retained images, whose variance is (1 + z skewness + z^2 (kurtosis - 1) / 4) / n. Student's t, with the
    degrees of freedom of Welch and Satterthwaite. With k images each interval has confidence 1 - alpha / k, so all hold
    together, and the lowest (highest) lower and upper bounds enclose the lowest (highest) z, whichever image has it.
    `n` is the number of retained images.

    Raises:
        BadInput: there is no image, fewer than two points, or numbers that are not finite.
    """
    found, error = (np.asarray(values, dtype=np.float64) for values in (bits, errors))
    if found.ndim != 1 or not len(found) or error.shape != found.shape or points < 2:
        raise BadInput(f"forget: bits {found.shape}, errors {error.shape}, {points} points",
                       "give at least one image, and at least two points of each")
    if not (np.isfinite(found).all() and np.isfinite(error).all()):
        raise BadInput(f"forget: {int((~np.isfinite(found + error)).sum())} of {len(found)} images have no finite "
                       "likelihood", "check the flow's weights")
    z = by.z(found)
    own = (error / by.std) ** 2
    others = (1 + z * by.skewness + z**2 * (by.kurtosis - 1) / 4) / by.n
    freedom = (own + others) ** 2 / (own**2 / (points - 1) + others**2 / (by.n - 1))
    reach = stdtrit(freedom, 1 - (1 - confidence) / len(found) / 2) * np.sqrt(own + others)

    def the(extreme: str) -> Estimate:
        pick = np.min if extreme == "lowest" else np.max
        interval = Interval(lower=float(pick(z - reach)), upper=float(pick(z + reach)), confidence=confidence,
                            method=f"{extreme} of {len(found)}, {STANDING}")
        return Estimate(float(pick(z)), interval, by.n)

    return the("lowest"), the("highest")


def highest_quantile(bits: ArrayLike, among: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Of some images [k], the largest share of others [m] that are less likely than one of them: 1 is most likely.

    The exact interval of that share over the others, with confidence 1 - alpha / k each.

    Raises:
        BadInput: either is empty, or some are no finite numbers.
    """
    above = _less_likely(bits, among)
    each = [rate(found, 1 - (1 - confidence) / len(above)) for found in above]
    interval = Interval(lower=max(found.interval.lower for found in each),
                        upper=max(found.interval.upper for found in each), confidence=confidence,
                        method=f"highest of {len(above)}, Clopper-Pearson, Bonferroni over images")
    return Estimate(max(found.value for found in each), interval, above.shape[1])


def extreme_share(outcomes: Sequence[ArrayLike], extreme: Literal["lowest", "highest"], confidence: float = 0.95
                  ) -> Estimate:
    """Of several classes' shares of true outcomes, the lowest or the highest; `outcomes` are one array [n] per class.

    Exact intervals, of k classes with confidence 1 - alpha / k each, so that all hold together; of a single class it is
    its rate and no more. `n` counts the images of the class that has this share.

    Raises:
        BadInput: there is no class, or one without an image.
    """
    if not outcomes:
        raise BadInput("classes: there is none", "name what is to be forgotten")
    each = [rate(found, 1 - (1 - confidence) / len(outcomes)) for found in outcomes]
    if len(each) == 1:
        return each[0]
    pick = min if extreme == "lowest" else max
    worst = pick(each, key=lambda found: found.value)
    return Estimate(worst.value, Interval(
        lower=pick(found.interval.lower for found in each), upper=pick(found.interval.upper for found in each),
        confidence=confidence, method=f"{extreme} of {len(each)}, Clopper-Pearson, Bonferroni over classes"), worst.n)


def quantile_drop(before: ArrayLike, after: ArrayLike, among_before: ArrayLike, among_after: ArrayLike,
                  confidence: float = 0.95) -> Estimate:
    """How far images [k] fell among others [m], on average over the images: their share before less that after.

    The share is of others that are less likely. Each of the others adds its own difference, averaged over the images;
    Student's t over the others. 0 is no change, 1 from the most likely of all to the least likely.

    Raises:
        BadInput: there are no images, fewer than two others, or numbers that are not finite.
    """
    was, is_now = _less_likely(before, among_before), _less_likely(after, among_after)
    if was.shape != is_now.shape or was.shape[1] < 2:
        raise BadInput(f"holdout: {was.shape} before, {is_now.shape} after", "ask both flows about the same images")
    each = was.mean(axis=0) - is_now.mean(axis=0)
    value, m = float(each.mean()), len(each)
    reach = float(stdtrit(m - 1, (1 + confidence) / 2) * each.std(ddof=1) / np.sqrt(m))
    return Estimate(value, Interval(lower=max(-1.0, value - reach), upper=min(1.0, value + reach),
                                    confidence=confidence, method="Student's t over held-out images"), m)


def mean_bits(bits: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean bits per dimension of images [n], with Student's t over them. BadInput below two, or for NaN."""
    found = np.asarray(bits, dtype=np.float64)
    if found.ndim != 1 or len(found) < 2 or not np.isfinite(found).all():
        raise BadInput(f"holdout: {len(found)} images, or some that have no finite likelihood",
                       "hold out at least two, and check the flow's weights")
    return mean_of(found, confidence)


def _less_likely(bits: ArrayLike, among: ArrayLike) -> Bools:
    """[k, m] whether each of the others is less likely than each image."""
    found, others = (np.asarray(values, dtype=np.float64) for values in (bits, among))
    for name, values in (("forget", found), ("holdout", others)):
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise BadInput(f"{name}: no image, or one that has no finite likelihood", "check the flow's weights")
    return np.asarray(others[None, :] > found[:, None])
