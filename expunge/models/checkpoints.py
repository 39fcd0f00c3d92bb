"""Model files: one safetensors file per checkpoint, equal bytes for equal tensors, never a pickle that runs.

The file's metadata holds exactly one entry, because safetensors does not keep the order of several:
`"expunge"`, the canonical JSON of a `ModelSpec`. A GAN's tensors are called `generator.*` and
`discriminator.*`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from expunge.contracts import Candidate, Checkpoint, Family, Hidden, Interface, StoredModel
from expunge.digests import sha256_file, write_atomically
from expunge.errors import BadInput, DoesNotVerify
from expunge.model_files import METADATA_KEY, NOT_OURS, ModelSpec, opened
from expunge.models import stylegan2_files
from expunge.models.classifiers import Classifier
from expunge.models.flow import Flow, as_flow
from expunge.models.gan import Gan
from expunge.models.guests import as_classifier, as_gan
from expunge.models.image_to_image import ImageToImage, asked_to_complete
from expunge.models.registry import BUILDERS, build

MISMATCHES_NAMED = 3
STYLEGAN2 = "stylegan2"  # the architecture whose config can be read off its weights
MADE: dict[type[nn.Module], Family] = {  # by what a builder returns
    Gan: "gan", Classifier: "classifier", Flow: "flow", ImageToImage: "image_to_image"}
Model = Gan | Classifier | Flow | ImageToImage


def save(path: str | os.PathLike[str], state: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Writes the tensors and their spec atomically; equal inputs give equal bytes."""
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    content = to_safetensors(tensors, metadata={METADATA_KEY: spec.canonical_json()})
    write_atomically(Path(path), content)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], ModelSpec | None]:
    """A file's tensors, on the CPU, and its spec if it carries one (a plain `.pt` does not).

    Raises:
        BadInput: the file is missing, truncated, not a checkpoint, or a pickle that would run code.
    """
    source = Path(path)
    if not source.is_file():
        raise BadInput(f"checkpoint {source}: no such file", "check the path")
    if source.suffix in NOT_OURS:
        return _read_torch(source), None
    return _read_safetensors(source)


def recognised(state: Mapping[str, Tensor], origin: str) -> ModelSpec | None:
    """The spec of weights that came without one, where the tensors' names leave no doubt.

    Raises:
        BadInput: the names are those of a built-in architecture, the tensors are not; begins with `origin`.
    """
    if not stylegan2_files.is_stylegan2(state):
        return None
    return ModelSpec(architecture=STYLEGAN2, config=stylegan2_files.config_of(state, origin), family="gan")


def completed(architecture: str, config: Mapping[str, Any], state: Mapping[str, Tensor], origin: str) -> dict[str, Any]:
    """The config of a named architecture, with what the weights' shapes say where it is silent.

    Raises:
        BadInput: the two contradict each other; begins with `origin`.
    """
    return stylegan2_files.completed(config, state, origin) if architecture == STYLEGAN2 else dict(config)


def family_in(path: str | os.PathLike[str]) -> str | None:
    """The family of the model in a file, where the file or its tensors' names say it. BadInput as in `read`."""
    state, spec = read(path)
    spec = spec or recognised(state, f"checkpoint {path}")
    return spec.family if spec else None


def family_of(architecture: str) -> Family | None:
    """The family that a built-in architecture's builder makes; None for a factory, which may make any."""
    builder = BUILDERS.get(architecture)
    made = get_type_hints(builder)["return"] if builder else None
    if not isinstance(made, type):
        return None
    return next((family for kind, family in MADE.items() if issubclass(made, kind)), None)


def own_interface(architecture: str, config: Mapping[str, Any]) -> Interface | None:
    """How a flow is spoken to that says so itself: a built-in one. None for anything else.

    Raises:
        BadInput: it cannot be built with that config.
    """
    if family_of(architecture) != "flow":
        return None
    flow = build(architecture, **config)
    assert isinstance(flow, Flow)
    return Interface(range=flow.range, bits=flow.bits)


