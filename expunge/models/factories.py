"""A user's own architecture: one Python file, and in it a function or class that builds the model."""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from expunge.digests import sha256_bytes
from expunge.errors import BadInput, ExpungeError
from expunge.models.guests import as_module

HOW = "give path/to/file.py:factory"


def is_factory(architecture: str) -> bool:
    """Whether an architecture names a user's factory, not a built-in one."""
    return ".py:" in architecture


def factory_file(architecture: str) -> Path:
    """The file of `path/to/file.py:factory`."""
    return Path(architecture.rpartition(":")[0])


def build_from_factory(architecture: str, config: dict[str, Any]) -> nn.Module:
    """Runs the user's code; what it prints goes to standard error.

    Raises:
        BadInput: the file or the factory does not exist, raises, does not take `config`, or returns no model.
    """
    file, name = factory_file(architecture), architecture.rpartition(":")[2]
    with contextlib.redirect_stdout(sys.stderr):
        factory = _loaded(file, architecture).get(name)
        if not callable(factory):
            raise BadInput(f"architecture {architecture!r}: {file.name} has no {name!r}()", "name one it defines")
        with contextlib.suppress(ValueError):  # a factory in C has no signature to look at
            try:
                inspect.signature(factory).bind(**config)
            except TypeError as error:
                raise BadInput(f"config of architecture {architecture!r}: {error}",
                               "check its factory's arguments") from error
        with _blaming(architecture, f"{name}()"):
            made = factory(**config)
    return as_module(made, architecture)


def _loaded(file: Path, architecture: str) -> dict[str, Any]:
    try:
        source = file.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"architecture {architecture!r}: no such file", HOW) from None
    except OSError as error:
        raise BadInput(f"architecture {architecture!r}: {error.strerror}", HOW) from None
    # Not imported: that would leave a bytecode file beside the user's own, and read the file a second time.
    module = types.ModuleType(f"expunge_factory_{sha256_bytes(source)[:16]}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses and typing look their module up by name
    with _blaming(architecture, file.name):
        exec(compile(source, str(file), "exec"), module.__dict__)
    return module.__dict__


@contextlib.contextmanager
def _blaming(architecture: str, what: str) -> Iterator[None]:
    """Whatever the user's code raises becomes one line that says whose it is."""
    try:
        yield
    except ExpungeError:
        raise
    except ImportError as error:
        raise BadInput(f"architecture {architecture!r}: {what} cannot import {error.name or error}",
                       "a factory is one file: it may import what is installed, not its neighbours") from error
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())[:200]
        raise BadInput(f"architecture {architecture!r}: {what} raised {type(error).__name__}"
                       f"{f': {said}' if said else ''}", "mend the factory") from error


