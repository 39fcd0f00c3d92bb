"""The sample sets of a request about a classifier: real images, sorted by the labels that came with them.

There is nothing to draw, and no oracle to ask. Every label is put into the numbers of the classifier's own outputs,
so that whoever learns from a set can compare it with them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.curate_forget_set.labelled import NOTHING_ELSE, Numbering, RealImages, members_of
from expunge.contracts import Checkpoint, DataSource, Request, read_record
from expunge.errors import BadInput, NotNeeded
from expunge.evidence.coherence import read_policy
from expunge.measure.policy import rules_for
from expunge.measure.proportions import clopper_pearson
from expunge.room import Entered
from expunge.samples import NewSampleSet

if TYPE_CHECKING:
    from expunge.models import Classifier

BATCH = 500
STRANGER = "leave them out, or bring a classifier that knows them"  # what to do with images of another class
REMEDY = "check the images' labels, checkpoint.classes, checkpoint.range and checkpoint.channels"


def sets_of_classifier(entered: Entered, wanted: Request, parent: "Classifier", checkpoint: Path, oracle: Path,
                       policy: Path) -> list[NewSampleSet]:
    """`forget` and `retain` from the training images, `holdout`, and `members` if the request names any.

    Raises:
        BadInput: a class that is to be forgotten has no image to learn or to measure by, or nothing else has; an
            image is of a class that the classifier does not know, or of another size than the held-out ones; the
            classifier names the held-out images no better than one that always gives the same answer.
        NotNeeded: it already names fewer of the unwanted right than the policy allows a candidate.
    """
    assert wanted.training is not None  # fetch_checkpoint has seen to that
    held = RealImages.open("holdout", wanted.holdout, entered.workspace)
    shape, names = held.table.images.shape[1:], read_record(Checkpoint, checkpoint).interface.classes
    answers, count = _answers(parent, held.table.images)
    by = Numbering("the checkpoint", names, count, wanted.forget.numbers("the checkpoint", names, count),
                   wanted.forget.earlier_numbers("the checkpoint", names, count))

    def opened(field: str, source: DataSource) -> RealImages:
        return RealImages.open(field, source, entered.workspace).of_shape(shape, "those of holdout").numbered(
            by, STRANGER)

    held = held.numbered(by, STRANGER)
    training = opened("training", wanted.training)
    training.refuse_without(by)
    held.refuse_without(by, NOTHING_ELSE)
    _refuse_blind(answers, held.table.labels, by.lost)
    _stop_if_not_needed(answers, held.table.labels, by.unwanted, policy)

    # What was forgotten before is not to be kept; where there are images of it, they help to keep it away.
    lost = np.isin(training.table.labels, by.lost)
    sets = [training.set("forget", lost, by), training.set("retain", ~lost, by), held.set("holdout", slice(None), by)]
    if wanted.members is not None:
        members = opened("members", wanted.members)
        sets.append(members_of(np.isin(members.table.labels, by.unwanted), members, by))
    entered.note(f"{int(lost.sum())} images to forget and {int((~lost).sum())} to keep, by their labels")
    lacking = [by.called(label) for label in range(count)
               if label not in training.table.labels and label not in by.earlier]
    if lacking:
        entered.note(f"training has no image of {', '.join(lacking)}: nothing reminds the classifier of it")
    return sets


def _answers(model: "Classifier", images: NDArray[np.float32]) -> tuple[NDArray[np.int64], int]:
    """What it takes images [N, C, H, W] for, [N], and how many classes it tells apart."""
    import torch

    with torch.inference_mode():
        parts = [model(batch) for batch in torch.from_numpy(images).split(BATCH)]
    return torch.cat([part.argmax(1) for part in parts]).numpy(), parts[0].shape[1]


def _refuse_blind(answers: NDArray[np.int64], labels: NDArray[np.int64], lost: tuple[int, ...]) -> None:
    """BadInput if it is certainly not better on what is to stay than one answer for everything."""
    kept = ~np.isin(labels, lost)
    right, n = int((answers == labels)[kept].sum()), int(kept.sum())
    commonest = int(np.bincount(labels[kept]).max())
    if clopper_pearson(right, n).upper < commonest / n:
        raise BadInput(f"checkpoint: it names {right} of {n} held-out images of what is to stay right, one answer for "
                       f"all would be right for {commonest}", REMEDY)


def _stop_if_not_needed(answers: NDArray[np.int64], labels: NDArray[np.int64], unwanted: tuple[int, ...],
                        policy: Path) -> None:
    """NotNeeded if what it names right of the unwanted already lies under the policy's limit, interval included."""
    limits = [rule for rule in rules_for(read_policy(policy), "classifier") if rule.metric == "forget_accuracy"]
    asked = np.isin(labels, unwanted)
    right, n = int((answers == labels)[asked].sum()), int(asked.sum())
    if limits and (most := clopper_pearson(right, n, limits[0].confidence).upper) <= limits[0].limit:
        raise NotNeeded(
            f"the model does not need it: it names {right} of {n} held-out images of the unwanted right, at most "
            f"{most:.2%}, the policy allows {limits[0].limit:.2%}".replace("%", " %"), "nothing was changed")
