"""Which of two models is nearer to a reference that never knew: the relative three-sample test."""

from numpy.typing import ArrayLike
from scipy.special import stdtr

from expunge.measure.distances import compare_kid
from expunge.measure.proportions import Estimate


def nearer(
    before: ArrayLike, after: ArrayLike, reference: ArrayLike, *, confidence: float = 0.95, seed: int = 0
) -> tuple[Estimate, float]:
    """KID(after, reference) - KID(before, reference), and the p-value of "after is no nearer than before".

    The question of Bounliphone et al. 2016, "A test of relative similarity for model selection in generative
    models": of the models behind two samples, which is nearer, in MMD, to the one behind a third? There the two
    samples are drawn apart; here `before` and `after` [n, d] come from the same latents, which makes the test
    sharper, and the standard error of the difference is that of `compare_kid` (paired half-sampling of blocks)
    rather than their plug-in one. `reference` [m, d] are samples of the reference model. Features should be
    scaled by `distances.unit_scale(reference)`.

    A difference below zero means that `after` is nearer. The p-value is one-sided, P(T <= difference / error) for
    Student's t: small only if after is nearer. Two models at the same distance get one below alpha in at most
    about alpha of all cases; in fewer where either model *is* the reference, as the error is then too large.
    Where nothing varied at all, as between a model and itself, it is 1. Raises BadInput as `compare_kid` does.
    """
    found = compare_kid(before, after, reference, confidence=confidence, seed=seed)
    if found.error == 0:
        return found.difference, 1.0
    return found.difference, float(stdtr(found.freedom, found.difference.value / found.error))
