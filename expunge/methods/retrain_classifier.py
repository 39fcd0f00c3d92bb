"""Retraining a classifier from scratch on the remaining classes: the reference that unlearning is measured against.

The parent's architecture with new weights (see `retrain.afresh`: nothing of the parent but its shape is read), Adam
with a rate that falls, cross-entropy over all of the head's classes, none of whose images is of a
restricted one. Images may be moved by some pixels, on black as the pixels of digits are; batch normalisation learns
its statistics anew.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from expunge.methods.classroom import BATCH_NORM, LessonParams, Pupil, lesson
from expunge.methods.method import Method, learn_nothing, setting
from expunge.methods.retrain import afresh, moved
from expunge.methods.training import Deck, Loop, Material, Session, Weights, prepare, stream, weights
from expunge.models import Classifier, ranks


class Params(LessonParams):
    """Settings of a training from scratch: the rate is Adam's, counts are of images or steps."""

    steps: int = setting(4000, "steps", ge=1)
    batch: int = setting(128, "images per step", ge=2)
    rate: float = setting(2e-3, "peak learning rate", gt=0)
    cooling: float = setting(1.0, "last part of the steps, over which the rate falls to 0; 0: it stays", ge=0, le=1)
    batch_norm: Literal["frozen", "batch"] = setting("batch", BATCH_NORM)
    shift: int = setting(0, "pixels by which images are moved at most, where there are few", ge=0)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "debug": {"steps": 40, "batch": 16},  # seconds; knows next to nothing
}


def unlearn(parent: Classifier, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The retrained model: every tensor of the parent's state, learned anew from the images that stay.

    Raises:
        BadInput: the images, their labels and the model do not suit each other; a layer cannot be initialised anew.
        NonFiniteLoss: the loss is not finite; names the step.
    """
    prepare(session)
    task = lesson(parent, material, session, by=["retain"])
    pupil = Pupil(afresh(parent, stream(session, 1).initial_seed()), params, session)
    kept, random = Deck(task.retain, params.batch, session, 1), stream(session, 2)

    assert task.retain.labels is not None
    classes = task.retain.labels

    def one_step(step: int) -> dict[str, Tensor]:
        rows = kept.rows(step)  # all processes move the same whole batch
        images = ranks.own_part(moved(task.retain.images[rows], params.shift, random))
        losses = {"remaining": F.cross_entropy(pupil.model(images), ranks.own_part(classes[rows]))}
        pupil.learn(step, losses)
        return losses

    Loop(session, "retrain", params.steps, pupil.parts(), random).run(one_step)
    return weights(pupil.model, device="cpu")


METHOD = Method(
    name="retrain_classifier",
    family="classifier",
    claim="retrained",
    paper="Training from scratch on all remaining data, the reference of Singh, Mazumder and Karim, ECCV 2022",
    params=Params,
    presets=PRESETS,
    adapt=learn_nothing,
    unlearn=unlearn,
    does="Trains a classifier of the same architecture from new weights, on the images of the classes that stay.",
    choose="To measure others against, or where nothing less will do and the training data are at hand.",
    costs="As much as training the parent did.",
    needs=("retain",),
    baseline=True,
)
