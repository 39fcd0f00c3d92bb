"""The contract of a method: what it is called, what it is for, what it may claim, and its two functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from expunge.contracts import Claim
from expunge.errors import BadInput


def setting(default: Any, meaning: str, **limits: float) -> Any:
    """A field of a method's params: its meaning, with the unit and the paper's symbol where there is one."""
    return Field(default, description=meaning, **limits)  # type: ignore[call-overload]


def learn_nothing(parent: Any, material: Any, params: Any, session: Any) -> dict[str, Tensor]:
    """The `adapt` of a method that has no first stage: what is unwanted is not looked at beforehand."""
    return {}


# What a method may be given besides the parent: sets of samples by their role, and who says what is unwanted.
Need = Literal["negative", "positive", "forget", "retain", "oracle"]


@dataclass(frozen=True)
class Preference:
    """That `method: auto` may take a method: where, before which others, and why.

    Attributes:
        order: of the methods of a family that can work on a request, the one with the lowest is taken.
        because: what speaks for it; follows its name and a colon.
        given: it is taken only where the request brings these as well, though it could do without.
    """

    order: int
    because: str
    given: tuple[Need, ...] = ()


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
        adapt: (parent, material, params, session) -> what was learned, as named tensors; may be none.
        unlearn: (parent, adaptation, material, params, session) -> the new state.
        does: what it does, in a sentence.
        choose: when to choose it, in a sentence.
        costs: what it takes, in a sentence.
        needs: what it cannot work without, whatever its params.
        baseline: it is there to be compared with, and is never chosen by itself.
        preference: when `method: auto` takes it; None: only who names it gets it.
    """

    name: str
    family: str
    claim: Claim
    paper: str
    params: type[BaseModel]
    presets: Mapping[str, Mapping[str, Any]]
    adapt: Callable[..., dict[str, Tensor]]
    unlearn: Callable[..., dict[str, Tensor]]
    does: str
    choose: str
    costs: str
    needs: tuple[Need, ...] = ()
    baseline: bool = False
    preference: Preference | None = None

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
            field = self.params.model_fields.get(where)
            remedy = (f"the parameters are {', '.join(self.params.model_fields)}" if field is None
                      else f"it is {field.default!r} by default: {field.description}")
            raise BadInput(f"method.params.{where}: {first['msg']}", remedy) from error
