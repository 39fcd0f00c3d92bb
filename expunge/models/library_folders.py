"""Folders in which libraries keep their models: what they say of the model, and what is to lie beside its weights.

Transformers' image classifiers are described in `transformers_files`, image-to-image models in `image_to_image_files`,
CLIP in `clip`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import BadInput
from expunge.models import clip, image_to_image_files, transformers_files
from expunge.models.library_files import CONFIG, read_json, require_weights, written

USUAL = "model.safetensors"  # what transformers calls the file of its weights
WEIGHTS = frozenset({USUAL, *(layout.weights for layout in image_to_image_files.LAYOUTS.values())})


@dataclass(frozen=True)
class Described:
    """A model as a library's folder describes it.

    Attributes:
        architecture: our name of it.
        config: the arguments of our builder.
        classes: names of what a classifier tells apart, where they are known.
    """

    architecture: str
    config: dict[str, Any]
    classes: tuple[str, ...] = ()


def described_in(folder: str | os.PathLike[str]) -> Described | None:
    """What a folder says of the model in it; None if it is no library's.

    Raises:
        BadInput: a file is missing or cannot be read; it holds a part of CLIP that embeds no image.
    """
    if transformers_files.is_folder(folder):
        config = transformers_files.config_in(folder)
        return Described(transformers_files.ARCHITECTURE, config, transformers_files.classes_in(config["config"]))
    if image_to_image_files.layout_of(folder) is not None:
        layout, config = image_to_image_files.arguments_in(folder)
        return Described(layout.architecture, config)
    named = _classes_of_clip(folder)
    if named:
        if not set(named) & set(clip.CLASSES):
            raise BadInput(f"checkpoint {Path(folder).name}: {named[0]} embeds no image",
                           f"name a folder of {' or '.join(clip.CLASSES)}")
        require_weights(Path(folder), USUAL)
        return Described(clip.ARCHITECTURE, transformers_files.config_in(folder))
    return None


def read_with_weights(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of what a library reads beside the weights in a folder that has the `config.json`, if it is known."""
    layout = image_to_image_files.layout_of(folder)
    if layout is not None:
        return tuple(layout.beside.values())
    known = transformers_files.is_folder(folder) or _classes_of_clip(folder)
    return (CONFIG, transformers_files.PREPROCESSOR) if known else ()


def _classes_of_clip(folder: str | os.PathLike[str]) -> list[str]:
    """What a folder's `config.json` says that it holds of CLIP, by the library's names."""
    file = Path(folder) / CONFIG
    named = read_json(file).get("architectures") if file.is_file() else None
    return [name for name in named if str(name).startswith("CLIP")] if isinstance(named, list) else []


def weights_name(architecture: str, usual: str) -> str:
    """The name that the library of an architecture gives to the file of its weights; `usual` if it is no library's."""
    return next((layout.weights for layout in image_to_image_files.LAYOUTS.values()
                 if layout.architecture == architecture), usual)


def read_beside(architecture: str, config: Mapping[str, Any]) -> dict[str, bytes]:
    """The files that a library reads beside the weights, by name, from the arguments of our builder; else none."""
    if architecture == transformers_files.ARCHITECTURE:
        return transformers_files.read_beside(**config)
    for layout in image_to_image_files.LAYOUTS.values():
        if layout.architecture == architecture:
            return written({name: config.get(argument) for argument, name in layout.beside.items()})
    return {}
