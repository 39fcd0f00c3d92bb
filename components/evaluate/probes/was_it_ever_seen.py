"""Did it ever see it? Membership inference: members against non-members of the same category, both ways."""

from collections.abc import Iterator

from components.evaluate.evidence import (
    CONFIDENCE,
    ClassifierEvidence,
    Evidence,
    absent,
    attempt,
    not_applicable,
)
from components.evaluate.evidence_of_completions import CompletionEvidence
from components.evaluate.evidence_of_flows import FlowEvidence
from expunge.contracts import Measurement
from expunge.measure.ranks import auc


def was_it_ever_seen(evidence: Evidence) -> Iterator[Measurement]:
    """`membership_auc`: how often the attack ranks a member above a non-member of the same classes.

    One half is what a model that never saw either would give. Above it the members are still there; far below it
    the model shuns them more than an honest stranger would, which is over-unlearning.
    """
    yield from _asked(
        evidence, "the generator's own samples to be forgotten were never members of its training set; name its "
        "training images of the class (members) to ask about those")


def was_it_ever_learned(evidence: ClassifierEvidence | FlowEvidence | CompletionEvidence) -> Iterator[Measurement]:
    """`membership_auc`, which reads as a generator's does.

    Of a classifier it goes by losses, of a flow by likelihood, of an image-to-image model by how well it completes.
    """
    yield from _asked(
        evidence, "the request names no members, images of the unwanted classes that the parent was trained on: there "
        "is nobody to ask about")


def _asked(evidence: Evidence | ClassifierEvidence | FlowEvidence | CompletionEvidence, without: str
           ) -> Iterator[Measurement]:
    """The AUC, why there is none, or `without`, why none was asked for."""
    found = evidence.membership
    if found is not None:
        yield from attempt(
            ("membership_auc",), lambda: (auc(found.members, found.others, CONFIDENCE),), len(found.members))
    elif evidence.not_compared:
        yield from absent(("membership_auc",), evidence.not_compared)
    else:
        yield from not_applicable(("membership_auc",), without)
