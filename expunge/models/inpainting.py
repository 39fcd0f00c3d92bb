"""Diffusion models that complete images: a `UNet2DModel` of the `diffusers` library in a conditional loop.

As in Palette (Saharia et al., SIGGRAPH 2022) the network is shown two images at once, what is given and the noised one,
and is told the noise level gamma, where y = sqrt(gamma) x + sqrt(1 - gamma) eps. Only the hidden part is noised. It
predicts eps there. A folder holds `config.json`, `diffusion_pytorch_model.safetensors` and, where its noise levels are
not those that Palette was trained with, `scheduler_config.json` of a `DDPMScheduler`.

The encoder is what leads to the middle of the network: compared are every feature map that is handed across, and the
middle block's output, as in the code of Li et al. The embedding of the noise level is the decoder's as well, and stays
as it is; that code lets it move.

Our reading: the hole of what is given holds noise; `timestep` carries gamma itself; completions are drawn by the
library's ancestral sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expunge.errors import BadInput
from expunge.models.diffusers_files import built, dtype_of, known_names
from expunge.models.image_to_image import Chance, Features, ImageToImage
from expunge.models.library_files import LibraryModel
from expunge.models.masks import composite

ARCHITECTURE = "diffusion-inpainting"  # its name in `expunge.models.BUILDERS`
CLASS = "UNet2DModel"
PALETTE = {"num_train_timesteps": 2000, "beta_start": 1e-6, "beta_end": 0.01, "beta_schedule": "linear"}


class Inpainting(LibraryModel, ImageToImage):
    """The library's U-Net as one of ours, with the loop that it was trained for."""

    sees_hole = True
    encoder_parts = ("conv_in.", "down_blocks.", "mid_block.")

    def __init__(self, inner: nn.Module, scheduler: Any, sampling_steps: int | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.hold(inner, dtype, {})
        config: Any = inner.config
        self.image_shape = (config.out_channels, config.sample_size, config.sample_size)
        self._scheduler = scheduler
        self.sampling_steps = sampling_steps or scheduler.config.num_train_timesteps

    def chance(self, count: int, random: torch.Generator) -> Chance:
        """Noise levels [B, 1, 1, 1] between two neighbouring ones of the schedule, and noise for both images."""
        levels: Tensor = self._scheduler.alphas_cumprod
        after = torch.randint(1, len(levels), (count,), generator=random)
        between = torch.rand(count, generator=random)
        gamma = levels[after].lerp(levels[after - 1], between)
        noise, given = (torch.randn(count, *self.image_shape, generator=random) for _ in range(2))
        return gamma.view(-1, 1, 1, 1), noise, given

    def encode(self, images: Tensor, mask: Tensor, chance: Chance = ()) -> Features:
        """Every feature map that is handed across, and what leaves the middle."""
        gamma, noise, given = chance
        return self._down(self._shown(images, mask, given, self._noised(images, gamma, noise)), gamma.flatten())

    @torch.no_grad()
    def complete(self, images: Tensor, mask: Tensor, random: torch.Generator) -> Tensor:
        """The images, their hidden part drawn out of noise, in as many steps as `sampling_steps` says."""
        scheduler = type(self._scheduler).from_config(self._scheduler.config)
        scheduler.set_timesteps(self.sampling_steps)
        given, drawn = (torch.randn(images.shape, generator=random).to(images) for _ in range(2))
        for timestep in scheduler.timesteps:
            gamma = scheduler.alphas_cumprod[timestep].expand(len(images)).to(images)
            found = self._inner[0](self._shown(images, mask, given, drawn), gamma).sample
            drawn = scheduler.step(found, timestep, drawn, generator=random).prev_sample
        return composite(mask, drawn.clamp(-1, 1), images)

    def loss(self, images: Tensor, mask: Tensor, random: torch.Generator, target: Tensor | None = None) -> Tensor:
        """Mean squared error of the predicted noise in the hidden part."""
        gamma, noise, given = (some.to(images) for some in self.chance(len(images), random))
        noised = self._noised(images if target is None else target, gamma, noise)
        found = self._inner[0](self._shown(images, mask, given, noised), gamma.flatten()).sample
        inside = mask.expand_as(found).to(found)
        return ((found - noise).square() * inside).sum() / inside.sum()

    def reset_parameters(self) -> None:
        """Draws all weights anew."""
        inner: Any = self._inner[0]
        inner.load_state_dict(type(inner).from_config(inner.config).state_dict())

    def from_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A folder's tensors by the names that we write."""
        return known_names(self._inner[0], state)

    def _noised(self, images: Tensor, gamma: Tensor, noise: Tensor) -> Tensor:
        return gamma.sqrt() * images + (1 - gamma).sqrt() * noise

    def _shown(self, images: Tensor, mask: Tensor, given: Tensor, noised: Tensor) -> Tensor:
        """What the network sees [B, 2 C, H, W]: what is given, with noise in the hole, and the noised image."""
        return torch.cat([composite(mask, given, images), composite(mask, noised, images)], dim=1)

    def _down(self, seen: Tensor, gamma: Tensor) -> Features:
        """The first half of the library's forward pass."""
        inner: Any = self._inner[0]
        level = inner.time_embedding(inner.time_proj(gamma).to(seen.dtype))
        here = inner.conv_in(2 * seen - 1 if inner.config.center_input_sample else seen)
        found = [here]
        for block in inner.down_blocks:
            here, across = block(hidden_states=here, temb=level)
            found.extend(across)
        return found if inner.mid_block is None else [*found, inner.mid_block(here, level)]


def build_inpainting(
    config: dict[str, Any], scheduler: dict[str, Any] | None = None, sampling_steps: int | None = None
) -> Inpainting:
    """A freshly initialised diffusion model.

    Args:
        config: the content of a folder's `config.json`.
        scheduler: that of its `scheduler_config.json`; None: the noise levels that Palette was trained with.
        sampling_steps: of a completion; None: one for each noise level.

    Raises:
        BadInput: the library is not installed; the config is of another model, or of one that is not shown two images;
            its scheduler is not one that predicts noise.
    """
    inner: Any = built(ARCHITECTURE, CLASS, config, images=2)
    if any(hasattr(block, "skip_conv") for block in inner.down_blocks) or inner.class_embedding is not None:
        raise BadInput(f"architecture {ARCHITECTURE!r}: its blocks skip, or it is told a class besides the noise level",
                       "bring a U-Net of plain or attention blocks, without classes")
    from diffusers import DDPMScheduler

    try:
        made = DDPMScheduler.from_config(PALETTE if scheduler is None else scheduler)
    except Exception as error:  # whatever the library makes of a strange config
        said = " ".join(str(error).split())[:160]
        raise BadInput(f"architecture {ARCHITECTURE!r}: its scheduler_config.json describes no DDPMScheduler ({said})",
                       "save one beside the model") from error
    if made.config.prediction_type != "epsilon":
        raise BadInput(f"architecture {ARCHITECTURE!r}: it predicts {made.config.prediction_type}, not the noise",
                       "bring a model of prediction_type: epsilon")
    most = made.config.num_train_timesteps
    if sampling_steps is not None and not 1 <= sampling_steps <= most:
        raise BadInput(f"architecture {ARCHITECTURE!r}: {sampling_steps} sampling_steps", f"use 1 to {most}")
    return Inpainting(inner, made, sampling_steps, dtype_of(config)).eval()


