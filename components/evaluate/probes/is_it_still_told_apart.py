"""Is it still there inside, of a classifier: do its features tell the unwanted classes apart, whatever its head says?

FPA_e of Singh, Mazumder and Karim (ECCV 2022), as we read it: a class's prototype is the mean of its images' features,
an image is given to the class whose prototype is nearest, and what counts is how often that is right for images of the
unwanted classes. Our reading: all classes have prototypes, and they are made of held-out images, every other one of
each class, while the rest are asked. Training images would not do: the method has pushed those.

Zero is not the aim: features that were never taught a class tell it apart as well, often. What a model that never
knew comes to is, so the candidate is held against the reference, on the same images.

The other question is plainer: with the parent's last layer put back onto the candidate's features, is the unwanted
named again? Where only the head was cut off it is, as often as by the parent; of features that never knew, or were
changed, the parent's layer makes little. The probe is ours, not the paper's.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import CONFIDENCE, Answers, ClassifierEvidence, absent, attempt
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.proportions import PairedCounts, paired_difference, rate

DIFFERENCE, OF_REFERENCE = "prototype_accuracy_difference", "prototype_accuracy_never_exposed"


def is_it_still_told_apart(evidence: ClassifierEvidence) -> Iterator[Measurement]:
    """`grafted_accuracy`; `prototype_accuracy` of all three models, and the candidate's minus the reference's."""
    of_it = np.isin(evidence.after.labels, evidence.unwanted)
    if evidence.grafted is None:
        yield from absent(("grafted_accuracy",), "the parent's features do not enter a last linear layer that could be "
                          "put back, or the candidate's have another size")
    else:
        right = (evidence.grafted == evidence.after.labels)[of_it]
        yield from attempt(("grafted_accuracy",), lambda: (rate(right, CONFIDENCE),), len(right))
    unwanted, reference = evidence.unwanted, evidence.reference
    asked = [("prototype_accuracy", evidence.after), ("prototype_accuracy_before", evidence.before)]
    n = int(_asked(evidence.after.labels, unwanted).sum())
    for name, answers in asked:
        yield from attempt((name,), lambda answers=answers: (  # type: ignore[misc]
            rate(nearest_is_right(answers, unwanted), CONFIDENCE),), n)
    if reference is None:
        yield from absent((OF_REFERENCE, DIFFERENCE), evidence.no_reference or (
            "the request names no reference, a classifier that never saw the unwanted"))
        return
    yield from attempt((OF_REFERENCE,), lambda: (rate(nearest_is_right(reference, unwanted), CONFIDENCE),), n)
    yield from attempt((DIFFERENCE,), lambda: (paired_difference(PairedCounts.of(
        nearest_is_right(reference, unwanted), nearest_is_right(evidence.after, unwanted)), CONFIDENCE),), n)


def nearest_is_right(answers: Answers, unwanted: tuple[int, ...]) -> NDArray[np.bool_]:
    """Of the images of the unwanted classes that are asked about: whose nearest prototype is their class's."""
    asked = _asked(answers.labels, unwanted)
    return np.asarray((nearest(answers, unwanted) == answers.labels)[asked])


def nearest(answers: Answers, unwanted: tuple[int, ...]) -> NDArray[np.int64]:
    """[n] the class whose prototype is nearest to an image that is asked about, -1 for any other.

    Raises:
        BadInput: a class has no image to make its prototype of, or none to ask about; features are no numbers.
    """
    labels, features = answers.labels, answers.features
    asked = _asked(labels, unwanted)
    if set(labels[asked]) != set(unwanted):
        raise BadInput("holdout: of an unwanted class it has fewer than two images",
                       "hold out more: half make the prototype, half are asked about")
    if not np.isfinite(features).all():
        raise BadInput(f"{answers.model}: its features are not finite numbers", "check its weights")
    made_of = ~_asked(labels, tuple(np.unique(labels)))
    there = np.unique(labels[made_of])
    prototypes = np.stack([features[made_of & (labels == label)].mean(axis=0) for label in there])
    distances = np.square(features[asked][:, None] - prototypes[None]).sum(axis=2)
    found = np.full(len(labels), -1, np.int64)
    found[asked] = there[distances.argmin(axis=1)]
    return found


def _asked(labels: NDArray[np.int64], classes: tuple[int, ...]) -> NDArray[np.bool_]:
    """[n] every other image of each of these classes, from its second on."""
    chosen = np.zeros(len(labels), np.bool_)
    for label in classes:
        chosen[np.flatnonzero(labels == label)[1::2]] = True
    return chosen
