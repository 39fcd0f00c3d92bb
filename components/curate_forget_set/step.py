"""Curate forget set: what is unwanted, what is wanted, and what is held back for evaluation.

Where the images come from, and who says what is unwanted in them, depends on the model's family: a generator's are its
own samples, as an oracle or a person sorts them (`generators.py`); a classifier's are real ones, by the labels that
they came with (`classifiers.py`); those of a flow or an image-to-image model as well, whole classes of them or single
ones (`given_images.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.curate_forget_set.classifiers import sets_of_classifier
from components.curate_forget_set.generators import sets_of_generator
from components.curate_forget_set.given_images import sets_of_flow, sets_of_image_to_image
from expunge.contracts import Absent, Checkpoint, Family, Request, SampleRole, read_record, write_record
from expunge.digests import sha256_file
from expunge.room import Entered, room
from expunge.samples import NewSampleSet, RequestKey, refuse_overlap, write_sample_sets


@dataclass(frozen=True)
class _Family:
    """How the sets of a family's requests are made, and why there are none of the model's own samples if so."""

    sets: Callable[[Entered, Request, Any, Path, Path, Path], list[NewSampleSet]]
    draws_none: str = ""


FAMILIES: dict[Family, _Family] = {
    "gan": _Family(sets_of_generator),
    "classifier": _Family(sets_of_classifier, "a classifier draws nothing of its own"),
    "flow": _Family(sets_of_flow, "a flow is asked about given images, not about what it draws"),
    "image_to_image": _Family(sets_of_image_to_image, "it completes given images, and draws none of its own"),
}


@room(outputs=("negative", "positive", "forget", "retain", "holdout", "members"))
def curate_forget_set(entered: Entered, *, request: Path, checkpoint: Path, oracle: Path, policy: Path, negative: Path,
                      positive: Path, forget: Path, retain: Path, holdout: Path, members: Path) -> None:
    """Draws where the model can, labels, encrypts and versions the sample sets; says of the others why there are none.

    Raises:
        BadInput: the request matches nothing, or too little; what says so is no good; the sets overlap; the images do
            not suit the model.
        NotNeeded: the parent shows less of the unwanted than the policy allows a candidate.
    """
    import torch

    from expunge import models

    wanted, came = read_record(Request, request), read_record(Checkpoint, checkpoint)
    torch.set_num_threads(wanted.threads)
    family = FAMILIES[came.family]
    sets = family.sets(entered, wanted, models.load_recorded(checkpoint, came), checkpoint, oracle, policy)
    key = RequestKey.load_or_create(entered.workspace, wanted.id)
    refuse_overlap(key, sets)
    made = {record.role: record
            for record in write_sample_sets(entered.workspace, key, wanted, sha256_file(request), sets)}
    outputs: dict[SampleRole, Path] = {"negative": negative, "positive": positive, "forget": forget, "retain": retain,
                                       "holdout": holdout, "members": members}
    for role, folder in outputs.items():
        why = family.draws_none if role in ("negative", "positive") else (
            f"the request names no {'members' if role == 'members' else 'training'}")
        write_record(folder, made[role] if role in made else Absent(reason=why))
