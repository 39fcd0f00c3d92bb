"""Is it gone, of a classifier: how often it still names held-out images of the unwanted classes right."""

from collections.abc import Iterator

from components.evaluate.evidence import CONFIDENCE, Answers, ClassifierEvidence, attempt
from expunge.contracts import Measurement
from expunge.measure.proportions import rate


def is_it_still_recognised(evidence: ClassifierEvidence) -> Iterator[Measurement]:
    """`forget_accuracy` and `forget_accuracy_before`, with exact intervals.

    Right is what the image's label says: one unwanted class taken for another is wrong. Of several unwanted classes,
    each has its `forget_accuracy[class]`: one that stays cannot hide behind the others.
    """
    for ending, answers in (("", evidence.after), ("_before", evidence.before)):
        yield from accuracy(f"forget_accuracy{ending}", answers.of(evidence.unwanted))
        for label in evidence.unwanted if len(evidence.unwanted) > 1 else ():
            yield from accuracy(f"forget_accuracy{ending}[{evidence.name(label)}]", answers.of((label,)))


def accuracy(name: str, answers: Answers) -> Iterator[Measurement]:
    """The share of right answers under that name, or why there is none."""
    yield from attempt((name,), lambda: (rate(answers.right, CONFIDENCE),), len(answers.labels))
