"""Can the judge be believed? How sure it is of generated images, and how often it is right on real ones."""

from collections.abc import Iterator

from components.evaluate.evidence import CONFIDENCE, Evidence, Measured, attempt
from expunge.contracts import Measurement
from expunge.errors import BadInput
from expunge.measure.proportions import rate


def is_the_judge_sure(evidence: Evidence) -> Iterator[Measurement]:
    """`judge_confidence` after and before (plain means), and `judge_accuracy` on the held-out images.

    A judge that becomes unsure on the candidate's samples is a sign of images that are no class at all,
    which neither the residual rate nor PUL would tell from forgetting.
    """
    after, before = evidence.after.confidence, evidence.before.confidence
    right = evidence.real.seen.classes == evidence.real.labels

    def means() -> tuple[Measured, ...]:
        if not len(after):
            raise BadInput("samples: there is none", "draw at least one")
        return float(after.mean()), float(before.mean())

    yield from attempt(("judge_confidence", "judge_confidence_before"), means, len(after))
    yield from attempt(("judge_accuracy",), lambda: (rate(right, CONFIDENCE),), len(right))
