"""The questions asked of a candidate, one file each, by model family."""

from collections.abc import Callable, Iterator
from typing import Any

from components.evaluate.evidence import ClassifierEvidence, ClassifierProbe, Evidence, Probe
from components.evaluate.evidence_of_completions import CompletionEvidence
from components.evaluate.evidence_of_flows import FlowEvidence
from components.evaluate.probes.can_it_be_found import can_it_be_found
from components.evaluate.probes.does_it_stay_forgotten import does_it_stay_forgotten, how_far_has_it_drifted
from components.evaluate.probes.does_it_stay_uncompleted import does_it_stay_uncompleted, what_all_requests_add
from components.evaluate.probes.does_it_stay_unlikely import does_it_stay_unlikely, what_all_requests_took
from components.evaluate.probes.does_it_stay_unrecognised import does_it_stay_unrecognised, what_all_requests_cost
from components.evaluate.probes.how_fast_does_it_come_back import (
    how_fast_does_it_come_back,
    how_fast_is_it_completed_again,
)
from components.evaluate.probes.is_it_gone import is_it_gone, is_it_gone_behind_the_judge
from components.evaluate.probes.is_it_like_one_that_never_knew import is_it_like_one_that_never_knew
from components.evaluate.probes.is_it_still_completed import is_it_still_completed
from components.evaluate.probes.is_it_still_recognised import is_it_still_recognised
from components.evaluate.probes.is_it_still_told_apart import is_it_still_told_apart
from components.evaluate.probes.is_it_unlikely import is_it_unlikely
from components.evaluate.probes.is_its_class_unlikely import is_its_class_unlikely
from components.evaluate.probes.is_the_judge_sure import is_the_judge_sure
from components.evaluate.probes.is_the_rest_as_likely import is_the_rest_as_likely
from components.evaluate.probes.is_the_rest_completed_as_well import is_the_rest_completed_as_well
from components.evaluate.probes.is_the_rest_still_good import is_the_rest_still_good
from components.evaluate.probes.is_the_rest_still_recognised import is_the_rest_still_recognised
from components.evaluate.probes.is_what_it_draws_still_good import is_what_it_draws_still_good
from components.evaluate.probes.was_it_ever_seen import was_it_ever_learned, was_it_ever_seen
from components.evaluate.probes.what_of_its_like import what_of_its_like
from expunge.contracts import Measurement
from expunge.errors import BadInput

GAN: tuple[Probe, ...] = (
    is_it_gone, is_it_gone_behind_the_judge, is_the_rest_still_good, was_it_ever_seen, can_it_be_found,
    how_fast_does_it_come_back, is_it_like_one_that_never_knew, is_the_judge_sure, does_it_stay_forgotten,
    how_far_has_it_drifted)
CLASSIFIER: tuple[ClassifierProbe, ...] = (
    is_it_still_recognised, is_the_rest_still_recognised, is_it_still_told_apart, was_it_ever_learned,
    how_fast_does_it_come_back, does_it_stay_unrecognised, what_all_requests_cost)
FLOW: tuple[Callable[[FlowEvidence], Iterator[Measurement]], ...] = (
    is_it_unlikely, is_its_class_unlikely, what_of_its_like, is_the_rest_as_likely, is_what_it_draws_still_good,
    was_it_ever_learned, does_it_stay_unlikely, what_all_requests_took)
IMAGE_TO_IMAGE: tuple[Callable[[CompletionEvidence], Iterator[Measurement]], ...] = (
    is_it_still_completed, is_the_rest_completed_as_well, was_it_ever_learned, how_fast_is_it_completed_again,
    does_it_stay_uncompleted, what_all_requests_add)

# Each family's probes look at that family's evidence, so what they take is not one type.
PROBES: dict[str, tuple[Callable[[Any], Iterator[Measurement]], ...]] = {
    "gan": GAN, "classifier": CLASSIFIER, "flow": FLOW, "image_to_image": IMAGE_TO_IMAGE}


def ask(family: str, evidence: Evidence | ClassifierEvidence | FlowEvidence | CompletionEvidence
        ) -> tuple[Measurement, ...]:
    """Every measurement of a family's probes. BadInput for a family that has none."""
    if family not in PROBES:
        raise BadInput(
            f"candidate: no probes for models of family '{family}'", f"use {', '.join(sorted(PROBES))}"
        )
    return tuple(found for probe in PROBES[family] for found in probe(evidence))