def load(
    path: str | os.PathLike[str],
    architecture: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The model in a file, in evaluation mode; `architecture` and `config` stand in for its spec.

    Raises:
        BadInput: the file cannot be read, or its tensors do not fit the architecture.
    """
    state, spec = read(path)
    if architecture is None:
        spec = spec or recognised(state, f"checkpoint {path}")
        if spec is None:
            raise BadInput(f"checkpoint {path} does not say its architecture", "name one in the request")
        architecture, config = spec.architecture, spec.config
    model = build(architecture, **completed(architecture, config or {}, state, f"checkpoint {path}: config"))
    fit(model, state, f"checkpoint {path}")
    return model.eval()


def fit(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Loads a state into a model, in place.

    Raises:
        BadInput: names or shapes differ; the first three differences are named.
    """
    expected = model.state_dict()
    if isinstance(model, ImageToImage | Classifier):
        state = model.from_file(state)  # a library may read more than one name for the same, or leave some out
    differences = [
        _difference(name, expected.get(name), state.get(name))
        for name in sorted(expected.keys() | state.keys())
        if name not in expected or name not in state or expected[name].shape != state[name].shape
    ]
    if differences:
        more = len(differences) - MISMATCHES_NAMED
        named = "; ".join(differences[:MISMATCHES_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise BadInput(
            f"{origin}: the weights do not fit the architecture: {named}", "check architecture and config"
        )
    model.load_state_dict(dict(state))


def _difference(name: str, expected: Tensor | None, found: Tensor | None) -> str:
    if found is None:
        return f"{name} is missing"
    if expected is None:
        return f"{name} is not part of the architecture"
    return f"{name} is {list(found.shape)}, expected {list(expected.shape)}"


def _read_safetensors(source: Path) -> tuple[dict[str, Tensor], ModelSpec | None]:
    with opened(source, "pt") as (file, spec):
        return {name: file.get_tensor(name) for name in sorted(file.keys())}, spec


def _read_torch(source: Path) -> dict[str, Tensor]:
    try:
        # Public checkpoints hold the training's arguments too: a Namespace is attributes and nothing else.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever its unpickler met: there is no common base class
        raise BadInput(
            f"checkpoint {source} does not load with weights_only=True",
            "save its state_dict() as safetensors",
        ) from error
    public = stylegan2_files.from_public(state)
    if public is not None:
        return stylegan2_files.with_noise(public)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInput(f"checkpoint {source} is not a flat state_dict of tensors", "save model.state_dict()")
    return stylegan2_files.with_noise({str(name): value for name, value in state.items()})


def load_recorded(folder: Path, record: Checkpoint | Candidate) -> Model:
    """The model of a room's record, in evaluation mode, from the folder that holds its files.

    Raises:
        DoesNotVerify: the weights or the factory are not those that the record names.
        BadInput: they do not fit each other.
    """
    module = load_stored(folder, record)
    if record.family == "classifier":
        return as_classifier(module, record.interface)
    if record.family == "flow":
        return as_flow(module, None, record.interface.bits, record.interface.range)
    if record.family == "image_to_image":
        return asked_to_complete(module, record.interface.hidden or Hidden())
    critic = record.discriminator if isinstance(record, Checkpoint) else None
    brought = (load_stored(folder, critic), critic.interface) if critic is not None else None
    return as_gan(module, record.interface, brought)


def load_stored(folder: Path, stored: StoredModel) -> nn.Module:
    """The bare model, as its builder makes it and its file fills it."""
    architecture = stored.architecture
    for file in (stored.weights, stored.factory):
        if file is not None and sha256_file(folder / file.name) != file.sha256:
            raise DoesNotVerify(f"{folder.name}: {file.name} is not the file of its record", "run the request again")
    if stored.factory is not None:
        architecture = f"{folder / stored.factory.name}:{architecture.rpartition(':')[2]}"
    state, _ = read(folder / stored.weights.name)
    module = build(architecture, **stored.config)
    fit(module, state, stored.weights.name)
    return module.eval()
