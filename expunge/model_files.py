"""Safetensors files as we write them: the tensors, and in the header what they are for. Reading that needs no torch."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from expunge.errors import BadInput

METADATA_KEY = "expunge"
NOT_OURS = (".pt", ".pth", ".bin")  # how the names of torch's own files end


class ModelSpec(BaseModel):
    """What a checkpoint's tensors are for.

    Attributes:
        architecture: a built-in name, or `path/to/file.py:factory`.
        config: the keyword arguments of its builder.
        family: `gan`, `classifier`, `flow` or `image_to_image`.
        classes: names of the classes, in the order of a classifier's logits; for what draws, of its data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    config: dict[str, Any] = {}
    family: str
    classes: tuple[str, ...] = ()

    def canonical_json(self) -> str:
        """Sorted keys, no spaces: equal specs give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


@contextmanager
def opened(source: Path, framework: str) -> "Iterator[tuple[safe_open, ModelSpec | None]]":
    """A safetensors file whose tensors can be asked for by name, in that framework, and its spec if it carries one.

    Raises:
        BadInput: it is truncated or no such file, or carries something else in the place of a spec.
    """
    try:
        with safe_open(source, framework=framework) as file:
            said = (file.metadata() or {}).get(METADATA_KEY)
            yield file, ModelSpec.model_validate_json(said) if said else None
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"checkpoint {source} is truncated or not a safetensors file", "write it again or fetch it again"
        ) from error
    except ValidationError as error:
        raise BadInput(
            f"checkpoint {source} carries an {METADATA_KEY!r} entry that is not a model spec", "save it again"
        ) from error


def spec_in(path: str | os.PathLike[str]) -> ModelSpec | None:
    """What a file says its tensors are for; None if it does not, or is no safetensors file. BadInput as in `opened`."""
    source = Path(path)
    if source.suffix in NOT_OURS or not source.is_file():
        return None
    with opened(source, "numpy") as (_, spec):
        return spec
