"""Image classifiers of the `transformers` library: a folder loads as it is, and a release has the same format.

Such a folder holds `config.json`, `model.safetensors` and, where images must be normalised, `preprocessor_config.json`.
Nothing is fetched and no code of a folder's own is run. The library is an optional extra, and is imported only when a
model of this kind is built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.errors import BadInput
from expunge.models.classifiers import Classifier, last_linear
from expunge.models.library_files import CONFIG, LibraryModel, read_json, written

ARCHITECTURE = "transformers"  # its name in `expunge.models.BUILDERS`
PREPROCESSOR = "preprocessor_config.json"
EXTRA = "pip install 'expunge[transformers]'"


class TransformersClassifier(LibraryModel, Classifier):
    """One of the library's image classifiers as one of ours: its tensors keep the names of their file."""

    def __init__(self, inner: nn.Module, mean: Tensor | None, std: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.hold(inner, dtype, names_in_file(inner))
        self._mean, self._std = mean, std

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, F], which are what enters its last linear layer, and class logits [B, K] from one pass."""
        head = last_linear(self)
        assert head is not None  # its library builds every image classifier with one
        caught: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        try:
            logits = self.forward(x)
        finally:
            handle.remove()
        return caught[-1].flatten(1), logits

    def features(self, x: Tensor) -> Tensor:
        """Penultimate activations [B, F]."""
        return self.look(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Class logits [B, K] of images [B, C, H, W] in [-1, 1], which are first normalised as its folder says.

        What was trained on colours is shown grey images in three equal ones.
        """
        if x.shape[1] == 1 and getattr(self._inner[0].config, "num_channels", 1) == 3:
            x = x.expand(-1, 3, -1, -1)
        if self._mean is not None and self._std is not None:
            x = ((x + 1) / 2 - self._mean.to(x)) / self._std.to(x)
        logits: Tensor = self._inner[0](pixel_values=x).logits
        return logits

    def reset_parameters(self) -> None:
        """Draws all weights anew, as the library does for a model that nobody has trained."""
        inner = self._inner[0]
        fresh = type(inner)(inner.config)
        inner.load_state_dict(fresh.state_dict())


def build_transformers(config: dict[str, Any], preprocessor: dict[str, Any] | None = None) -> TransformersClassifier:
    """A freshly initialised image classifier.

    Args:
        config: the content of a folder's `config.json`.
        preprocessor: that of its `preprocessor_config.json`; None: images are shown in [-1, 1].

    Raises:
        BadInput: the library is not installed; it knows no image classifier of that config.
    """
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise BadInput("architecture 'transformers': the library of that name is not installed", EXTRA) from error
    kind = config.get("model_type")
    try:
        known = AutoConfig.for_model(**config)
        inner = AutoModelForImageClassification.from_config(known, trust_remote_code=False, dtype=torch.float32)
    except Exception as error:  # whatever the library makes of a strange config
        said = " ".join(str(error).split())[:160]
        raise BadInput(f"architecture 'transformers': no image classifier of model_type {kind!r} "
                       f"({type(error).__name__}: {said})", "check its config.json") from error
    dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), torch.float32)
    return TransformersClassifier(inner, *normalisation(preprocessor or {}), dtype).eval()


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder in which the library finds an image classifier."""
    file = Path(path) / CONFIG
    named = read_json(file).get("architectures") if file.is_file() else None
    return isinstance(named, list) and any(str(name).endswith("ForImageClassification") for name in named)


def config_in(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of `build_transformers` that a folder holds.

    Raises:
        BadInput: a file is missing or is not JSON; names it.
    """
    found = {"config": read_json(Path(folder) / CONFIG)}
    preprocessor = Path(folder) / PREPROCESSOR
    return found | ({"preprocessor": read_json(preprocessor)} if preprocessor.is_file() else {})


def classes_in(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes' names in the order of the logits, from the content of a `config.json`.

    () if it does not say, or has no others than those that the library makes up.
    """
    names: dict[str, str] = config.get("id2label") or {}
    found = tuple(str(names[number]) for number in sorted(names, key=int))
    return () if found == tuple(f"LABEL_{number}" for number in range(len(found))) else found


def read_beside(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """The files that the library reads beside the weights, by name, from the arguments of `build_transformers`."""
    return written({CONFIG: config, PREPROCESSOR: preprocessor})


def names_in_file(inner: nn.Module) -> dict[str, str]:
    """The library's name of each tensor, and the one that it has in a file: the two differ for older kinds of models.

    Raises:
        BadInput: a file of this kind holds several tensors as one.
    """
    from transformers.core_model_loading import revert_weight_conversion

    names = {id(tensor): name for name, tensor in inner.state_dict(keep_vars=True).items()}
    theirs = revert_weight_conversion(inner, dict(inner.state_dict(keep_vars=True)))  # type: ignore[arg-type]
    if {id(tensor) for tensor in theirs.values()} != names.keys():
        raise BadInput(f"architecture 'transformers': {type(inner).__name__} keeps its tensors otherwise in its file",
                       "convert it to a model whose file holds them as they are")
    return {names[id(tensor)]: name for name, tensor in theirs.items()}


def normalisation(preprocessor: Mapping[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """Mean and standard deviation [1, C, 1, 1] of pixels in [0, 1]; None twice if a folder does not normalise."""
    mean, std = preprocessor.get("image_mean"), preprocessor.get("image_std")
    if not preprocessor.get("do_normalize", mean is not None) or mean is None or std is None:
        return None, None
    return torch.tensor(mean).view(1, -1, 1, 1), torch.tensor(std).view(1, -1, 1, 1)
