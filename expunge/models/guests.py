"""Guests: models that somebody brought, made to look like ours without touching their weights' names.

Ours draw and see images in [-1, 1], take flat latents, and put out logits. A guest says how it differs
(`Interface`), and a thin module on either side of it translates.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from expunge.contracts import Interface
from expunge.errors import BadInput
from expunge.models.classifiers import Classifier, last_linear
from expunge.models.discriminator import fresh_discriminator
from expunge.models.gan import Gan
from expunge.models.stylegan2 import Stylegan2Generator

OURS = (-1.0, 1.0)  # the range of our models' pixels
LUMA = (0.299, 0.587, 0.114)  # grey from red, green, blue (ITU-R BT.601)
SURE = 1e-6  # a probability this near to 0 or 1 is taken as that, so that its logit stays finite


class Pair(nn.Module):
    """A generator and a discriminator that came as two modules: their tensors are `generator.*`, `discriminator.*`."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


def as_module(made: object, architecture: str) -> nn.Module:
    """What a factory may return: a module, or a generator and a discriminator as a pair or a dict.

    Raises:
        BadInput: it returned something else.
    """
    if isinstance(made, Mapping):
        made = (made.get("generator"), made.get("discriminator"))
    if isinstance(made, tuple | list) and len(made) == 2 and all(isinstance(part, nn.Module) for part in made):
        return Pair(*made)
    if not isinstance(made, nn.Module):
        raise BadInput(f"architecture {architecture!r} returned {type(made).__name__}, not a model",
                       "return a torch.nn.Module, or a generator and a discriminator")
    return made


def as_gan(module: nn.Module, interface: Interface, discriminator: tuple[nn.Module, Interface] | None = None) -> Gan:
    """A guest's generator, with the discriminator it brought, or with a fresh one.

    Args:
        module: a generator, or a module with the attributes `generator` and `discriminator`.
        interface: how the generator is spoken to.
        discriminator: one that came in a file of its own, and how it is spoken to.

    Raises:
        BadInput: the latents' shape is not known; what it draws is no image; a tensor is neither's.
    """
    if isinstance(module, Gan):
        return module
    together = isinstance(getattr(module, "generator", None), nn.Module) and isinstance(
        getattr(module, "discriminator", None), nn.Module)
    if together and discriminator is not None:
        raise BadInput("discriminator: the checkpoint brings its own already", "leave one of the two out")
    latent = interface.latent or _said_by(module)
    if latent is None:
        raise BadInput("checkpoint.latent: the shape of a latent is not known",
                       "say it: 'latent: 100' for vectors, 'latent: [100, 1, 1]' for transposed convolutions")
    generator: nn.Module = module
    if not (isinstance(module, Stylegan2Generator) and latent == (module.latent_dim,) and interface.range == OURS):
        generator = Painter(module.generator if together else module, latent, interface)  # type: ignore[arg-type]
    shape = _shape_of_an_image(generator, prod(latent))
    if together:
        critic: nn.Module = Critic(module.discriminator, interface)  # type: ignore[arg-type]
    elif discriminator is not None:
        critic = Critic(*discriminator)
    else:
        critic = fresh_discriminator(shape)
    gan = Gan(generator, critic, prod(latent), shape, interface.latent_distribution,
              fresh_discriminator=not together and discriminator is None)
    gan.file_names = _file_names(module, gan)
    return gan.eval()


def _said_by(module: nn.Module) -> tuple[int, ...] | None:
    said = getattr(module, "latent_shape", getattr(module, "latent_dim", None))
    if isinstance(said, int):
        return (said,)
    return tuple(said) if isinstance(said, tuple | list) else None


@torch.no_grad()
def _shape_of_an_image(generator: nn.Module, latent_dim: int) -> tuple[int, int, int]:
    generator.eval()
    latents = torch.randn(2, latent_dim, generator=torch.Generator().manual_seed(0))
    try:
        images = generator(latents)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"checkpoint: it cannot draw from latents of its declared shape ({_first_line(error)})",
                       "check checkpoint.latent and the factory's arguments") from error
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) != 2 or images.shape[1] not in (1, 3):
        found = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise BadInput(f"checkpoint: two latents gave {found}, not images [2, 1 or 3, height, width]",
                       "let the factory build a generator of images")
    _, channels, height, width = images.shape
    return channels, height, width


