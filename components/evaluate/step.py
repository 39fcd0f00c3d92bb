"""The room `evaluate`: asks the family's questions, and writes a report that anyone can recompute."""

from collections.abc import Callable
from pathlib import Path

from components.evaluate.classifiers import evaluate_classifier
from components.evaluate.flows import evaluate_flow
from components.evaluate.generators import evaluate_generator
from components.evaluate.given import Given
from components.evaluate.image_to_image import evaluate_image_to_image
from components.evaluate.page import render_page
from expunge.contracts import Report, StoredFile, read_record, write_record
from expunge.digests import write_atomically
from expunge.errors import BadInput
from expunge.room import Entered, room

PAGE = "page.html"

FAMILIES: dict[str, Callable[[Entered, Given, Path], Report]] = {
    "gan": evaluate_generator, "classifier": evaluate_classifier, "flow": evaluate_flow,
    "image_to_image": evaluate_image_to_image}


@room(outputs=("report",))
def evaluate(
    entered: Entered,
    *,
    request: Path,
    policy: Path,
    checkpoint: Path,
    candidate: Path,
    oracle: Path,
    judge: Path,
    extractor: Path,
    reference: Path,
    origin: Path,
    forget: Path,
    retain: Path,
    holdout: Path,
    members: Path,
    report: Path,
    audit: str = "",
) -> None:
    """Measures `candidate` against its parent on the same latents and writes the report's folder.

    The number of samples is fixed by the request before anything is seen, unless it asks for sequential sampling.
    The latents come from H(candidate digest || request digest), so that nobody can tune a candidate to them. An `audit`
    is a number drawn for one later look at what was released: the latents then come from it as well.
    """
    given = Given.open(
        request=request, policy=policy, checkpoint=checkpoint, candidate=candidate, oracle=oracle, judge=judge,
        extractor=extractor, reference=reference, origin=origin, forget=forget, retain=retain, holdout=holdout,
        members=members, audit=audit)
    family = given.candidate.record.family
    if family not in FAMILIES:
        raise BadInput(f"candidate: nothing is known of how to evaluate a {family}", f"use {', '.join(FAMILIES)}")
    found = FAMILIES[family](entered, given, report)
    write_record(report, found)
    write_atomically(report / PAGE, render_page(report).encode())
    write_record(report, found.model_copy(update={"files": (*found.files, StoredFile.of(report / PAGE))}))


def show(report: Path, page: Path) -> dict[str, float]:
    """Copies a report's page to `page` and returns its numbers by name, for an engine's own displays."""
    write_atomically(page, (report / PAGE).read_bytes())
    measured = read_record(Report, report).measurements
    return {found.name: found.estimate for found in measured if found.estimate is not None}
