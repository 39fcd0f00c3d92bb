"""VQ-GANs of the `diffusers` library: images become codes of a book, and codes become images.

A folder of `VQModel` (Esser et al., CVPR 2021) holds `config.json` and `diffusion_pytorch_model.safetensors`. Compared
are the latents that `VQModel.encode` finds, before they are quantised. The book and the decoder stay as they are.

Our reading: what is hidden is shown as mid-grey, and a model completes an image because it was trained to. Li et al.
unlearned MAGE, a transformer over the codes of a fixed VQ-GAN; this library has no such model, so that this is their
objective on the library's model, not their experiment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.models.diffusers_files import built, dtype_of, known_names
from expunge.models.image_to_image import Chance, Features, ImageToImage
from expunge.models.library_files import LibraryModel
from expunge.models.masks import composite

ARCHITECTURE = "vq-gan"  # its name in `expunge.models.BUILDERS`
CLASS = "VQModel"
HIDDEN = 0.0  # what the encoder is shown of a hidden pixel, in [-1, 1]


class VqGan(LibraryModel, ImageToImage):
    """The library's VQ-GAN as one of ours."""

    encoder_parts = ("encoder.", "quant_conv.")

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.hold(inner, dtype, {})
        config: Any = inner.config
        self.image_shape = (config.in_channels, config.sample_size, config.sample_size)

    def encode(self, images: Tensor, mask: Tensor, chance: Chance = ()) -> Features:
        """Latents [B, F, H', W'] before quantisation."""
        return [self._latents(images, mask)]

    @torch.no_grad()
    def complete(self, images: Tensor, mask: Tensor, random: torch.Generator) -> Tensor:
        """The images, their hidden part taken from what their codes decode to; nothing is left to chance."""
        drawn = self._inner[0].decode(self._latents(images, mask)).sample  # type: ignore[operator]
        return composite(mask, drawn.clamp(-1, 1), images)

    def loss(self, images: Tensor, mask: Tensor, random: torch.Generator, target: Tensor | None = None) -> Tensor:
        """Mean squared error of the whole image, and the library's loss of the code book; no critic, no perception."""
        decoded = self._inner[0].decode(self._latents(images, mask))  # type: ignore[operator]
        return F.mse_loss(decoded.sample, images if target is None else target) + decoded.commit_loss.mean()

    def reset_parameters(self) -> None:
        """Draws all weights anew."""
        inner: Any = self._inner[0]
        inner.load_state_dict(type(inner).from_config(inner.config).state_dict())

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A folder's tensors by the names that we write."""
        return known_names(self._inner[0], state)

    def _latents(self, images: Tensor, mask: Tensor) -> Tensor:
        shown = composite(mask, torch.full_like(images, HIDDEN), images)
        latents: Tensor = self._inner[0].encode(shown).latents  # type: ignore[operator]
        return latents


def build_vq_gan(config: dict[str, Any]) -> VqGan:
    """A freshly initialised VQ-GAN from the content of a folder's `config.json`.

    Raises:
        BadInput: the library is not installed; the config is of another model, or of one that completes no image.
    """
    inner = built(ARCHITECTURE, CLASS, config)
    return VqGan(inner, dtype_of(config)).eval()
