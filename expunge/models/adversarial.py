"""The adversarial game every GAN here plays: logistic losses, R1, path lengths, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.models import ranks


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


class PathLength:
    """Path-length regularisation of a generator led by styles (Karras et al. 2020, eq. 4): E (|J^T y| - a)^2.

    J is the Jacobian of an image by its style w, y an image of standard normal noise, and a the running mean of
    |J^T y|: a step of fixed size in W shall change every image as much. As in the authors' code, y is divided by
    the root of the pixel count, the squared norm is a mean over the layers that take a style, and a starts at 0.
    """

    def __init__(self, decay: float = 0.99) -> None:
        self.decay = decay
        self.mean = torch.zeros(())

    def __call__(self, synthesise: Callable[[Tensor], Tensor], w: Tensor, random: torch.Generator) -> Tensor:
        """The mean penalty, by which `synthesise` and whatever made `w` can learn; takes the lengths into the mean.

        Args:
            synthesise: images [B, C, H, W] of styles [B, layers, latent_dim].
            w: those styles.
            random: where y is drawn from.
        """
        styles = w if w.requires_grad else w.detach().requires_grad_()
        images = synthesise(styles)
        whole = torch.randn(len(images) * ranks.count(), *images.shape[1:], generator=random, device=random.device)
        y = ranks.own_part(whole).to(images)
        projected = (images * y).sum() / math.sqrt(images.shape[2] * images.shape[3])
        (gradient,) = torch.autograd.grad(projected, styles, create_graph=True)
        lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        now = ranks.whole_batch(lengths.detach()).mean()
        self.mean = self.mean.to(now).lerp(now, 1 - self.decay)
        return (lengths - self.mean).square().mean()

    def state_dict(self) -> dict[str, Tensor]:
        """The running mean."""
        return {"mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from a saved state."""
        self.mean = state["mean"].clone()


class Average:
    """Exponential moving average of a module's parameters; warmed up, what came first fades sooner."""

    def __init__(self, module: nn.Module, decay: float, warmed_up: bool = True) -> None:
        self.decay, self.warmed_up = decay, warmed_up
        self.state = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Takes in the parameters after `step` (counted from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmed_up else self.decay
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
