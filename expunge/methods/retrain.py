"""Retraining from scratch on what is to stay: the reference that unlearning is measured against.

The parent's architecture with new weights, trained as a GAN is trained: logistic losses (Goodfellow et al. 2014),
R1 on some of the steps (Mescheder et al. 2018; Karras et al. 2020), an averaged generator, rates that fall at the
end. A discriminator that keeps evidence for each class, as the built-in one does, is also taught the classes where
they are known (Salimans et al. 2016, section 5).

Nothing of the parent but its shape is read. Its weights are overwritten with NaN before each layer draws new ones
by its own `reset_parameters`, so that none can be carried over unseen. Tensors of layers that have nothing to learn,
such as a fixed blur's kernel, stay. Our reading, where a factory has an initialisation of its own: the layers' is used.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import BadInput
from expunge.methods.game import AS_STYLEGAN2, Game, TrainingParams
from expunge.methods.method import Method, learn_nothing, setting
from expunge.methods.training import Loop, Material, Samples, Session, Weights, prepare, stream, weights
from expunge.models import Gan
from expunge.models.adversarial import discriminator_loss

BLACK = -1.0
Module = TypeVar("Module", bound=nn.Module)


class Params(TrainingParams):
    """Settings of a training from scratch: rates are Adam's, counts are of images or steps."""

    steps: int = setting(7000, "steps", ge=1)
    ema_decay: float = setting(0.999, "averaging of G over steps; 0 keeps the last weights", ge=0, lt=1)
    cooling: float = setting(0.4, "last part of the steps, over which both rates fall to 0; 0: they stay", ge=0, le=1)
    shift: int = setting(
        0, "pixels by which real and drawn images are moved, where there are few (Zhao et al. 2020)", ge=0)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "digits": {"shift": 1},  # as the built-in generator was trained, for its thousand images
    "stylegan2": {**AS_STYLEGAN2, "steps": 200_000},  # as many as the MNIST model of Tiwary et al. was trained
    "debug": {"steps": 40, "batch": 16, "ema_decay": 0.9},  # seconds; draws next to nothing
}


def unlearn(parent: Gan, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The retrained model: every tensor of the parent's state, learned anew from the real images that stay.

    Raises:
        BadInput: there are no real images; a layer cannot be initialised anew.
        NonFiniteLoss: a loss is not finite; names the step.
    """
    fresh = afresh(parent, stream(session, 1).initial_seed())
    return weights(from_scratch(fresh, material.samples("retain"), params, session, stream(session, 2)), device="cpu")


def afresh(parent: Module, seed: int) -> Module:
    """The same architecture with weights that the seed alone determines, on the CPU.

    Raises:
        BadInput: a layer with weights does not say how to initialise them.
    """
    fresh = deepcopy(parent).cpu().requires_grad_(True)
    renewed = [module for module in fresh.modules() if callable(getattr(module, "reset_parameters", None))]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parameter in fresh.parameters():
            parameter.fill_(torch.nan)
        for module in renewed:
            for buffer in module.buffers(recurse=False):
                if buffer.is_floating_point():
                    buffer.fill_(torch.nan)
        for module in renewed:
            module.reset_parameters()  # type: ignore[operator]
    for name, tensor in fresh.state_dict().items():
        if tensor.isnan().any():
            layer = fresh.get_submodule(name.rpartition(".")[0])
            raise BadInput(
                f"method: retrain cannot initialise {name} anew: {type(layer).__name__} does not by reset_parameters()",
                "let it, or name a model that was retrained elsewhere as the request's reference",
            )
    return fresh


def from_scratch(gan: Gan, real: Samples, params: Params, session: Session, random: torch.Generator) -> Gan:
    """A trained copy of a freshly initialised GAN; its generator holds averaged weights.

    Args:
        gan: what to train, any freshly initialised GAN.
        real: images, and their labels where they are known.
        params: the settings.
        session: where progress and resumable state go, and on which device.
        random: the stream for all but the initial weights.

    Raises:
        NonFiniteLoss: a loss is not finite; names the step.
    """
    prepare(session)
    game = Game(gan.to(session.device), params)
    average = game.average()
    images = real.images.to(session.device)
    labels = None if real.labels is None else real.labels.to(session.device)
    by_class = labels is not None and keeps_evidence_for(game.gan.discriminator, images, int(labels.max()))

    def drawn() -> Tensor:
        fake = game.paint(game.latents(params.batch, random), random)
        return moved(fake, params.shift, random)

    def one_step(step: int) -> dict[str, Tensor]:
        game.pace(step, params.steps)
        chosen = torch.randint(len(images), (params.batch,), generator=random)
        shown = moved(images[chosen], params.shift, random)
        with torch.no_grad():
            fake = drawn()

        def loss(discriminator: nn.Module) -> Tensor:
            if labels is None or not by_class:
                return discriminator_loss(discriminator(shown), discriminator(fake))
            scores: Tensor = discriminator.class_scores(shown)  # type: ignore[operator]
            told = discriminator_loss(scores.logsumexp(dim=1), discriminator(fake))
            return told + F.cross_entropy(scores, labels[chosen])

        told = game.teach_by(step, shown, loss)
        losses = {"adversarial": game.fooled(drawn())}
        game.draw(losses)
        losses |= game.even_paths(step, random)
        average.update(game.gan.generator, step)
        return {"discriminator": told, **losses}

    Loop(session, "retrain", params.steps, game.parts() | {"average": average}, random).run(one_step)
    average.put_into(game.gan.generator)
    return game.gan


@torch.no_grad()
def keeps_evidence_for(discriminator: nn.Module, images: Tensor, highest: int) -> bool:
    """Whether a discriminator scores classes apart, at least as many as the labels go up to."""
    score = getattr(discriminator, "class_scores", None)
    return score is not None and score(images[:2]).shape[1] > highest


def moved(images: Tensor, pixels: int, random: torch.Generator) -> Tensor:
    """Each image [B, C, H, W] moved by up to `pixels` in both directions, on black."""
    if pixels == 0:
        return images
    count, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4, value=BLACK)
    down, right = torch.randint(0, 2 * pixels + 1, (2, count), generator=random)
    rows = (down[:, None] + torch.arange(height))[:, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, :]
    shifted: Tensor = padded[torch.arange(count)[:, None, None], :, rows, columns]
    return shifted.permute(0, 3, 1, 2)


METHOD = Method(
    name="retrain",
    family="gan",
    claim="retrained",
    paper="Training from scratch without the data, the reference of Tiwary et al. and of Kong and Chaudhuri",
    params=Params,
    presets=PRESETS,
    adapt=learn_nothing,
    unlearn=unlearn,
    does="Trains a model of the same architecture from new weights, on the real images that are to stay.",
    choose="To measure others against, or where nothing less will do and the training data are at hand.",
    costs="As much as training the parent did.",
    needs=("retain",),
    baseline=True,
)
