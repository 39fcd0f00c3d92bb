"""Unlearning methods by name: the built-in ones, and those that installed packages offer.

A package adds a method by an entry point in the group `expunge.methods` that names a `Method`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from expunge.errors import BadInput
from expunge.methods.method import Method

GROUP = "expunge.methods"
# By name, not by import: a change to one method must not look like a change to every room that asks for one.
BUILT_IN = ("adapt_then_unlearn", "data_redaction", "extrapolation", "fine_tune", "retrain")

__all__ = ["GROUP", "Method", "available", "find", "known"]


def available() -> dict[str, Method]:
    """Every method by name; a built-in one cannot be replaced from outside.

    Raises:
        BadInput: an installed entry point does not name a `Method`.
    """
    built_in: dict[str, Method] = {name: import_module(f"expunge.methods.{name}").METHOD for name in BUILT_IN}
    installed = {}
    for point in entry_points(group=GROUP):
        if point.name in built_in:
            continue
        method = point.load()
        if not isinstance(method, Method):
            raise BadInput(f"entry point {point.value!r} is not a Method", "name an expunge.methods.Method")
        installed[point.name] = method
    return installed | built_in


def known(name: str) -> Method:
    """The method of that name.

    Raises:
        BadInput: there is none.
    """
    methods = available()
    if name not in methods:
        raise BadInput(f"method {name!r} is not known", f"use one of {', '.join(sorted(methods))}")
    return methods[name]


def find(name: str, family: str) -> Method:
    """The method of that name, for that family of models.

    Raises:
        BadInput: there is none, or it is for another family.
    """
    method = known(name)
    if method.family != family:
        fitting = [other.name for other in available().values() if other.family == family]
        raise BadInput(
            f"method {name!r} is for {method.family} models, and this one is a {family}",
            f"use {' or '.join(fitting)}" if fitting else "no method is installed for its family",
        )
    return method
