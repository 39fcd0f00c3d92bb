"""The contract of a method: what it is called, what it is for, what it may claim, and its two functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import Tensor

from expunge.contracts import Claim
from expunge.errors import BadInput


@dataclass(frozen=True)
class Method:
    """One way to make a model forget.

    Attributes:
        name: as in a request.
        family: the model family that it works on.
        claim: what a release made by it may say of itself.
        paper: where it comes from.
        params: its settings; frozen, unknown keys refused.
        presets: by name, the settings that differ from `params`' defaults; has `default`.
        adapt: (parent, negatives, params, session) -> what was learned, as named tensors.
        unlearn: (parent, adaptation, negatives, positives, oracle, params, session) -> the new state.
    """

    name: str
    family: str
    claim: Claim
    paper: str
    params: type[BaseModel]
    presets: Mapping[str, Mapping[str, Any]]
    adapt: Callable[..., dict[str, Tensor]]
    unlearn: Callable[..., dict[str, Tensor]]

    def parameters(self, preset: str = "default", overrides: Mapping[str, Any] | None = None) -> Any:
        """A preset's settings with some of them replaced.

        Raises:
            BadInput: the preset or a key is not known, or a value is out of range.
        """
        if preset not in self.presets:
            raise BadInput(
                f"method {self.name!r} has no preset {preset!r}", f"use one of {', '.join(sorted(self.presets))}"
            )
        try:
            return self.params.model_validate({**self.presets[preset], **(overrides or {})})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "params"
            known = ", ".join(self.params.model_fields)
            raise BadInput(f"method.params.{where}: {first['msg']}", f"the parameters are {known}") from error
