"""What every image-to-image model offers, whatever its kind: it encodes what is shown of an image, and completes it.

Such a model is h = D o E: an encoder E whose features are compared when it unlearns, and a decoder D that is never
touched then (Li et al., ICLR 2024). T(x), an image with its hidden part taken away, is each kind's own. All speak of
images [B, C, H, W] in [-1, 1] and of masks [B or 1, 1, H, W] that are true where an image is hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from expunge.contracts import Hidden
from expunge.errors import BadInput
from expunge.models.adam import Adam
from expunge.models.masks import cells_of, hidden

Features = list[Tensor]  # each [B, ...]
Chance = tuple[Tensor, ...]  # each [B, ...]
EXTRA = "pip install 'expunge[image-to-image]'"


class ImageToImage(nn.Module, ABC):
    """A model that completes images.

    Attributes:
        image_shape: (C, H, W) of one image.
        cell: side, in pixels, of the squares that it can be shown or not shown.
        hidden: what it is asked to complete, when it is trained and when it is measured.
        sees_hole: whether what is in the hidden part reaches the encoder, as the noised images of diffusion do.
        encoder_parts: how the names of the encoder's parameters begin.
        untouched: those of them that stay as they are: they are no parameters to the library, or the decoder's too.
    """

    image_shape: tuple[int, int, int]
    cell: int = 1
    hidden: Hidden = Hidden()
    sees_hole: ClassVar[bool] = False
    encoder_parts: ClassVar[tuple[str, ...]]
    untouched: ClassVar[tuple[str, ...]] = ()

    def masks(self, count: int, random: torch.Generator | None = None) -> Tensor:
        """Masks [count, 1, H, W] of what it is asked to complete; a `random` one needs the stream.

        Raises:
            BadInput: its images do not divide into the cells that are to be hidden.
        """
        _, height, width = self.image_shape
        asked = self.hidden
        return hidden(asked.mask, asked.ratio, (height, width), asked.cell or self.cell, count, random)

    def chance(self, count: int, random: torch.Generator) -> Chance:
        """What `encode` needs besides images and masks that is left to chance, on the CPU; here nothing."""
        return ()

    @abstractmethod
    def encode(self, images: Tensor, mask: Tensor, chance: Chance = ()) -> Features:
        """E(T(x)): the encoder's features of what is not hidden."""

    @abstractmethod
    def complete(self, images: Tensor, mask: Tensor, random: torch.Generator) -> Tensor:
        """The images, their hidden part drawn by the model and the rest exactly as it was."""

    @abstractmethod
    def loss(self, images: Tensor, mask: Tensor, random: torch.Generator, target: Tensor | None = None) -> Tensor:
        """What a model of this kind is trained to lower: how far its completions are from the images.

        `target`: images that are to come out instead.
        """

    @abstractmethod
    def reset_parameters(self) -> None:
        """Draws all weights anew, as the library does for a model that nobody has trained."""

    @abstractmethod
    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A folder's tensors by the names that we write: libraries read more than one name for the same."""

    @abstractmethod
    def as_in_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state of this model, its numbers in the type that its file has."""

    def encoder_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that only the encoder uses, by name: what unlearning moves."""
        return {name: parameter for name, parameter in self.named_parameters()
                if name.startswith(self.encoder_parts) and name not in self.untouched}


def asked_to_complete(module: nn.Module, what: Hidden) -> ImageToImage:
    """The model, asked to complete what is hidden so.

    Raises:
        BadInput: it is no image-to-image model, its images do not divide into the cells that are to be hidden, or those
            are parts of its own.
    """
    if not isinstance(module, ImageToImage):
        raise BadInput(f"checkpoint: its architecture makes a {type(module).__name__}, no image-to-image model",
                       "let the factory return an expunge.models.image_to_image.ImageToImage")
    module.hidden = what
    try:
        cells_of(module.masks(1, torch.Generator()), module.cell)
    except BadInput as error:
        raise BadInput(f"checkpoint.hidden.cell: {error.problem.removeprefix('mask: ')}", error.remedy) from error
    return module.eval()


def refuse_other(field: str, model: ImageToImage, images: Tensor) -> None:
    """BadInput if there is no image [N, C, H, W], or they are of another size or mode than the model's."""
    wanted = "x".join(map(str, model.image_shape))
    if images.ndim != 4 or tuple(images.shape[1:]) != model.image_shape or not len(images):
        raise BadInput(f"{field}: images of {'x'.join(map(str, images.shape[1:]))}, {len(images)} of them; "
                       f"the model completes {wanted}", "bring at least one; 'expunge samples import NAME PATH "
                       f"--size {model.image_shape[1]} --channels {model.image_shape[0]}' makes others fit")
    lowest, highest = images.min().item(), images.max().item()
    if not (lowest >= -1 - 1e-4 and highest <= 1 + 1e-4):
        raise BadInput(f"{field}: values from {lowest:.4g} to {highest:.4g}", "scale them to [-1, 1]")


def fit_completions(
    model: ImageToImage, images: Tensor, mask: Tensor, steps: int, batch: int, rate: float, random: torch.Generator
) -> list[float]:
    """Trains a model, in place, to complete images [N, C, H, W] behind masks [1 or M, 1, H, W]; the loss of each step.

    By Adam, whose rate falls to 0 along half a cosine. Of several masks each image of a step is given one by chance.
    """
    device = next(model.parameters()).device
    moved = [parameter for name, parameter in model.named_parameters() if name not in model.untouched]
    optimizer = Adam(moved, lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    found = []
    for _ in range(steps):
        seen = images[torch.randint(len(images), (batch,), generator=random)].to(device)
        behind = mask[torch.randint(len(mask), (batch,), generator=random)].to(device)
        loss = model.loss(seen, behind, random)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        found.append(loss.item())
    return found
