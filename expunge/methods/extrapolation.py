"""Extrapolation in parameter space: away from what was adapted to the unwanted, without further training.

    theta(g) = theta_G + g (mean_k theta_N,k - theta_G),   g < 0

The observation that Adapt-then-Unlearn starts from (Tiwary et al., TMLR 2025): it suppresses what is unwanted, and
quality collapses where |g| is large; their code tries -1.9 to 1.0. Stage 1 is that method's. The discriminator stays
the parent's.
"""

from __future__ import annotations

from typing import Any

import torch

from expunge.methods.adapt_then_unlearn import AdaptParams, adapt
from expunge.methods.method import Method, setting
from expunge.methods.training import Material, Session, Weights, learned, weights
from expunge.models import Gan


class Params(AdaptParams):
    """Settings of stage 1, and how far to go."""

    extrapolation: float = setting(-1.0, "how far (g), in ways from the parent to theta_N; 0 is the parent", le=0)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "debug": {"warm_up_steps": 10, "adapt_steps": 4, "batch": 32},
}


def unlearn(parent: Gan, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The candidate: every tensor of the parent's state, the generator's parameters extrapolated."""
    state = weights(parent, device="cpu")
    for name, theta in learned(parent.generator).items():
        mean = torch.stack([adaptation[f"{k}.{name}"] for k in range(params.models)]).mean(dim=0)
        state[f"generator.{name}"] = torch.lerp(theta.cpu(), mean, params.extrapolation)
    return state


METHOD = Method(
    name="extrapolation",
    family="gan",
    claim="output suppression",
    paper="Baseline of Tiwary et al., Adapt then Unlearn, TMLR 2025, arXiv 2309.14054",
    params=Params,
    presets=PRESETS,
    adapt=adapt,
    unlearn=unlearn,
    does="Moves the weights away from those that were adapted to the unwanted, and trains no further.",
    choose="To measure others against: it is nearly free, and quality pays for it.",
    costs="The first stage of adapt_then_unlearn.",
    needs=("negative",),
    baseline=True,
)
