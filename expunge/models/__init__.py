"""Model families: generators with their discriminators (`Gan`), classifiers and flows; their files, their names."""

from expunge.models.checkpoints import (
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
from expunge.models.registry import BUILDERS, build

__all__ = [
    "BUILDERS", "Classifier", "Flow", "Gan", "ModelSpec", "build", "completed", "fit", "is_factory", "load",
    "load_recorded", "own_interface", "read", "recognised", "save",
]
