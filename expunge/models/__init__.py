"""Model families, and their files: generators with their discriminators, classifiers, flows, image-to-image models."""

from expunge.models.checkpoints import (
    Model,
    ModelSpec,
    completed,
    fit,
    load,
    load_recorded,
    own_interface,
    read,
    recognised,
    save,
)
from expunge.models.classifiers import Classifier
from expunge.models.factories import is_factory
from expunge.models.flow import Flow
from expunge.models.gan import Gan
from expunge.models.image_to_image import ImageToImage
from expunge.models.registry import BUILDERS, build

__all__ = [
    "BUILDERS", "Classifier", "Flow", "Gan", "ImageToImage", "Model", "ModelSpec", "build", "completed", "fit",
    "is_factory", "load", "load_recorded", "own_interface", "read", "recognised", "save",
]
