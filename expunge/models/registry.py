"""Architectures by name, and by a user's own factory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from expunge.errors import BadInput
from expunge.models.cifar_resnet import build_resnet_20, build_resnet_56
from expunge.models.classifiers import build_lenet, build_resnet
from expunge.models.clip import build_clip
from expunge.models.dcgan import build_dcgan
from expunge.models.factories import build_from_factory, is_factory
from expunge.models.glow import build_glow
from expunge.models.inception import build_inception_v3
from expunge.models.inpainting import build_inpainting
from expunge.models.mae import build_mae
from expunge.models.stylegan2 import build_stylegan2
from expunge.models.transformers_files import build_transformers
from expunge.models.vq_gan import build_vq_gan

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "clip": build_clip,
    "dcgan": build_dcgan,
    "diffusion-inpainting": build_inpainting,
    "glow": build_glow,
    "inception-v3": build_inception_v3,
    "lenet": build_lenet,
    "mae": build_mae,
    "resnet": build_resnet,
    "resnet-20": build_resnet_20,
    "resnet-56": build_resnet_56,
    "stylegan2": build_stylegan2,
    "transformers": build_transformers,
    "vq-gan": build_vq_gan,
}


def build(architecture: str, **config: Any) -> nn.Module:
    """A freshly initialised model.

    Args:
        architecture: a name in `BUILDERS`, or `path/to/file.py:factory`, which runs the user's own code.
        config: keyword arguments of the builder.

    Raises:
        BadInput: the name or the factory does not exist, or the config does not suit it.
    """
    if is_factory(architecture):
        return build_from_factory(architecture, config)
    builder = BUILDERS.get(architecture)
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
