"""Curate forget set: what is unwanted, what is wanted, and what is held back for evaluation.

The checkpoint draws samples of its own; the oracle, or a person's labels, says which are unwanted. What the
oracle is unsure of goes into neither set: a wrong negative teaches the method to lose the wrong thing.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from expunge.contracts import Checkpoint, Request, Source, read_record, write_record
from expunge.digests import sha256_file
from expunge.errors import BadInput
from expunge.room import Entered, room
from expunge.samples import NewSampleSet, RequestKey, SampleTable, refuse_overlap, write_sample_sets
from expunge.stores import sources

UNWANTED_FROM = 0.5  # more likely unwanted than not
WANTED_BELOW = 0.05  # clearly something else
FEWEST_NEGATIVES = 20  # the papers' smallest forget set (MNIST: 200 draws, one digit in ten)
BATCH = 500


@room(outputs=("negative", "positive", "holdout"))
def curate_forget_set(entered: Entered, *, request: Path, checkpoint: Path, oracle: Path, negative: Path,
                      positive: Path, holdout: Path) -> None:
    """Draws, labels, encrypts and versions the three sample sets.

    Raises:
        BadInput: the request matches nothing that the model draws, or too little; the sets overlap.
    """
    wanted = read_record(Request, request)
    drawn = _draw(entered, checkpoint, wanted)
    unwanted, clearly_wanted, labels = (
        _ask_person(entered, wanted.labels, wanted, len(drawn)) if wanted.labels
        else _ask_oracle(oracle, drawn, wanted))
    _refuse_too_few(int(unwanted.sum()), int(clearly_wanted.sum()), len(drawn), wanted)
    entered.note(f"{int(unwanted.sum())} unwanted and {int(clearly_wanted.sum())} wanted of {len(drawn)} drawn")

    labelled = SampleTable(drawn.images, labels, drawn.latents)
    judged_by = ("labels", sources.digest("labels", wanted.labels, entered.workspace)) if wanted.labels else (
        "oracle", sha256_file(oracle / "record.json"))
    made_from = dict([("checkpoint", sha256_file(checkpoint / "record.json")), judged_by])
    sets = [
        NewSampleSet("negative", labelled[unwanted], made_from),
        NewSampleSet("positive", labelled[clearly_wanted], made_from),
        NewSampleSet("holdout", sources.images("holdout", wanted.holdout, entered.workspace).table,
                     {"source": sources.digest("holdout", wanted.holdout, entered.workspace)}),
    ]
    key = RequestKey.load_or_create(entered.workspace, wanted.id)
    refuse_overlap(key, sets)
    written = write_sample_sets(entered.workspace, key, wanted, sha256_file(request), sets)
    for folder, record in zip((negative, positive, holdout), written, strict=True):
        write_record(folder, record)


def _draw(entered: Entered, checkpoint: Path, request: Request) -> SampleTable:
    """Samples of the parent, from latents that the request's seed decides; labels are not known yet."""
    import torch

    from expunge import models

    torch.set_num_threads(request.threads)
    parent = models.load_recorded(checkpoint, read_record(Checkpoint, checkpoint))
    if not isinstance(parent, models.Gan):
        raise BadInput("checkpoint: it is no generator", "only a generator can draw its own forget set")
    random = torch.Generator().manual_seed(request.seed)
    latents = parent.draw_latents(request.sampling.curate, random)
    with torch.inference_mode():
        images = [parent(batch) for batch in latents.split(BATCH)]
    unknown = np.full(len(latents), -1, np.int64)
    return SampleTable(torch.cat(images).numpy(), unknown, latents.numpy())


def _ask_oracle(oracle: Path, drawn: SampleTable, request: Request) -> tuple[
        NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    import torch

    from expunge import models

    classifier = models.load_recorded(oracle, read_record(Checkpoint, oracle))
    with torch.inference_mode():
        logits = torch.cat([classifier(batch) for batch in torch.from_numpy(drawn.images).split(BATCH)])
    _refuse_unknown_classes(request, logits.shape[1])
    probability = logits.softmax(1)[:, list(request.forget.classes)].sum(1).numpy()
    labels = logits.argmax(1).numpy()
    clearly_wanted = (probability < WANTED_BELOW) & ~np.isin(labels, request.forget.classes)
    return probability >= UNWANTED_FROM, clearly_wanted, labels


def _ask_person(entered: Entered, source: Source, request: Request, count: int) -> tuple[
        NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Labels from a CSV file with the columns `index` (of the draw) and `label`; what is not listed is unsure."""
    labels = np.full(count, -1, np.int64)
    with sources.model_file("labels", source, entered.workspace).open(newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            try:
                index, label = int(row["index"]), int(row["label"])
            except (KeyError, TypeError, ValueError):
                raise BadInput(f"labels: line {line} of {source.uri} has no whole numbers 'index' and 'label'",
                               "write a CSV file with these two columns") from None
            if not 0 <= index < count:
                raise BadInput(f"labels: line {line} names sample {index}, {count} were drawn",
                               "label the samples of this request's draw")
            labels[index] = label
    unwanted = np.isin(labels, request.forget.classes)
    return unwanted, (labels >= 0) & ~unwanted, labels


def _refuse_unknown_classes(request: Request, known: int) -> None:
    unknown = [number for number in request.forget.classes if number >= known]
    if unknown:
        raise BadInput(f"forget.classes: the oracle does not know class {unknown[0]}", f"use 0 to {known - 1}")


def _refuse_too_few(unwanted: int, wanted: int, drawn: int, request: Request) -> None:
    if unwanted == 0:
        raise BadInput(f"forget.classes: none of {drawn} samples is unwanted",
                       "the model does not draw it: check the classes, or draw more (sampling.curate)")
    if unwanted < FEWEST_NEGATIVES:
        raise BadInput(f"sampling.curate: only {unwanted} of {drawn} samples are unwanted, not {FEWEST_NEGATIVES}",
                       f"draw at least {drawn * FEWEST_NEGATIVES // unwanted + 1}")
    if wanted < FEWEST_NEGATIVES:
        raise BadInput(f"forget.classes: only {wanted} of {drawn} samples are clearly wanted",
                       "ask for less to be forgotten: a model needs something to keep")
