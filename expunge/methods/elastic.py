"""Elastic weight consolidation (Kirkpatrick et al. 2017): a pull to the parent, parameter by parameter."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from expunge.errors import BadInput
from expunge.methods.training import Weights, learned
from expunge.models import Gan

ALL = "all"
SCOPE = "parameters that EWC holds: `all`, or how their names begin (StyleGAN2's synthesis blocks: `convs.`)"


class Elastic:
    """1/2 sum_i F_i (theta_i - theta_G,i)^2, zero at the parent: what is important to it is held harder.

    The sum is over all of the generator's parameters, or over those whose names begin with `scope`.
    """

    def __init__(self, original: Gan, samples: int, random: torch.Generator, scope: str = ALL) -> None:
        self.information = fisher(original, samples, random, scope)
        anchor = learned(original.generator)
        self.anchor = {name: anchor[name] for name in self.information}

    def __call__(self, generator: nn.Module) -> Tensor:
        """The loss at the generator's current parameters."""
        pulls = [
            (self.information[name] * (theta - self.anchor[name]).square()).sum()
            for name, theta in generator.named_parameters()
            if name in self.information
        ]
        return torch.stack(pulls).sum() / 2


def fisher(gan: Gan, samples: int, random: torch.Generator, scope: str = ALL) -> Weights:
    """F_i: mean squared gradient of D's logit by each generator parameter in scope, over generated images.

    As the authors of Adapt-then-Unlearn have it in their code: raw logits, 32 samples, once, at the parent.

    Raises:
        BadInput: no parameter is in scope.
    """
    generator = deepcopy(gan.generator).requires_grad_(True)
    held = in_scope(generator, scope)
    information = {name: torch.zeros_like(theta) for name, theta in held.items()}
    for latent in gan.draw_latents(samples, random).to(next(generator.parameters()).device):
        logit = gan.discriminator(generator(latent[None])).sum()
        gradients = torch.autograd.grad(logit, list(held.values()))
        for total, gradient in zip(information.values(), gradients, strict=True):
            total += gradient.square() / samples
    return information


def in_scope(generator: nn.Module, scope: str) -> dict[str, nn.Parameter]:
    """The generator's parameters whose names begin with `scope`, by name; all of them for `all`.

    Raises:
        BadInput: there are none.
    """
    everything = dict(generator.named_parameters())
    held = {name: theta for name, theta in everything.items() if scope == ALL or name.startswith(scope)}
    if not held:
        beginnings = ", ".join(dict.fromkeys(name.split(".")[0] for name in everything))
        raise BadInput(
            f"method.params.ewc_scope: no parameter of this generator begins with {scope!r}",
            f"use '{ALL}', or one of its beginnings: {beginnings}",
        )
    return held
