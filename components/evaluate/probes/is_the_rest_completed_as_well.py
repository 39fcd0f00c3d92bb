"""Is the rest completed as well as before? How far completions of held-out images are from what was hidden."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import CONFIDENCE, attempt
from components.evaluate.evidence_of_completions import Completed, CompletionEvidence, Completions
from components.evaluate.probes.is_the_rest_still_good import Compared
from components.evaluate.probes.is_what_it_draws_still_good import ratio_of
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.distances import fid, kid, unit_scale
from expunge.measure.means import mean_of
from expunge.measure.proportions import Estimate, PairedCounts, paired_difference, rate
from expunge.measure.ratios import relative_change

CHANGE, DIFFERENCE = "hidden_error_change", "retained_recognised_difference"


def is_the_rest_completed_as_well(evidence: CompletionEvidence) -> Iterator[Measurement]:
    """`hidden_error`, `kid_ratio`, `retained_recognised` and what stands beside them, of held-out images of the rest.

    - `hidden_error` and `hidden_error_before`: mean squared error of the hidden part, pixels being from -1 to 1.
      `hidden_error_change` is relative, after over before less one, of the same images behind the same masks: its
      interval is paired (Fieller's). What is shown comes out as it was, so there is no error to speak of there.
    - `kid_ratio`, `kid_...`, `fid_...`, precision, recall, density and coverage: completions of every other image of
      each class against the others as they are. A completion is near to its own image for what it was shown of it.
    - `retained_recognised`, `_before` and `_shown`, and `retained_recognised_difference`, after less before.
    - `cosine`: between the features of a completion and those of the image, the mean. `inception_score`: of the
      judge's probabilities (Salimans et al. 2016).
    - `judge_accuracy`: on the images as they are.

    With a `reference`, `..._never_exposed` says how well a model completes them that never saw what was to go.
    """
    rest = evidence.rest
    yield from errors_of("hidden_error", rest)
    yield from kid_ratio(rest)
    first, others = rest.halves
    yield from Compared(rest.before.features[first], rest.after.features[first], np.ones(int(first.sum()), np.bool_),
                        np.ones(int(first.sum()), np.bool_), rest.image.features[others],
                        rest.labels[others]).distances()
    for ending, found in (("", rest.after), ("_before", rest.before), ("_shown", rest.shown)):
        yield from attempt((f"retained_recognised{ending}",), lambda found=found: (  # type: ignore[misc]
            rate(found.right(rest.labels), CONFIDENCE),), len(rest))
    yield from recognised_difference(rest)
    yield from scores_of("", rest)
    yield from attempt(("judge_accuracy",), lambda: (rate(rest.image.right(rest.labels), CONFIDENCE),), len(rest))
    never = rest.more.get("reference")
    if never is not None:
        yield from attempt(("hidden_error_never_exposed",), lambda: (mean_error(never),), len(rest))


def errors_of(name: str, asked: Completions) -> Iterator[Measurement]:
    """The mean error of the hidden part, before and after, and its relative change."""
    for ending, found in (("", asked.after), ("_before", asked.before)):
        yield from attempt((name + ending,), lambda found=found: (mean_error(found),), len(asked))  # type: ignore[misc]
    yield from change(asked.before, asked.after, f"{name}_change")


def change(before: Completed, after: Completed, name: str = CHANGE) -> Iterator[Measurement]:
    """The relative change of the mean error, or why there is none."""
    yield from attempt((name,), lambda: (relative_change(before.missed(), after.missed(), CONFIDENCE),), len(before))


def mean_error(found: Completed) -> Estimate:
    """Mean squared error of the hidden part. BadInput where some completions are no numbers."""
    return mean_of(found.missed(), CONFIDENCE)


def recognised_difference(asked: Completions) -> Iterator[Measurement]:
    """How much oftener completions are recognised after than before, or why nobody can say."""
    yield from attempt((DIFFERENCE,), lambda: (paired_difference(PairedCounts.of(
        asked.before.right(asked.labels), asked.after.right(asked.labels)), CONFIDENCE),), len(asked))


def kid_ratio(asked: Completions) -> Iterator[Measurement]:
    """KID of completions after over before, of every other image against the others."""
    first, others = asked.halves
    real = asked.image.as_real(asked.labels)[others]
    before, after = ((found.features[first], np.ones(int(first.sum()), np.bool_))
                     for found in (asked.before, asked.after))
    yield from ratio_of(before, after, real)


def looks_of(prefix: str, asked: Completions) -> Iterator[Measurement]:
    """FID and KID of completions against other images of the same classes, and the scores, each before and after."""
    first, others = asked.halves
    real = asked.image.features[others]
    for ending, found in (("", asked.after), ("_before", asked.before)):
        yield from attempt((f"{prefix}fid{ending}",), lambda found=found: (  # type: ignore[misc]
            fid(found.features[first], real),), int(first.sum()))
        yield from attempt((f"{prefix}kid{ending}",), lambda found=found: (_kid(found.features[first], real),),  # type: ignore[misc]
                           int(first.sum()))
    yield from scores_of(prefix, asked)


def _kid(completions: NDArray[np.float32], images: NDArray[np.float32]) -> Estimate:
    scale = np.float64(unit_scale(images))
    return kid(completions * scale, images * scale, confidence=CONFIDENCE)


def scores_of(prefix: str, asked: Completions) -> Iterator[Measurement]:
    """How near completions are to their images in features, and how sure and how varied the judge finds them."""
    for ending, found in (("", asked.after), ("_before", asked.before)):
        yield from attempt((f"{prefix}cosine{ending}",), lambda found=found: (  # type: ignore[misc]
            mean_of(cosines(found, asked.image), CONFIDENCE),), len(asked))
        yield from attempt((f"{prefix}inception_score{ending}",), lambda found=found: (  # type: ignore[misc]
            inception_score(found),), len(asked))


def cosines(found: Completed, image: Completed) -> NDArray[np.float64]:
    """[n] between the features of a completion and those of the image. BadInput where either has no length."""
    found.refuse_spoiled()
    ours, theirs = (each.features.astype(np.float64) for each in (found, image))
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    if not (lengths > 0).all():
        raise BadInput(f"judge: of {int((~(lengths > 0)).sum())} images every feature is zero", "bring another judge")
    return np.asarray((ours * theirs).sum(axis=1) / lengths)


def inception_score(found: Completed) -> float:
    """The exponential of the mean divergence of one completion's class probabilities from all completions' mean."""
    found.refuse_spoiled()
    if not len(found):
        raise BadInput("holdout: it has no such image", "hold out some of every class that is asked about")
    each = found.probabilities.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = np.where(each > 0, each * (np.log(each) - np.log(each.mean(axis=0))), 0.0)
    return float(np.exp(apart.sum(axis=1).mean()))


