"""Fine-tuning a classifier on the remaining classes: the weakest way to forget, and what others are measured against.

    theta = arg min  L_CE(remaining)

Nothing says that the restricted classes are to go; they fade as far as nothing reminds the model of them. Singh et
al. (ECCV 2022) say in an earlier version's abstract that it does not remove enough from few samples and may over-fit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from expunge.methods.classroom import LessonParams, Pupil, lesson
from expunge.methods.method import Method, learn_nothing
from expunge.methods.training import Deck, Loop, Material, Session, Weights, prepare, stream, weights
from expunge.models import Classifier


class Params(LessonParams):
    """Settings of the fine-tuning: the rate is Adam's, counts are of images or steps."""


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "debug": {"steps": 20, "batch": 16},  # seconds on one core
}


def unlearn(parent: Classifier, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The candidate: every tensor of the parent's state, fine-tuned.

    Raises:
        BadInput: there are no labelled images of what is to stay, or they do not suit the model.
        NonFiniteLoss: the loss is not finite; names the step.
    """
    prepare(session)
    task = lesson(parent, material, session, by=["retain"])
    pupil = Pupil(parent, params, session)
    kept = Deck(task.retain, params.batch, session, 1)

    def one_step(step: int) -> dict[str, Tensor]:
        images, labels = kept.deal(step)
        losses = {"remaining": F.cross_entropy(pupil.model(images), labels)}
        pupil.learn(step, losses)
        return losses

    Loop(session, "unlearn", params.steps, pupil.parts(), stream(session, 2)).run(one_step)
    return weights(pupil.model, device="cpu")


METHOD = Method(
    name="fine_tune_classifier",
    family="classifier",
    claim="output suppression",
    paper="Baseline of Singh, Mazumder and Karim, Class-level Forgetting in Pretrained Model, ECCV 2022",
    params=Params,
    presets=PRESETS,
    adapt=learn_nothing,
    unlearn=unlearn,
    does="Goes on training a classifier on images of the classes that stay.",
    choose="To measure others against: nothing tells it what is to go, and little goes.",
    costs="Seconds to minutes.",
    needs=("retain",),
    baseline=True,
)
