"""StyleGAN2 as the public PyTorch checkpoints hold it: which tensors are whose, and what their shapes say.

Such a file is a dictionary: `g_ema` is the generator's average, from which images are drawn, `g` the generator as
it was last, `d` the discriminator; optimizers' states and the training's arguments stand beside them and are left
where they are. Files of one of the two networks alone are plain state dicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from expunge.errors import BadInput
from expunge.models.stylegan2 import GRID, noise_sides, public_widths

GENERATOR, DISCRIMINATOR = "generator.", "discriminator."
State = Mapping[str, Tensor]


def from_public(content: object) -> dict[str, Tensor] | None:
    """A public training checkpoint as one state; None if it is something else.

    Of both networks the tensors are `generator.*` and `discriminator.*`; a generator alone keeps its names.
    """
    if not isinstance(content, Mapping):
        return None
    generator = next((content[name] for name in ("g_ema", "g") if _is_state(content.get(name))), None)
    discriminator = content.get("d")
    if generator is None:
        return None
    if not _is_state(discriminator):
        return dict(generator)
    return ({f"{GENERATOR}{name}": tensor for name, tensor in generator.items()}
            | {f"{DISCRIMINATOR}{name}": tensor for name, tensor in discriminator.items()})


def with_noise(state: State) -> dict[str, Tensor]:
    """A state with the fixed noise that older public files lack; any other state as it is.

    A generator was trained on noise drawn anew each time, so that none is more right than another. This is the same
    every time, and what was there in part is left for the fitting of the weights to complain of.
    """
    generator, _ = _parts(state)
    if not {"input.input", "to_rgb1.conv.weight"} <= generator.keys() or _numbered(generator, "noises.noise_"):
        return dict(state)
    prefix = GENERATOR if f"{GENERATOR}input.input" in state else ""
    random = torch.Generator().manual_seed(0)
    return dict(state) | {
        f"{prefix}noises.noise_{layer}": torch.randn(1, 1, side, side, generator=random)
        for layer, side in enumerate(noise_sides(1 + _numbered(generator, "to_rgbs.")))}


def _is_state(value: object) -> TypeGuard[State]:
    return isinstance(value, Mapping) and len(value) > 0 and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())


def is_stylegan2(state: State) -> bool:
    """Whether the tensors' names are those of a StyleGAN2, or of one of its networks."""
    generator, discriminator = _parts(state)
    return {"input.input", "to_rgb1.conv.weight", "style.1.weight"} <= generator.keys() or (
        not generator and {"convs.0.0.weight", "final_conv.0.weight", "final_linear.1.weight"} <= discriminator.keys())


def config_of(state: State, origin: str) -> dict[str, Any]:
    """The builder's arguments, read off the tensors' shapes.

    Raises:
        BadInput: a tensor that says one of them is missing or has another number of dimensions; the discriminator
            is made for other images than the generator draws.
    """
    generator, discriminator = _parts(state)
    found: dict[str, Any] = {}
    if generator:
        found = _of_generator(generator, origin)
    if discriminator:
        seen = _of_discriminator(discriminator, origin)
        if not generator:
            return seen
        for key in ("size", "channels"):
            if seen[key] != found[key]:
                raise BadInput(f"{origin}: the generator draws images of {key} {found[key]}, the discriminator is "
                               f"made for {seen[key]}", "bring the two that were trained against each other")
        if seen["widths"] != found["widths"]:
            found["discriminator_widths"] = seen["widths"]
        found["part"] = "both"
    return found


def completed(config: Mapping[str, Any], state: State, origin: str) -> dict[str, Any]:
    """A config with what the weights say where it says nothing.

    Raises:
        BadInput: it says something else than the weights; names the first such key.
    """
    if not is_stylegan2(state):
        return dict(config)  # whatever is missing is said when the weights are fitted
    found = config_of(state, origin)
    for key, given in config.items():
        said, has = given, found.get(key, given)
        if key == "channel_multiplier" and isinstance(given, int):
            said, has = public_widths(found["size"], given), found["widths"]
        if said != has:
            raise BadInput(f"{origin}.{key}: {given!r} does not suit the weights, which have {has!r}",
                           "leave it out, for it is read off the weights; or name other weights")
    return {key: value for key, value in config.items() if key != "channel_multiplier"} | found


def _parts(state: State) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The generator's tensors and the discriminator's, by their names in the public files."""
    generator, discriminator = ({name.removeprefix(prefix): tensor for name, tensor in state.items()
                                 if name.startswith(prefix)} for prefix in (GENERATOR, DISCRIMINATOR))
    if generator or discriminator:
        return generator, discriminator
    return ({}, dict(state)) if "final_linear.1.weight" in state else (dict(state), {})


def _of_generator(state: State, origin: str) -> dict[str, Any]:
    levels = _numbered(state, "to_rgbs.")
    widths = [_length(state, "conv1.conv.weight", 1, origin)]
    widths += [_length(state, f"convs.{2 * level}.conv.weight", 1, origin) for level in range(levels)]
    return {
        "size": GRID * 2**levels,
        "latent_dim": _length(state, "style.1.weight", 1, origin),
        "mapping": _numbered(state, "style.") - 1,  # the first is no layer: it normalises
        "channels": _length(state, "to_rgb1.conv.weight", 1, origin),
        "widths": widths,
        "part": "generator",
    }


def _of_discriminator(state: State, origin: str) -> dict[str, Any]:
    levels = _numbered(state, "convs.") - 1  # the first changes no resolution
    widths = [_length(state, "convs.0.0.weight", 0, origin)]
    widths += [_length(state, f"convs.{1 + level}.conv2.1.weight", 0, origin) for level in range(levels)]
    return {
        "size": GRID * 2**levels,
        "channels": _length(state, "convs.0.0.weight", 1, origin),
        "widths": widths[::-1],
        "part": "discriminator",
    }


def _numbered(state: State, prefix: str) -> int:
    """One more than the highest number that follows the prefix."""
    numbers = [name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)]
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def _length(state: State, name: str, axis: int, origin: str) -> int:
    tensor = state.get(name)
    if tensor is None or tensor.ndim <= axis:
        raise BadInput(f"{origin}: {name} is {'missing' if tensor is None else list(tensor.shape)}",
                       "fetch the file again, or name its architecture")
    return tensor.shape[axis]
