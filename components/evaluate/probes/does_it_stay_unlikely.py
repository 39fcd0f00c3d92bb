"""Does what was forgotten before stay unlikely to a flow, and what did all the requests cost together?"""

from collections.abc import Iterator

from components.evaluate.evidence import absent, not_applicable
from components.evaluate.evidence_of_flows import FlowEvidence
from components.evaluate.probes.does_it_stay_forgotten import NO_ORIGIN, NOTHING_BEFORE
from components.evaluate.probes.is_its_class_unlikely import share
from components.evaluate.probes.is_the_rest_as_likely import change
from expunge.contracts import Measurement
from expunge.measure.likelihoods import UNLIKELY

EARLIER, DRIFT = "unlikely_share_earlier", "bits_per_dim_drift"
ONLY_IMAGES = "earlier requests were about single images, and their classes stay"


def does_it_stay_unlikely(evidence: FlowEvidence) -> Iterator[Measurement]:
    """`unlikely_share_earlier` and `..._before`, of held-out images of the classes that earlier requests were about."""
    if not evidence.earlier:
        yield from not_applicable((EARLIER, f"{EARLIER}_before"),
                                  ONLY_IMAGES if evidence.came_before else NOTHING_BEFORE)
        return
    asked = evidence.held_out
    for ending, found, retain in (("", asked.after, evidence.retain.after),
                                  ("_before", asked.before, evidence.retain.before)):
        yield from share(EARLIER + ending, found, asked.labels, evidence.earlier, retain, UNLIKELY)


def what_all_requests_took(evidence: FlowEvidence) -> Iterator[Measurement]:
    """`bits_per_dim_drift`: how much less likely the rest is than it was to the first model of the chain.

    It is `bits_per_dim_change` with the chain's first model in the parent's place, at the same points of the same
    images: any number of small steps pass that one, and this one adds them up. The rest is what no request was about as
    a class; after requests about single images there is a drift as well.
    """
    if not evidence.came_before:
        yield from not_applicable((DRIFT,), NOTHING_BEFORE)
    elif evidence.first is None:
        yield from absent((DRIFT,), evidence.no_first or NO_ORIGIN)
    else:
        first, kept = evidence.first, evidence.kept
        yield from change(first[kept], evidence.held_out[kept].after, DRIFT)
