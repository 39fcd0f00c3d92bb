"""The adversarial game every GAN here plays: logistic losses, R1, and averaged weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), means over the batch, from logits [B] (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """-log D(G(z)), the non-saturating form, mean over the batch, from logits [B]."""
    return F.softplus(-fake_logits).mean()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Half the mean squared gradient norm of D at real images [B, C, H, W] (Mescheder et al. 2018, eq. 9)."""
    images = real.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2


class Average:
    """Exponential moving average of a module's parameters, warmed up so that early steps fade."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the parameters after `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in module.named_parameters():
            self.state[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def put_into(self, module: nn.Module) -> None:
        """Gives the module the averaged parameters."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.state[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged parameters."""
        return dict(self.state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from a saved state."""
        self.state = {name: tensor.clone() for name, tensor in state.items()}
