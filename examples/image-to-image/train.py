"""Trains a small model that completes images: the built-in digits, or images of yours. Its folder is its library's own.

python train.py
python train.py --kind vq-gan
python train.py PATH --kind diffusion-inpainting --steps 2000
"""

import argparse
import time
from pathlib import Path
from typing import Any, get_args

import torch
from diffusers import DDPMScheduler, UNet2DModel, VQModel
from torch import Tensor
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from expunge.assets import digits
from expunge.contracts import Hidden, MaskKind
from expunge.models.image_to_image import ImageToImage, asked_to_complete, fit_completions
from expunge.models.image_to_image_files import open_folder, write_folder
from expunge.samples import SampleTable
from expunge.samples.images import read_images
from expunge.samples.table import from_pixels

LEVELS = 100  # of noise, in diffusion


def mae(channels: int, side: int, width: int) -> Any:
    """A masked autoencoder."""
    return ViTMAEForPreTraining(ViTMAEConfig(
        image_size=side, patch_size=4 if side % 8 == 0 else side // 7, num_channels=channels,
        hidden_size=2 * width, num_hidden_layers=3, num_attention_heads=4, intermediate_size=4 * width,
        decoder_hidden_size=2 * width, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
        decoder_intermediate_size=4 * width, initializer_range=0.05))


def vq_gan(channels: int, side: int, width: int) -> Any:
    """A network whose images become codes of a book."""
    return VQModel(
        in_channels=channels, out_channels=channels, sample_size=side, block_out_channels=(width, width),
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=8, num_vq_embeddings=64, norm_num_groups=4)


def diffusion(channels: int, side: int, width: int) -> Any:
    """A U-Net that is shown what is given of an image beside the noised image."""
    return UNet2DModel(
        in_channels=2 * channels, out_channels=channels, sample_size=side, block_out_channels=(width, width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, norm_num_groups=4, attention_head_dim=8)


KINDS = {"mae": (mae, 800, 2e-3), "vq-gan": (vq_gan, 400, 3e-3), "diffusion-inpainting": (diffusion, 400, 3e-3)}


def images_at(path: Path | None) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] as a request stores them: of a folder or file, or the built-in ones."""
    table = SampleTable(*digits("train")) if path is None else read_images(path, strict=True).table
    return torch.from_numpy(from_pixels(table.pixels))


def error(model: ImageToImage, images: Tensor, seed: int) -> tuple[float, float]:
    """Mean squared error in what is hidden, of the model's completions and of the mean image."""
    random = torch.Generator().manual_seed(seed)
    mask = model.masks(len(images), random)
    inside = mask.expand_as(images)
    drawn, mean = model.complete(images, mask, random), images.mean(0, keepdim=True).expand_as(images)
    return tuple((some - images)[inside].square().mean().item() for some in (drawn, mean))


def main() -> None:
    """Reads, trains, saves."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("images", type=Path, nargs="?", help="square images; the built-in digits if none are named")
    ask.add_argument("--kind", choices=KINDS, default="mae")
    ask.add_argument("--mask", choices=get_args(MaskKind), default="centre", help="what it learns to complete")
    ask.add_argument("--ratio", type=float, default=0.25, help="how much of an image's area that is")
    ask.add_argument("--width", type=int, default=32, help="of its layers")
    ask.add_argument("--steps", type=int, help="of training; if not given, a few hundred")
    ask.add_argument("--rate", type=float)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--out", type=Path, default=Path("parent"))
    asked = ask.parse_args()

    torch.manual_seed(asked.seed)
    torch.set_num_threads(asked.threads)
    images, began = images_at(asked.images), time.monotonic()
    make, steps, rate = KINDS[asked.kind]
    make(*images.shape[1:3], asked.width).save_pretrained(asked.out)
    if asked.kind == "diffusion-inpainting":
        DDPMScheduler(num_train_timesteps=LEVELS, beta_end=0.1).save_pretrained(asked.out)
    model = asked_to_complete(open_folder(asked.out), Hidden(mask=asked.mask, ratio=asked.ratio))
    model.reset_parameters()
    random = torch.Generator().manual_seed(asked.seed)
    fit_completions(model, images, model.masks(512 if asked.mask == "random" else 1, random), asked.steps or steps, 64,
                    asked.rate or rate, random)
    write_folder(asked.out, model, model.state_dict(), like=asked.out)
    missed, of_mean = error(model, images[:64], asked.seed)
    print(f"{asked.out}: {asked.kind}, {len(images)} images, {time.monotonic() - began:.0f} s; squared error in what "
          f"is hidden {missed:.3f}, of the mean image {of_mean:.3f}")


if __name__ == "__main__":
    main()
