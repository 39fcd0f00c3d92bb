"""A model of somebody's library as one of ours, and the folders in which libraries keep their models.

Such a folder holds a `config.json`, the weights as safetensors, and what else the library reads beside them. Nothing is
fetched and no code of a folder's own is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.errors import BadInput

CONFIG = "config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class LibraryModel(nn.Module):
    """What a library built, as one of ours: its parts are our parts, its tensors keep the names of their file."""

    def hold(self, inner: nn.Module, dtype: torch.dtype, in_file: Mapping[str, str]) -> None:
        """Takes a library's model in.

        Args:
            inner: as the library built it.
            dtype: type of the numbers in its file.
            in_file: the library's name of each tensor, and the one that it has in a file, where the two differ.
        """
        self._inner = [inner]  # in a list, lest its tensors get a prefix; its parts are ours
        for name, part in inner.named_children():
            self.add_module(name, part)
        for name, parameter in inner.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in inner.named_buffers(recurse=False):
            self.register_buffer(name, buffer, persistent=name not in inner._non_persistent_buffers_set)
        self._dtype = dtype
        self._in_file = dict(in_file)
        self.register_state_dict_post_hook(_as_in_file)
        self.register_load_state_dict_pre_hook(_as_in_library)

    def as_in_file(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state of this model, its numbers in the type that its file has."""
        return {name: tensor.to(self._dtype) if tensor.is_floating_point() else tensor
                for name, tensor in state.items()}

    def train(self, mode: bool = True) -> LibraryModel:
        """Sets training or evaluation mode, of the library's model too."""
        if hasattr(self, "_inner"):
            self._inner[0].training = mode
        super().train(mode)
        return self


def read_json(file: Path) -> dict[str, Any]:
    """The object in a folder's JSON file.

    Raises:
        BadInput: it is missing, or is not one.
    """
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"checkpoint: {file.name} is missing or not JSON", "fetch the folder again") from error
    if not isinstance(content, dict):
        raise BadInput(f"checkpoint: {file.name} is no JSON object", "fetch the folder again")
    return content


def require_weights(folder: Path, name: str) -> None:
    """BadInput if a folder's weights are missing, in several files, or only in a pickle."""
    if (folder / name).is_file():
        return
    if any(folder.glob("*.index.json")):
        raise BadInput(f"checkpoint {folder.name}: its weights are in several files",
                       "save it again in one: save_pretrained(folder, max_shard_size='100GB')")
    if any(file for pattern in PICKLES for file in folder.glob(pattern)):
        raise BadInput(f"checkpoint {folder.name}: its weights are a pickle, which can run code when it is opened",
                       "open it where you trust it, and save it again: save_pretrained(folder, "
                       "safe_serialization=True)")
    raise BadInput(f"checkpoint {folder.name}: {name} is missing", "fetch the folder again")


def written(files: Mapping[str, Mapping[str, Any] | None]) -> dict[str, bytes]:
    """Files of JSON by name, from their content; None: there is no such file."""
    return {name: (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
            for name, content in files.items() if content is not None}


def _as_in_file(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    _rename(state, {f"{prefix}{ours}": f"{prefix}{theirs}" for ours, theirs in module._in_file.items()})  # type: ignore[operator, union-attr]


def _as_in_library(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state, {f"{prefix}{theirs}": f"{prefix}{ours}" for ours, theirs in module._in_file.items()})  # type: ignore[operator, union-attr]


def _rename(state: dict[str, Any], names: Mapping[str, str]) -> None:
    """Renames a state's tensors in place, all at once."""
    renamed = {names.get(name, name): tensor for name, tensor in state.items()}
    state.clear()
    state.update(renamed)
