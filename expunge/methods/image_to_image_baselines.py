"""What `image_to_image` is measured against: the baselines of its paper (Li et al., ICLR 2024), and plain fine-tuning.

    max_loss         all parameters   l(x_r) - alpha l(x_f)                   l: what the model was trained to lower
    noisy_label      all parameters   l(x_r) + alpha l(x_f -> n)              the completion of x_f is to be noise n
    retain_label     the encoder      L_R + alpha || E(T(x_f)) - E_0(T(x_r)) ||^2
    random_encoder   the encoder      L_R + alpha || E(T(x_f)) - g ||^2       g: normal, as E_0(T(x_f)) is on average
    fine_tune        all parameters   l(x_r)

with L_R as in `image_to_image`. The authors' code for the baselines of MAGE weighs both terms by the label of what is
to be kept, so that retain_label and random_encoder give the forget images' aim to the others; here each set has its
own.

Our reading: the distances, the noise and the sets are those of `image_to_image`; x_r is whichever image of the step has
the same place in its batch; max_loss has no end, and stops with a loss that is not finite or after its steps.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.methods import image_to_image
from expunge.methods.image_to_image import ROLES, Aim, Lesson, Shown, fit_encoder, optimizer_of, update
from expunge.methods.method import Method, setting
from expunge.methods.training import Loop, Material, Session, Weights, prepare, stream, weights
from expunge.models.image_to_image import Features, ImageToImage

Kind = Literal["max_loss", "noisy_label", "retain_label", "random_encoder", "fine_tune"]


class Params(image_to_image.Params):
    """Settings of `image_to_image`, and which of the baselines it is."""

    kind: Kind = setting("max_loss", "which of the baselines")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "noisy_label": {"kind": "noisy_label"},
    "retain_label": {"kind": "retain_label"},
    "random_encoder": {"kind": "random_encoder"},
    "fine_tune": {"kind": "fine_tune"},
    "debug": {"steps": 20, "batch": 16},  # seconds
}


def features_of_the_rest(
    lesson: Lesson, pupil: Shown, teacher: Shown, kept: Features, random: torch.Generator
) -> Features:
    """E_0(T(x_r))."""
    places = torch.arange(len(pupil.images)) % len(kept[0])
    return [some[places] for some in kept]


def random_features(
    lesson: Lesson, pupil: Shown, teacher: Shown, kept: Features, random: torch.Generator
) -> Features:
    """Normal numbers with the mean and variance of each feature map that the teacher finds in the forget images."""
    return [some.mean() + some.std() * torch.randn(some.shape, generator=random).to(some)
            for some in lesson.found(pupil)]


AIMS: dict[str, Aim] = {"retain_label": features_of_the_rest, "random_encoder": random_features}


def adapt(parent: ImageToImage, material: Material, params: Params, session: Session) -> Weights:
    """Nothing: baselines keep no teacher's passes."""
    return {}


def unlearn(parent: ImageToImage, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The candidate: the parent's state, trained as the baseline says.

    Raises:
        BadInput: images, mask and model do not suit each other.
        NonFiniteLoss: a loss is not finite; names the step.
    """
    prepare(session)
    lesson = Lesson(parent, material, params, session)
    if params.kind in AIMS:
        return fit_encoder(parent, lesson, AIMS[params.kind])
    return fit_all(parent, lesson, params.kind)


def fit_all(parent: ImageToImage, lesson: Lesson, kind: Kind) -> Weights:
    """A model's state after all of its parameters have learned what the model was trained for, and what `kind` adds."""
    params, session = lesson.params, lesson.session
    model = deepcopy(parent).to(session.device).eval().requires_grad_(False)
    moving = [parameter for name, parameter in model.named_parameters() if name not in model.untouched]
    for parameter in moving:
        parameter.requires_grad_(True)
    optimizer = optimizer_of(moving, params)
    random = stream(session, 3)

    def one_step(step: int) -> dict[str, Tensor]:
        # Every process takes the whole batch: what a loss leaves to chance then is the same for all.
        (lost, noise), (kept, _) = (lesson.showing[role].of(*lesson.dealt(role, step), random) for role in ROLES)
        losses = {"retain": model.loss(kept.images.to(session.device), kept.mask.to(session.device), random)}
        if kind != "fine_tune":
            images, mask, target = (some.to(session.device) for some in (lost.images, lost.mask, noise.images))
            losses["forget"] = (-params.alpha * model.loss(images, mask, random) if kind == "max_loss" else
                                params.alpha * model.loss(images, mask, random, target=target))
        update(optimizer, moving, losses, step, params)
        return losses

    Loop(session, "unlearn", params.steps, {"model": model, "optimizer": optimizer}, random).run(one_step)
    return weights(model, device="cpu")


METHOD = Method(
    name="image_to_image_baselines",
    family="image_to_image",
    claim="output suppression",
    paper="Baselines of Li, Hsu, Chen and Marculescu, Machine Unlearning for Image-to-Image Generative Models, "
          "ICLR 2024, arXiv 2402.00351",
    params=Params,
    presets=PRESETS,
    adapt=adapt,
    unlearn=unlearn,
    does="Raises the loss on the forget images, or teaches noise, another image or random features for them.",
    choose="To measure image_to_image against.",
    costs="Minutes.",
    needs=("forget", "retain"),
    baseline=True,
)
