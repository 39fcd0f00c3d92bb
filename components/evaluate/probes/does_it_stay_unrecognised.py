"""Does what was forgotten before stay forgotten, of a classifier, and what did all the requests cost together?"""

from collections.abc import Iterator

from components.evaluate.evidence import CONFIDENCE, ClassifierEvidence, absent, attempt, not_applicable
from components.evaluate.probes.does_it_stay_forgotten import NO_ORIGIN, NOTHING_BEFORE
from components.evaluate.probes.is_it_still_recognised import accuracy
from expunge.contracts import Measurement
from expunge.measure.proportions import PairedCounts, paired_difference

EARLIER, DRIFT = "forget_accuracy_earlier", "retained_accuracy_drift"


def does_it_stay_unrecognised(evidence: ClassifierEvidence) -> Iterator[Measurement]:
    """`forget_accuracy_earlier` and `forget_accuracy_earlier_before`; of several earlier classes, also class by class.

    As `forget_accuracy`, of held-out images of the classes that earlier requests were about.
    """
    names = EARLIER, f"{EARLIER}_before"
    if not evidence.earlier:
        yield from not_applicable(names, NOTHING_BEFORE)
        return
    for name, answers in zip(names, (evidence.after, evidence.before), strict=True):
        yield from accuracy(name, answers.of(evidence.earlier))
        for label in evidence.earlier if len(evidence.earlier) > 1 else ():
            yield from accuracy(f"{name}[{evidence.name(label)}]", answers.of((label,)))


def what_all_requests_cost(evidence: ClassifierEvidence) -> Iterator[Measurement]:
    """`retained_accuracy_drift`: accuracy of the candidate less that of the first model of the chain, on the rest.

    It is `retained_accuracy_difference` with the chain's first model in the parent's place, on the same images: any
    number of small steps pass that one, and this one adds them up. The rest is what no request was about.
    """
    if not evidence.earlier:
        yield from not_applicable((DRIFT,), NOTHING_BEFORE)
        return
    if evidence.origin is None:
        yield from absent((DRIFT,), NO_ORIGIN)
        return
    first, last = (answers.of(evidence.lost, otherwise=True) for answers in (evidence.origin, evidence.after))
    yield from attempt((DRIFT,), lambda: (
        paired_difference(PairedCounts.of(first.right, last.right), CONFIDENCE),), len(last.labels))
