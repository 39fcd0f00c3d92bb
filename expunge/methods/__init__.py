"""Unlearning methods by name: the built-in ones, and those that installed packages offer.

A package adds a method by an entry point in the group `expunge.methods` that names a `Method`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from expunge.errors import BadInput
from expunge.families import words
from expunge.methods.method import Method

GROUP = "expunge.methods"
# By name, not by import: a change to one method must not look like a change to every room that asks for one.
BUILT_IN = (
    "adapt_then_unlearn", "data_redaction", "erwp", "extrapolation", "fine_tune", "fine_tune_classifier",
    "head_deletion", "image_to_image", "image_to_image_baselines", "random_labels", "retrain",
    "retrain_classifier", "taming_flow",
)

__all__ = ["GROUP", "Method", "available", "find", "known", "names"]


def names() -> list[str]:
    """The names of all methods; none of them is loaded."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def available() -> dict[str, Method]:
    """Every method by name.

    Raises:
        BadInput: a package's method cannot be had; says which package.
    """
    return {name: known(name) for name in names()}


def known(name: str) -> Method:
    """The method of that name, and no other is loaded; a built-in one cannot be replaced from outside.

    Raises:
        BadInput: there is none; or a package that offers it cannot be loaded, offers something else, or is not alone.
    """
    if name in BUILT_IN:
        built_in: Method = import_module(f"{__name__}.{name}").METHOD
        return built_in
    points = list(entry_points(group=GROUP, name=name))
    if not points:
        raise BadInput(f"method {name!r} is not known", f"use one of {', '.join(names())}")
    packages = " and ".join(sorted(point.dist.name if point.dist else point.value for point in points))
    if len(points) > 1:
        raise BadInput(f"method {name!r} is offered by {packages}", "uninstall all but one")
    try:
        method = points[0].load()
    except Exception as error:  # whatever a stranger's package does when it is imported
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"method {name!r} of {packages} cannot be loaded ({type(error).__name__}: {said})",
                       "mend the package, or uninstall it") from error
    if not isinstance(method, Method) or method.name != name:
        is_ = f"a method called {method.name!r}" if isinstance(method, Method) else type(method).__name__
        raise BadInput(f"method {name!r} of {packages}: {points[0].value} is {is_}",
                       "let the entry point name an expunge.methods.Method of its own name")
    return method


def find(name: str, family: str) -> Method:
    """The method of that name, for that family of models.

    Raises:
        BadInput: there is none, or it is for another family.
    """
    method = known(name)
    if method.family != family:
        fitting = [other.name for other in available().values() if other.family == family]
        raise BadInput(
            f"method {name!r} is for {method.family} models, and this one is {words(family)}",
            f"use {' or '.join(fitting)}" if fitting else "no method is installed for its family",
        )
    return method
