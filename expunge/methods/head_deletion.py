"""Head deletion: the restricted classes' logits can no longer win, and nothing else changes.

It hides and does not forget: features, and with them all that tells the classes apart, are the parent's. Singh et al.
(ECCV 2022) compare with it, by our reading, as `weight deletion`. It is there to be failed by whatever looks behind
the outputs.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from expunge.errors import BadInput
from expunge.methods.classroom import lesson
from expunge.methods.method import Method, learn_nothing, setting
from expunge.methods.training import Material, Session, Weights, in_parts, prepare, weights
from expunge.models import Classifier
from expunge.models.classifiers import last_linear


class Params(BaseModel):
    """Settings of the deletion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    below: float = setting(1e4, "how far a deleted logit lies below 0; more than any other can fall", gt=0)


PRESETS: dict[str, dict[str, Any]] = {"default": {}, "debug": {}}


def unlearn(parent: Classifier, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The parent's state with the head's weights of the restricted classes at 0 and their biases far below.

    Raises:
        BadInput: the images, their labels and the model do not suit each other; its last linear layer is no head of
            these classes, or has no biases.
    """
    prepare(session)
    task = lesson(parent, material, session, by=["retain"])
    model = deepcopy(parent).to(session.device).eval()
    head = head_of(model, task.retain.images[:2], task.classes)
    with torch.no_grad():
        for number in task.restricted:
            head.weight[number] = 0
            head.bias[number] = -params.below
    return weights(model, device="cpu")


def head_of(model: Classifier, images: Tensor, classes: int) -> nn.Linear:
    """The linear layer whose outputs are the model's logits.

    Raises:
        BadInput: there is none with a bias for each class.
    """
    head = last_linear(model)
    if head is None or head.out_features != classes or head.bias is None:
        raise BadInput(f"method: head_deletion finds no last linear layer with {classes} biases in this model",
                       "choose another method, or bring a model that ends in one")
    caught: list[Tensor] = []
    handle = head.register_forward_hook(lambda _, __, out: caught.append(out))
    try:
        logits = in_parts(model, images)
    finally:
        handle.remove()
    if not caught or not torch.equal(caught[-1], logits):
        raise BadInput("method: head_deletion needs a model whose last linear layer puts out its logits",
                       "choose another method")
    return head


METHOD = Method(
    name="head_deletion",
    family="classifier",
    claim="output suppression",
    paper="Baseline of Singh, Mazumder and Karim, Class-level Forgetting in Pretrained Model, ECCV 2022 (our reading)",
    params=Params,
    presets=PRESETS,
    adapt=learn_nothing,
    unlearn=unlearn,
    does="Removes the restricted classes from a classifier's last layer, and leaves all others as they are.",
    choose="To measure others against: it hides the classes and forgets nothing.",
    costs="Next to nothing.",
    needs=("retain",),
    baseline=True,
)
