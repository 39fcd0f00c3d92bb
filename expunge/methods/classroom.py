"""What the classifier methods share: who is restricted, and a pupil that learns from batches.

Restricted classes are those that the model is to lose, remaining ones those that it is to keep (the words of Singh,
Mazumder and Karim, ECCV 2022). Real labelled images of both come with the request, a class is known by its number,
and that number is the place of its logit.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from expunge.methods.method import setting
from expunge.methods.training import Material, Samples, Session, Weights, need
from expunge.models import Classifier, ranks
from expunge.models.adam import Adam

BATCH_NORM = ("`frozen` keeps the parent's running statistics, which few images cannot estimate anew; `batch` "
              "normalises by each batch and goes on averaging")


class LessonParams(BaseModel):
    """Settings of a classifier's training: the rate is Adam's, counts are of images or steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = setting(300, "steps", ge=1)
    batch: int = setting(64, "images per step, of each set that the step looks at; all of a smaller one", ge=2)
    rate: float = setting(1e-3, "peak learning rate", gt=0)
    cooling: float = setting(0.5, "last part of the steps, over which the rate falls to 0; 0: it stays", ge=0, le=1)
    batch_norm: Literal["frozen", "batch"] = setting("frozen", BATCH_NORM)


@dataclass(frozen=True)
class Lesson:
    """What a classifier is to lose and to keep, on the session's device.

    Attributes:
        classes: how many logits the head has.
        restricted: the classes to lose, ascending.
        forget: labelled images of restricted classes; None where the method does without.
        retain: labelled images of remaining classes.
    """

    classes: int
    restricted: tuple[int, ...]
    forget: Samples | None
    retain: Samples

    @property
    def remaining(self) -> tuple[int, ...]:
        """The classes to keep, ascending."""
        return tuple(number for number in range(self.classes) if number not in self.restricted)


def lesson(parent: Classifier, material: Material, session: Session, by: Iterable[Literal["forget", "retain"]]
           ) -> Lesson:
    """What a request's material asks of a classifier, looked over before anything is trained.

    Args:
        parent: the model as it was brought.
        material: labelled images.
        session: says the device.
        by: the sets that the method cannot work without.

    Raises:
        BadInput: a set or its labels are missing; a label is none of the head's classes; a restricted class has no
            sample, or is among what is to stay; all classes are restricted; a batch normalisation lacks its
            running statistics.
    """
    wanted = tuple(by)
    forget = material.samples("forget") if "forget" in wanted else material.forget
    retain = material.samples("retain")
    refuse_without_statistics(parent)
    classes = _heads_classes(parent, retain.images[:1])
    present = {role: _classes_of(role, samples, classes)
               for role, samples in (("forget", forget), ("retain", retain)) if samples is not None}
    restricted = tuple(sorted(material.restricted or present.get("forget", set())))
    need(restricted, "method: no class is restricted", "name the classes to forget (forget.classes)")
    beyond = [number for number in restricted if not 0 <= number < classes]
    need(not beyond,
         f"forget.classes: class {_first(beyond)} is restricted, and the model's head has {classes} classes",
         "name classes that it knows, by their place from 0")
    need(len(restricted) < classes, f"forget.classes: all {classes} classes are restricted",
         "leave at least one that is to stay, or withdraw the model")
    if forget is not None:
        empty = sorted(set(restricted) - present["forget"])
        need(not empty, f"training: restricted class {_first(empty)} has no sample",
             "add labelled images of it, or leave it out of forget.classes")
    both = sorted(set(restricted) & present["retain"])
    need(not both, f"training: class {_first(both)} is restricted, and among the images that are to stay",
         "correct the labels, or forget.classes")
    device = session.device
    return Lesson(classes, restricted, forget and _on(forget, device), _on(retain, device))


def refuse_without_statistics(model: nn.Module) -> None:
    """BadInput if a batch normalisation cannot judge one image alone: its running statistics are missing."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            need(module.running_mean is not None and module.running_var is not None,
                 f"checkpoint: {name} has no running statistics, so that an image's class depends on its neighbours",
                 "build it with track_running_stats=True and save running_mean and running_var too")


class Pupil:
    """A copy of the parent and its optimizer.

    It is in evaluation mode but for batch normalisation where that is asked: nothing is dropped out by chance.
    """

    def __init__(
        self, model: Classifier, params: LessonParams, session: Session, masks: Weights | None = None
    ) -> None:
        self.params = params
        self.masks = masks
        self.model = deepcopy(model).to(session.device).eval().requires_grad_(True)
        ranks.share_batch_norm(self.model)
        if params.batch_norm == "batch":
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train()
        self.optimizer = Adam(self.model.parameters(), lr=params.rate)

    def learn(self, step: int, losses: Weights) -> None:
        """One update by the sum of the losses; with masks, only what they mark can move."""
        left = min(1.0, (1 - step / self.params.steps) / self.params.cooling) if self.params.cooling else 1.0
        self.optimizer.param_groups[0]["lr"] = self.params.rate * left
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        ranks.average_gradients(self.model.parameters())
        if self.masks is not None:
            for name, parameter in self.model.named_parameters():
                if parameter.grad is not None:
                    # Adam moves nothing whose gradient was never anything but 0.
                    parameter.grad.mul_(self.masks[name])
        self.optimizer.step()

    def parts(self) -> dict[str, Any]:
        """What must be saved to continue."""
        return {"model": self.model, "optimizer": self.optimizer}


@torch.no_grad()
def _heads_classes(parent: Classifier, image: Tensor) -> int:
    """How many logits the parent has, asked by one image [1, C, H, W]."""
    logits: Tensor = deepcopy(parent).eval()(image.to(next(parent.parameters()).device))
    return logits.shape[1]


def _classes_of(role: str, samples: Samples, classes: int) -> set[int]:
    """The classes that a set has samples of."""
    need(len(samples), f"training: there is no {role} image", "add some")
    need(samples.labels is not None, f"training: its {role} images have no labels", "give each image its class")
    assert samples.labels is not None
    present = set(samples.labels.unique().tolist())
    beyond = sorted(number for number in present if not 0 <= number < classes)
    need(not beyond,
         f"training: a {role} image is of class {_first(beyond)}, and the model's head has {classes} classes",
         "give labels in the order of its outputs, from 0, or bring the model that has them all")
    return present


def _first(numbers: list[int]) -> int | None:
    return numbers[0] if numbers else None


def _on(samples: Samples, device: torch.device) -> Samples:
    assert samples.labels is not None
    return Samples(samples.images.to(device), labels=samples.labels.to(device))
