"""Masked autoencoders of the `transformers` library: patches that are not shown never reach the encoder.

A folder of `ViTMAEForPreTraining` (He et al., CVPR 2022) holds `config.json`, `model.safetensors` and, where images are
normalised, `preprocessor_config.json`. Compared are the encoder's last hidden states of all tokens that it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expunge.errors import BadInput
from expunge.models.image_to_image import EXTRA, Chance, Features, ImageToImage
from expunge.models.library_files import LibraryModel
from expunge.models.masks import cells_of, composite
from expunge.models.transformers_files import names_in_file, normalisation

ARCHITECTURE = "mae"  # its name in `expunge.models.BUILDERS`
CLASS = "ViTMAEForPreTraining"


class Mae(LibraryModel, ImageToImage):
    """The library's masked autoencoder as one of ours."""

    encoder_parts = ("vit.",)
    untouched = ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed")  # sines and cosines, never learned

    def __init__(self, inner: nn.Module, mean: Tensor | None, std: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.hold(inner, dtype, names_in_file(inner))
        self._mean, self._std = (torch.zeros(()), torch.ones(())) if mean is None or std is None else (
            2 * mean - 1, 2 * std)
        config = self._config
        self.image_shape = (config.num_channels, config.image_size, config.image_size)
        self.cell = config.patch_size

    @property
    def _config(self) -> Any:
        return self._inner[0].config

    def encode(self, images: Tensor, mask: Tensor, chance: Chance = ()) -> Features:
        """Last hidden states [B, 1 + shown patches, F]."""
        return [self._look(images, mask)[0]]

    @torch.no_grad()
    def complete(self, images: Tensor, mask: Tensor, random: torch.Generator) -> Tensor:
        """The images, their hidden patches drawn by the decoder; nothing is left to chance."""
        drawn = self._inner[0].unpatchify(self._draw(images, mask))  # type: ignore[operator]
        drawn = drawn * self._std.to(images) + self._mean.to(images)
        return composite(mask, drawn.clamp(-1, 1), images)

    def loss(self, images: Tensor, mask: Tensor, random: torch.Generator, target: Tensor | None = None) -> Tensor:
        """Mean squared error of the hidden patches (He et al., section 3), in the pixels' normalised units."""
        wanted = self._inner[0].patchify(self._normalised(images if target is None else target))  # type: ignore[operator]
        missed = (self._draw(images, mask) - wanted).square().mean(dim=2)
        cells = cells_of(mask, self.cell).expand(len(images), -1).to(missed)
        return (missed * cells).sum() / cells.sum()

    def reset_parameters(self) -> None:
        """Draws all weights anew."""
        self._inner[0].load_state_dict(_fresh(type(self._inner[0]), self._config).state_dict())

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A folder's tensors by the names that we write: the library reads more than one name for the same."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming, apply_renamings

        known = [each for each in get_model_conversion_mapping(self._inner[0]) if isinstance(each, WeightRenaming)]  # type: ignore[arg-type]
        names = {name: apply_renamings(name, known) for name in state}
        return {self._in_file.get(names[name], name): tensor for name, tensor in state.items()}

    def _draw(self, images: Tensor, mask: Tensor) -> Tensor:
        """The decoder's patches [B, patches, values of one]."""
        found, order = self._look(images, mask)
        patches: Tensor = self._inner[0].decoder(found, order).logits  # type: ignore[operator]
        return patches

    def _look(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states, and the place of each patch among the shown and hidden ones [B, patches]."""
        cells = cells_of(mask, self.cell).expand(len(images), -1)
        shown = (~cells).sum(dim=1)
        if (shown != shown[0]).any():
            raise BadInput("mask: it shows more patches of one image than of another", "use masks of one ratio")
        count = cells.shape[1]
        # The library shows the patches of the lowest noise, as many as the ratio in its config leaves.
        noise = cells.to(images) + torch.arange(count, device=images.device) / (2 * count)
        config, ratio = self._config, self._config.mask_ratio
        config.mask_ratio = 1 - (int(shown[0]) + 0.5) / count
        try:
            found = self._inner[0].vit(self._normalised(images), noise=noise)  # type: ignore[operator]
        finally:
            config.mask_ratio = ratio
        return found.last_hidden_state, found.ids_restore

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self._mean.to(images)) / self._std.to(images)


def build_mae(config: dict[str, Any], preprocessor: dict[str, Any] | None = None) -> Mae:
    """A freshly initialised masked autoencoder.

    Args:
        config: the content of a folder's `config.json`.
        preprocessor: that of its `preprocessor_config.json`; None: images are shown in [-1, 1].

    Raises:
        BadInput: the library is not installed; the config is of another model, or of one that completes no image.
    """
    try:
        from transformers import ViTMAEConfig, ViTMAEForPreTraining
    except ImportError as error:
        raise BadInput("architecture 'mae': the library transformers is not installed", EXTRA) from error
    try:
        if config.get("model_type", "vit_mae") != "vit_mae":
            raise ValueError(f"it is of model_type {config['model_type']!r}")
        known = ViTMAEConfig(**{name: value for name, value in config.items() if name != "model_type"})
        inner = _fresh(ViTMAEForPreTraining, known)
    except Exception as error:  # whatever the library makes of a strange config
        said = " ".join(str(error).split())[:160]
        raise BadInput(f"architecture 'mae': not the config of a ViTMAEForPreTraining ({said})",
                       "check its config.json") from error
    if known.norm_pix_loss:
        raise BadInput("architecture 'mae': its decoder puts out patches normalised by what is hidden, which complete "
                       "no image", "bring one that was trained with norm_pix_loss: false")
    if not isinstance(known.image_size, int) or not isinstance(known.patch_size, int):
        raise BadInput("architecture 'mae': its images or patches are not square", "bring one of square images")
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), torch.float32)
    return Mae(inner, *normalisation(preprocessor or {}), dtype).eval()


def _fresh(kind: Any, config: Any) -> Any:
    """A model that nobody has trained."""
    made = kind(config).float()
    # The library leaves both halves' places at 0 when it builds a model anew: it would not know where a patch is.
    made.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    made.vit.embeddings.initialize_weights()
    made.decoder.initialize_weights(made.vit.embeddings.patch_embeddings.num_patches)
    return made
