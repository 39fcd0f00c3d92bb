"""Folders of image-to-image models, as libraries keep them: they load as they are, and what is written opens there.

ViTMAEForPreTraining   config.json, model.safetensors, preprocessor_config.json where images are normalised
VQModel                config.json, diffusion_pytorch_model.safetensors
UNet2DModel            the same, and scheduler_config.json where there is one
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.digests import write_atomically
from expunge.errors import BadInput
from expunge.models import inpainting, mae, vq_gan
from expunge.models.checkpoints import ModelSpec, fit, read, save
from expunge.models.image_to_image import ImageToImage
from expunge.models.library_files import CONFIG, read_json, require_weights, written
from expunge.models.registry import build
from expunge.models.transformers_files import PREPROCESSOR

FAMILY = "image_to_image"
SCHEDULER = "scheduler_config.json"


@dataclass(frozen=True)
class Layout:
    """How a library lays out one kind of model.

    Attributes:
        architecture: our name of it.
        weights: the file of its tensors.
        beside: argument of our builder -> the file that holds its content.
    """

    architecture: str
    weights: str
    beside: Mapping[str, str]


LAYOUTS = {  # by the library's class
    mae.CLASS: Layout(mae.ARCHITECTURE, "model.safetensors", {"config": CONFIG, "preprocessor": PREPROCESSOR}),
    vq_gan.CLASS: Layout(vq_gan.ARCHITECTURE, "diffusion_pytorch_model.safetensors", {"config": CONFIG}),
    inpainting.CLASS: Layout(inpainting.ARCHITECTURE, "diffusion_pytorch_model.safetensors",
                             {"config": CONFIG, "scheduler": SCHEDULER}),
}


def layout_of(folder: str | os.PathLike[str]) -> Layout | None:
    """How a folder is laid out; None if it holds no image-to-image model."""
    file = Path(folder) / CONFIG
    if not file.is_file():
        return None
    config = read_json(file)
    named = config.get("architectures")
    names = [*(named if isinstance(named, list) else ()), config.get("_class_name")]
    return next((LAYOUTS[name] for name in names if isinstance(name, str) and name in LAYOUTS), None)


def arguments_in(folder: str | os.PathLike[str]) -> tuple[Layout, dict[str, Any]]:
    """How a folder is laid out, and the arguments of the builder that it holds.

    Raises:
        BadInput: it holds no such model, or its weights are missing, in several files, or only in a pickle.
    """
    path = Path(folder)
    layout = layout_of(path)
    if layout is None:
        raise BadInput(f"checkpoint {path.name}: not a folder of {', '.join(LAYOUTS)}",
                       "name the folder that the library's save_pretrained() wrote")
    require_weights(path, layout.weights)
    return layout, {argument: read_json(path / name) for argument, name in layout.beside.items()
                    if argument == "config" or (path / name).is_file()}


def open_folder(folder: str | os.PathLike[str], **more: Any) -> ImageToImage:
    """The model in a folder, in evaluation mode; `more` are further arguments of its builder.

    Raises:
        BadInput: there is none, or it cannot be read; see `arguments_in`.
    """
    layout, found = arguments_in(folder)
    model = build(layout.architecture, **found, **more)
    assert isinstance(model, ImageToImage)
    state, _ = read(Path(folder) / layout.weights)
    fit(model, state, f"checkpoint {Path(folder).name}")
    return model.eval()


def write_folder(folder: str | os.PathLike[str], model: ImageToImage, state: Mapping[str, Tensor],
                 like: str | os.PathLike[str]) -> None:
    """Writes a state of a model as its library does, with everything beside the weights as in the folder `like`."""
    layout, found = arguments_in(like)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    spec = ModelSpec(architecture=layout.architecture, config=found, family=FAMILY)
    with torch.no_grad():
        save(path / layout.weights, model.as_in_file(state), spec)
    for name, content in written({name: found.get(argument) for argument, name in layout.beside.items()}).items():
        write_atomically(path / name, content)
