"""The sample sets of a request about a classifier: real images, sorted by the labels that came with them.

There is nothing to draw, and no oracle to ask. Every label is put into the numbers of the classifier's own outputs,
so that whoever learns from a set can compare it with them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expunge.contracts import DataSource, Request, SampleRole
from expunge.errors import BadInput, NotNeeded
from expunge.evidence.coherence import read_policy
from expunge.measure.policy import rules_for
from expunge.measure.proportions import clopper_pearson
from expunge.room import Entered
from expunge.samples import NewSampleSet, SampleTable, as_known_to
from expunge.settings import Workspace
from expunge.stores import sources

if TYPE_CHECKING:
    from expunge.models import Classifier

BATCH = 500
REMEDY = "check the images' labels, checkpoint.classes, checkpoint.range and checkpoint.channels"


def sets_of_classifier(entered: Entered, wanted: Request, parent: "Classifier", names: tuple[str, ...],
                       policy: Path) -> list[NewSampleSet]:
    """`forget` and `retain` from the training images, `holdout`, and `members` if the request names any.

    Raises:
        BadInput: a class that is to be forgotten has no image to learn or to measure by, or nothing else has; an
            image is of a class that the classifier does not know, or of another size than the held-out ones; the
            classifier names the held-out images no better than one that always gives the same answer.
        NotNeeded: it already names fewer of the unwanted right than the policy allows a candidate.
    """
    assert wanted.training is not None  # fetch_checkpoint has seen to that
    held = _Images.open("holdout", wanted.holdout, entered.workspace)
    shape = held.table.images.shape[1:]
    answers, count = _answers(parent, held.table.images)
    held = held.numbered(names, count)
    unwanted = wanted.forget.numbers("the checkpoint", names, count)
    earlier = wanted.forget.earlier_numbers("the checkpoint", names, count)

    def called(label: int) -> str:
        return names[label] if names else str(label)

    training = _Images.open("training", wanted.training, entered.workspace).of_shape(shape).numbered(names, count)
    for images in (training, held):
        for label in unwanted:
            if label not in images.table.labels:
                raise BadInput(f"{images.role}: no image is of class {called(label)}, which is to be forgotten",
                               "add labelled images of it" + ("" if images is training else ": nothing else could "
                                                              "show that it is forgotten"))
        if np.isin(images.table.labels, (*unwanted, *earlier)).all():
            raise BadInput(f"{images.role}: every image is of a class that is to be forgotten",
                           "add images of what is to stay")
    _refuse_blind(answers, held.table.labels, (*unwanted, *earlier))
    _stop_if_not_needed(answers, held.table.labels, unwanted, policy)

    # What was forgotten before is not to be kept; where there are images of it, they help to keep it away.
    lost = np.isin(training.table.labels, (*unwanted, *earlier))
    sets = [training.set("forget", lost, unwanted, names, earlier),
            training.set("retain", ~lost, unwanted, names, earlier),
            held.set("holdout", slice(None), unwanted, names, earlier)]
    if wanted.members is not None:
        members = _Images.open("members", wanted.members, entered.workspace).of_shape(shape).numbered(names, count)
        asked = np.isin(members.table.labels, unwanted)
        if not asked.any():
            raise BadInput("members: no image is of an unwanted class",
                           "name training images of what is to be forgotten")
        sets.append(members.set("members", asked, unwanted, names, earlier))
    entered.note(f"{int(lost.sum())} images to forget and {int((~lost).sum())} to keep, by their labels")
    lacking = [called(label) for label in range(count) if label not in training.table.labels and label not in earlier]
    if lacking:
        entered.note(f"training has no image of {', '.join(lacking)}: nothing reminds the classifier of it")
    return sets


@dataclass(frozen=True)
class _Images:
    """Labelled images of one field of a request."""

    role: str  # the field that names them
    table: SampleTable
    classes: tuple[str, ...]
    digest: str

    @classmethod
    def open(cls, field: str, source: DataSource, workspace: Workspace) -> "_Images":
        found = sources.images(field, source, workspace)
        return cls(field, found.table, found.classes, sources.digest(field, source, workspace))

    def of_shape(self, shape: tuple[int, ...]) -> "_Images":
        """Themselves, if they have the held-out images' shape [C, H, W]."""
        ours = self.table.images.shape[1:]
        if ours != shape:
            raise BadInput(
                f"{self.role}: its images are {'x'.join(map(str, ours))}, those of holdout {'x'.join(map(str, shape))}",
                f"import them: expunge samples import NAME PATH --size {shape[1]} --channels {shape[0]}")
        return self

    def numbered(self, names: tuple[str, ...], count: int) -> "_Images":
        """The same, labelled by the classifier's own numbers."""
        labels = as_known_to("the checkpoint", self.role, self.table.labels, self.classes, names, count,
                             "leave them out, or bring a classifier that knows them")
        return _Images(self.role, SampleTable(self.table.images, labels), names, self.digest)

    def set(self, role: SampleRole, chosen: NDArray[np.bool_] | slice, unwanted: tuple[int, ...],
            names: tuple[str, ...], earlier: tuple[int, ...]) -> NewSampleSet:
        """Those that were chosen, as a set of that role."""
        return NewSampleSet(role, self.table[chosen], {"source": self.digest}, unwanted, names, earlier)


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