def _file_names(module: nn.Module, gan: Gan) -> dict[str, str]:
    """Each name of the guest's file, and our name of the same tensor, found by identity."""
    ours = {id(tensor): name for name, tensor in reversed(gan.state_dict(keep_vars=True).items())}
    theirs = module.state_dict(keep_vars=True)
    astray = [name for name, tensor in theirs.items() if id(tensor) not in ours]
    if astray:
        # An average of the generator's weights, say: it would leave with the candidate, and remember everything.
        raise BadInput(
            f"checkpoint: {astray[0]} belongs neither to the generator nor to the discriminator",
            "leave it out of the file and of the factory's model: it would not be unlearned")
    return {name: ours[id(tensor)] for name, tensor in theirs.items()}


class Painter(nn.Module):
    """A guest's generator: flat latents [B, latent_dim] in, images [B, C, H, W] in [-1, 1] out."""

    def __init__(self, inner: nn.Module, latent: tuple[int, ...], interface: Interface) -> None:
        super().__init__()
        self.inner, self.latent, self.interface = inner, latent, interface

    def forward(self, z: Tensor) -> Tensor:
        """Images in our range."""
        low, high = self.interface.range
        images: Tensor = self.inner(z.view(-1, *self.latent))
        return images if (low, high) == OURS else (images - low) * (2 / (high - low)) - 1


def to_guest(images: Tensor, interface: Interface) -> Tensor:
    """Our images [B, C, H, W] in [-1, 1], as the guest wants them: its range, grey or colour."""
    if interface.channels == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    elif interface.channels == 1 and images.shape[1] == 3:
        images = (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    low, high = interface.range
    return images if (low, high) == OURS else (images + 1) * ((high - low) / 2) + low


class Critic(nn.Module):
    """A guest's discriminator: images in [-1, 1] in, one logit each out. Patches' logits are averaged."""

    def __init__(self, inner: nn.Module, interface: Interface) -> None:
        super().__init__()
        self.inner, self.interface = inner, interface

    def forward(self, x: Tensor) -> Tensor:
        """Realness logits [B]."""
        out: Tensor = self.inner(to_guest(x, self.interface))
        if self.interface.output == "probability":
            out = out.clamp(SURE, 1 - SURE).logit()
        return out.reshape(len(x), -1).mean(1)


class GuestClassifier(Classifier):
    """A guest's classifier: images in [-1, 1] in, features and logits out.

    One output per image is taken as a question with yes or no: class 1 is yes.
    """

    def __init__(self, inner: nn.Module, interface: Interface) -> None:
        super().__init__()
        self.inner, self.interface = inner, interface

    def forward(self, x: Tensor) -> Tensor:
        """Class logits [B, K]."""
        return self._logits(self.inner(to_guest(x, self.interface)))

    def features(self, x: Tensor) -> Tensor:
        """What enters its last linear layer, or what the named submodule puts out, as [B, F]."""
        return self.look(x)[0]

    def as_in_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state of this model under the names that its file uses: those of the module inside."""
        return {name.removeprefix("inner."): tensor for name, tensor in state.items()}

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F] and class logits [B, K] from one pass."""
        caught: list[Tensor] = []
        tap, entering = self._tap()
        handle = (tap.register_forward_pre_hook(lambda _, given: caught.append(given[0])) if entering
                  else tap.register_forward_hook(lambda _, __, out: caught.append(out)))
        try:
            logits = self.forward(x)
        finally:
            handle.remove()
        if not caught:
            raise BadInput(f"features: {self.interface.features or 'its last linear layer'} is not used",
                           "name the submodule whose output is to be compared")
        return caught[-1].flatten(1), logits

    def _tap(self) -> tuple[nn.Module, bool]:
        """The module to listen at, and whether to what enters it."""
        modules = dict(self.inner.named_modules())
        if self.interface.features is not None:
            if self.interface.features not in modules:
                raise BadInput(f"features: there is no submodule {self.interface.features!r}",
                               f"it has {', '.join(list(modules)[1:6])}, ...")
            return modules[self.interface.features], False
        linear = last_linear(self.inner)
        if linear is None:
            raise BadInput("features: it has no linear layer whose input could be compared",
                           "name the submodule whose output is to be compared")
        return linear, True

    def _logits(self, out: Any) -> Tensor:
        if not isinstance(out, Tensor):
            raise BadInput(f"output: it puts out {type(out).__name__}, not a tensor", "return class logits [B, K]")
        out = out.reshape(len(out), -1)
        if self.interface.output == "probability":
            out = torch.cat([1 - out, out], dim=1) if out.shape[1] == 1 else out
            return out.clamp(min=SURE).log()
        return torch.cat([torch.zeros_like(out), out], dim=1) if out.shape[1] == 1 else out


def as_classifier(module: nn.Module, interface: Interface) -> Classifier:
    """A guest's classifier as one of ours; ours as they are."""
    if isinstance(module, Classifier):
        return module
    return GuestClassifier(module, interface).eval()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
