"""Fine-tuning on what is wanted, with or without a pull to the parent: what repulsion is measured against.

    theta_P = arg min max  L_adv(wanted) + lambda/2 sum_i F_i (theta_i - theta_G,i)^2

Stage 2 of Adapt-then-Unlearn without its repulsion, which is the honest ablation of it. With lambda > 0 it is the row
EWC of its tables (Tiwary et al., TMLR 2025; their code takes 2,001 steps). The wanted are real images where the request
brings some (`retain`), and else the parent's own.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import Tensor

from expunge.methods.elastic import ALL, SCOPE, Elastic
from expunge.methods.game import Game, GameParams, warm_up
from expunge.methods.method import Method, learn_nothing, setting
from expunge.methods.training import Loop, Material, Session, Weights, pick, prepare, stream, weights
from expunge.models import Gan


class Params(GameParams):
    """Settings of the fine-tuning: rates are Adam's, counts are of images or steps.

    Length, batch and averaging are those of the preset `paper` of adapt_then_unlearn, to be comparable.
    """

    steps: int = setting(1000, "steps", ge=1)
    batch: int = setting(16, "images per step", ge=4)
    ema_decay: float = setting(0.998, "averaging of G over steps; 0 keeps the last weights", ge=0, lt=1)
    ewc_weight: float = setting(0.0, "pull to the parent by Fisher information (lambda); 0 is none", ge=0)
    ewc_scope: str = setting(ALL, SCOPE)
    fisher_samples: int = setting(32, "generated images that estimate F", ge=1)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "ewc": {"ewc_weight": 1000.0},  # the weight of adapt_then_unlearn's first stage
    "debug": {"warm_up_steps": 10, "steps": 40, "ema_decay": 0.9},
}


def unlearn(parent: Gan, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The candidate: every tensor of the parent's state, fine-tuned.

    Raises:
        NonFiniteLoss: a loss is not finite; names the step.
    """
    prepare(session)
    random = stream(session, 2)
    original = deepcopy(parent).to(session.device).requires_grad_(False)
    given = material.retain if material.retain is not None else material.samples("positive")
    wanted = given.images.to(session.device)
    warm_up(original, wanted, None, params, session)
    elastic = Elastic(original, params.fisher_samples, random, params.ewc_scope) if params.ewc_weight else None
    game = Game(original, params)
    average = game.average()

    def one_step(step: int) -> dict[str, Tensor]:
        game.pace(step, params.steps)
        fake = game.paint(game.latents(params.batch, random), random)
        told = game.teach(step, pick(wanted, params.batch, random), fake.detach())
        losses = {"adversarial": game.fooled(fake)}
        if elastic is not None:
            losses["elastic"] = params.ewc_weight * elastic(game.gan.generator)
        game.draw(losses)
        losses |= game.even_paths(step, random)
        average.update(game.gan.generator, step)
        return {"discriminator": told, **losses}

    Loop(session, "unlearn", params.steps, game.parts() | {"average": average}, random).run(one_step)
    average.put_into(game.gan.generator)
    return weights(game.gan, device="cpu")


METHOD = Method(
    name="fine_tune",
    family="gan",
    claim="output suppression",
    paper="Baseline of Tiwary et al., Adapt then Unlearn, TMLR 2025; EWC: Kirkpatrick et al. 2017",
    params=Params,
    presets=PRESETS,
    adapt=learn_nothing,
    unlearn=unlearn,
    does="Goes on training the parent on what is wanted; the preset `ewc` holds it near where it was.",
    choose="To measure others against: it forgets slowly, and what it was never shown again may come back.",
    costs="Seconds to minutes; no copy of the generator.",
    needs=("positive",),
    baseline=True,
)
