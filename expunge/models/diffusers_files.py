"""What is common to models of the `diffusers` library: they are built from a config; their tensors' names are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expunge.errors import BadInput
from expunge.models.image_to_image import EXTRA


def built(architecture: str, kind: str, config: Mapping[str, Any], images: int = 1) -> nn.Module:
    """One of the library's models, freshly initialised.

    Args:
        architecture: its name here, for complaints.
        kind: the library's class.
        config: the content of a folder's `config.json`.
        images: how many it is shown at once, in the channels of what enters it.

    Raises:
        BadInput: the library is not installed; the config is of another model, or of one that completes no image.
    """
    try:
        import diffusers
    except ImportError as error:
        raise BadInput(f"architecture {architecture!r}: the library diffusers is not installed", EXTRA) from error
    try:
        if config.get("_class_name", kind) != kind:
            raise ValueError(f"it is of a {config['_class_name']}")
        inner: Any = getattr(diffusers, kind).from_config(dict(config))
    except Exception as error:  # whatever the library makes of a strange config
        said = " ".join(str(error).split())[:160]
        raise BadInput(f"architecture {architecture!r}: not the config of a {kind} ({said})",
                       "check its config.json") from error
    found = inner.config
    if not isinstance(found.sample_size, int):
        raise BadInput(f"architecture {architecture!r}: its config names no sample_size", "add the side of its images")
    if found.in_channels != images * found.out_channels:
        raise BadInput(f"architecture {architecture!r}: {found.in_channels} channels go in, {found.out_channels} come "
                       "out", f"bring a model that is shown {images} image{'s' * (images > 1)} and draws one")
    made: nn.Module = inner.float()
    return made


def dtype_of(config: Mapping[str, Any]) -> torch.dtype:
    """The type of the numbers in a folder's file, where its config says it."""
    found = getattr(torch, str(config.get("torch_dtype") or config.get("dtype")), torch.float32)
    return found if isinstance(found, torch.dtype) else torch.float32


def known_names(inner: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state under today's names: files of earlier versions of the library call parts of attention otherwise."""
    renamed: dict[str, Tensor] = inner._fix_state_dict_keys_on_load(dict(state))  # type: ignore[operator]
    return renamed
