"""Random labels: restricted images are taught as whatever remaining class chance says, anew each time.

    theta = arg min  L_CE(restricted, random remaining classes)  +  L_CE(remaining)

Which reading of it Singh et al. (ECCV 2022) compare with is not confirmed; drawn anew, so that no wrong label can be
learned by heart, and remaining images beside them, so that these do not suffer, are our reading.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from expunge.methods.classroom import LessonParams, Pupil, lesson
from expunge.methods.method import Method, learn_nothing, setting
from expunge.methods.training import Deck, Loop, Material, Session, Weights, prepare, stream, weights
from expunge.models import Classifier, ranks


class Params(LessonParams):
    """Settings of the training: the rate is Adam's, counts are of images or steps."""

    remaining_weight: float = setting(1.0, "weight of the remaining images' loss", ge=0)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "debug": {"steps": 20, "batch": 16},  # seconds on one core
}


def unlearn(parent: Classifier, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The candidate: every tensor of the parent's state, trained on.

    Raises:
        BadInput: the images, their labels and the model do not suit each other; see `classroom.lesson`.
        NonFiniteLoss: a loss is not finite; names the step.
    """
    prepare(session)
    task = lesson(parent, material, session, by=["forget", "retain"])
    assert task.forget is not None
    pupil = Pupil(parent, params, session)
    lost, kept = (Deck(samples, params.batch, session, purpose) for purpose, samples in (
        (1, task.forget), (2, task.retain)))
    random = stream(session, 2)
    remaining = torch.tensor(task.remaining)

    def one_step(step: int) -> dict[str, Tensor]:
        shown, _ = lost.deal(step)
        drawn = remaining[torch.randint(len(remaining), (lost.batch,), generator=random)]
        images, labels = kept.deal(step)
        losses = {
            "restricted": F.cross_entropy(pupil.model(shown), ranks.own_part(drawn).to(shown.device)),
            "remaining": params.remaining_weight * F.cross_entropy(pupil.model(images), labels),
        }
        pupil.learn(step, losses)
        return losses

    Loop(session, "unlearn", params.steps, pupil.parts(), random).run(one_step)
    return weights(pupil.model, device="cpu")


METHOD = Method(
    name="random_labels",
    family="classifier",
    claim="output suppression",
    paper="Baseline of Singh, Mazumder and Karim, Class-level Forgetting in Pretrained Model, ECCV 2022 (our reading)",
    params=Params,
    presets=PRESETS,
    adapt=learn_nothing,
    unlearn=unlearn,
    does="Trains a classifier to call restricted images anything that stays, by chance, and all others what they are.",
    choose="To measure others against: the answers change, and the features may tell the classes apart as before.",
    costs="Seconds to minutes.",
    needs=("forget", "retain"),
    baseline=True,
)
