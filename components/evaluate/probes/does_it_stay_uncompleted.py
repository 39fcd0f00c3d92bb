"""Does what was forgotten before stay forgotten, of an image-to-image model, and what did all the requests cost?"""

from collections.abc import Iterator

from components.evaluate.evidence import absent, attempt, not_applicable
from components.evaluate.evidence_of_completions import CompletionEvidence
from components.evaluate.probes.does_it_stay_forgotten import NO_ORIGIN, NOTHING_BEFORE
from components.evaluate.probes.is_it_still_completed import EXCESS, excess_of
from components.evaluate.probes.is_the_rest_completed_as_well import change
from expunge.contracts import Measurement

EARLIER, DRIFT = f"{EXCESS}_earlier", "hidden_error_drift"


def does_it_stay_uncompleted(evidence: CompletionEvidence) -> Iterator[Measurement]:
    """`recognised_excess_earlier` and `..._before`, of held-out images of the classes that earlier requests were about.

    As `recognised_excess`, of what this request is not about.
    """
    for ending in ("", "_before"):
        if not evidence.earlier:
            yield from not_applicable((EARLIER + ending,), NOTHING_BEFORE)
        else:
            yield from attempt((EARLIER + ending,), lambda ending=ending: (  # type: ignore[misc]
                excess_of(evidence.before, ending),), len(evidence.before))


def what_all_requests_add(evidence: CompletionEvidence) -> Iterator[Measurement]:
    """`hidden_error_drift`: how much worse the rest is completed than by the first model of the chain.

    It is `hidden_error_change` with the chain's first model in the parent's place, on the same images: any number of
    small steps pass that one, and this one adds them up. The rest is what no request was about.
    """
    if not evidence.earlier:
        yield from not_applicable((DRIFT,), NOTHING_BEFORE)
        return
    first = evidence.rest.more.get("origin")
    if first is None:
        yield from absent((DRIFT,), evidence.absent.get("origin", NO_ORIGIN))
        return
    yield from change(first, evidence.rest.after, DRIFT)
