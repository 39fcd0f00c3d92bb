"""Folders in which libraries keep their models: what they say of the model, and what is to lie beside its weights.

Transformers' image classifiers are described in `transformers_files`, image-to-image models in `image_to_image_files`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expunge.models import image_to_image_files, transformers_files
from expunge.models.library_files import written


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
        BadInput: a file is missing or cannot be read.
    """
    if transformers_files.is_folder(folder):
        config = transformers_files.config_in(folder)
        return Described(transformers_files.ARCHITECTURE, config, transformers_files.classes_in(config["config"]))
    if image_to_image_files.layout_of(folder) is not None:
        layout, config = image_to_image_files.arguments_in(folder)
        return Described(layout.architecture, config)
    return None


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
