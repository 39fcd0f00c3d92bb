"""What `expunge methods` says of a method: all of it is declared by the method itself."""

from collections.abc import Iterable, Mapping
from typing import Any

from expunge.contracts import Claim, Frozen
from expunge.methods import BUILT_IN, available, known
from expunge.methods.choosing import ALWAYS, WORDS
from expunge.methods.method import Method, Need


class Parameter(Frozen):
    """One of a method's settings."""

    name: str
    default: Any
    allowed: str  # the values that it takes, in words
    meaning: str


class ByAuto(Frozen):
    """When `method: auto` takes a method."""

    order: int  # the lowest of those that can work on a request is taken
    because: str
    given: tuple[Need, ...]  # what the request must bring for that, besides what the method needs


class Explained(Frozen):
    """A method, for people who have to choose one."""

    name: str
    family: str
    baseline: bool
    built_in: bool
    does: str
    choose: str
    needs: tuple[Need, ...]
    costs: str
    claim: Claim
    paper: str
    auto: ByAuto | None
    presets: dict[str, dict[str, Any]]  # what each changes of the parameters' defaults
    parameters: tuple[Parameter, ...]


def explain(method: Method) -> Explained:
    """What a method says of itself."""
    schema = method.params.model_json_schema(mode="serialization")
    chosen = method.preference if not method.baseline else None
    return Explained(
        name=method.name, family=method.family, baseline=method.baseline, built_in=method.name in BUILT_IN,
        does=method.does, choose=method.choose, needs=method.needs, costs=method.costs, claim=method.claim,
        paper=method.paper,
        auto=chosen and ByAuto(order=chosen.order, because=chosen.because, given=chosen.given),
        presets={name: dict(changed) for name, changed in method.presets.items()},
        parameters=tuple(
            Parameter(name=name, default=field.get("default"), allowed=_allowed(field, schema.get("$defs", {})),
                      meaning=field.get("description", ""))
            for name, field in schema["properties"].items()))


def explain_all() -> list[Explained]:
    """Every method: by family, those that are not there to be compared with first."""
    return sorted((explain(method) for method in available().values()),
                  key=lambda each: (each.family, each.baseline, each.name))


def explain_one(name: str) -> Explained:
    """The method of that name; BadInput if there is none."""
    return explain(known(name))


def in_words(needs: Iterable[Need]) -> str:
    """What has to be brought for these, in words; empty if every request brings them."""
    return " and ".join(WORDS[need] for need in needs if not any(need in always for always in ALWAYS.values()))


def _allowed(field: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    """The values that a field of a JSON schema takes, in words."""
    if "$ref" in field:
        return _allowed(shared[field["$ref"].rpartition("/")[2]], shared)
    if "anyOf" in field:
        return " or ".join(_allowed(option, shared) for option in field["anyOf"])
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    limits = [f"{sign} {field[name]:g}" for name, sign in _LIMITS.items() if name in field]
    return f"{_TYPES.get(field.get('type', ''), 'anything')} {', '.join(limits)}".rstrip()


_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text",
          "array": "list", "object": "keys and values", "null": "nothing"}
