"""Elastic weight consolidation (Kirkpatrick et al. 2017): a pull to the parent, parameter by parameter."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from expunge.methods.training import Weights, learned
from expunge.models import Gan


class Elastic:
    """1/2 sum_i F_i (theta_i - theta_G,i)^2, zero at the parent: what is important to it is held harder."""

    def __init__(self, original: Gan, samples: int, random: torch.Generator) -> None:
        self.anchor = learned(original.generator)
        self.information = fisher(original, samples, random)

    def __call__(self, generator: nn.Module) -> Tensor:
        """The loss at the generator's current parameters."""
        pulls = [
            (self.information[name] * (theta - self.anchor[name]).square()).sum()
            for name, theta in generator.named_parameters()
        ]
        return torch.stack(pulls).sum() / 2


def fisher(gan: Gan, samples: int, random: torch.Generator) -> Weights:
    """F_i: mean squared gradient of D's logit by each generator parameter, over generated images.

    As the authors of Adapt-then-Unlearn have it in their code: raw logits, 32 samples, once, at the parent.
    """
    generator = deepcopy(gan.generator).requires_grad_(True)
    information = {name: torch.zeros_like(theta) for name, theta in generator.named_parameters()}
    for latent in gan.draw_latents(samples, random).to(next(generator.parameters()).device):
        logit = gan.discriminator(generator(latent[None])).sum()
        gradients = torch.autograd.grad(logit, list(generator.parameters()))
        for total, gradient in zip(information.values(), gradients, strict=True):
            total += gradient.square() / samples
    return information
