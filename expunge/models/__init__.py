"""Model families: generators with their discriminators (`Gan`), and classifiers; their files, their names."""

from expunge.models.checkpoints import ModelSpec, fit, load, load_recorded, read, save
from expunge.models.classifiers import Classifier
from expunge.models.factories import is_factory
from expunge.models.gan import Gan
from expunge.models.registry import BUILDERS, build

__all__ = [
    "BUILDERS", "Classifier", "Gan", "ModelSpec", "build", "fit", "is_factory", "load", "load_recorded", "read", "save",
]
