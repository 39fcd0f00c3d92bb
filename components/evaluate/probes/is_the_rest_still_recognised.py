"""Is the rest still good, of a classifier: how often it names images of the other classes right, and what that cost."""

from collections.abc import Iterator

from components.evaluate.evidence import CONFIDENCE, ClassifierEvidence, attempt
from components.evaluate.probes.is_it_still_recognised import accuracy
from expunge.contracts import Measurement
from expunge.measure.proportions import PairedCounts, paired_difference


def is_the_rest_still_recognised(evidence: ClassifierEvidence) -> Iterator[Measurement]:
    """`retained_accuracy`, `retained_accuracy_before` and `retained_accuracy_difference`, after minus before.

    The same images are asked before and after, so the difference has a paired interval: only answers that changed
    make it wide (see `proportions.paired_difference`).
    """
    before, after = (answers.of(evidence.lost, otherwise=True) for answers in (evidence.before, evidence.after))
    yield from accuracy("retained_accuracy", after)
    yield from accuracy("retained_accuracy_before", before)
    yield from attempt(("retained_accuracy_difference",), lambda: (
        paired_difference(PairedCounts.of(before.right, after.right), CONFIDENCE),), len(after.labels))
