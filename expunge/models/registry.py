"""Architectures by name, and by a user's own factory."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from expunge.errors import BadInput
from expunge.models.classifiers import build_lenet, build_resnet
from expunge.models.dcgan import build_dcgan

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "dcgan": build_dcgan,
    "lenet": build_lenet,
    "resnet": build_resnet,
}


def build(architecture: str, **config: Any) -> nn.Module:
    """A freshly initialised model.

    Args:
        architecture: a name in `BUILDERS`, or `path/to/file.py:factory`, which runs the user's own code.
        config: keyword arguments of the builder.

    Raises:
        BadInput: the name or the factory does not exist, or the config does not suit it.
    """
    builder = _factory(architecture) if ".py:" in architecture else BUILDERS.get(architecture)
    if builder is None:
        raise BadInput(
            f"unknown architecture {architecture!r}",
            f"use {', '.join(sorted(BUILDERS))}, or path/to/file.py:factory",
        )
    try:
        return builder(**config)
    except TypeError as error:
        raise BadInput(
            f"config of architecture {architecture!r}: {error}", "check its builder's arguments"
        ) from error


def _factory(architecture: str) -> Callable[..., nn.Module]:
    file, _, name = architecture.rpartition(":")
    if not Path(file).is_file():
        raise BadInput(f"architecture {architecture!r}: no such file", "give path/to/file.py:factory")
    factory = runpy.run_path(file).get(name)
    if not callable(factory):
        raise BadInput(f"architecture {architecture!r}: {file} has no {name!r}()", "name one it defines")
    found: Callable[..., nn.Module] = factory
    return found
