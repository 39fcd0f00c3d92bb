"""`method: auto`: which method suits a request, and why; and what a method lacks in a request.

No method is known here by name. One takes part if it declares a `Preference` and is no baseline, a package's own as
well as a built-in one. Of those for the model's family that find what they need in the request, the lowest order
is taken; at the same order a built-in one first, then by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from expunge.contracts import AUTO, Family, MethodChoice, Request
from expunge.errors import BadInput
from expunge.families import words
from expunge.methods import BUILT_IN, available, find
from expunge.methods.method import Method, Need, Preference

# What every request of a family brings: a generator's samples are drawn, and an oracle is always named.
ALWAYS: dict[Family, frozenset[Need]] = {"gan": frozenset({"negative", "positive", "oracle"}),
                                         "classifier": frozenset(), "flow": frozenset(), "image_to_image": frozenset()}
_BY_TRAINING: frozenset[Need] = frozenset({"forget", "retain"})

WORDS: dict[Need, str] = {
    "negative": "samples of the model's own that are unwanted",
    "positive": "samples of the model's own that are wanted",
    "forget": "real images of what is to be forgotten",
    "retain": "real images of what is to stay",
    "oracle": "an oracle",
}


def may_read(request: Request) -> str:
    """What training is let see of a request, in words."""
    own = ["the model's own samples and the oracle"] if ALWAYS[request.family] else []
    kept = "" if request.proxy is not None else " and to keep"
    real = [f"of training, images to forget{kept}"] if request.training is not None else []
    proxy = ["of proxy, images in the place of those to keep"] if request.proxy is not None else []
    return "; ".join([*own, *real, *proxy])


def brought(request: Request) -> frozenset[Need]:
    """What a method will find in a request, as far as that can be known before anything is drawn."""
    always = ALWAYS[request.family]
    return always | _BY_TRAINING if request.training is not None else always


def decided(request: Request, family: str) -> MethodChoice:
    """The request's choice of a method with nothing left open: `auto` becomes a name and a reason.

    What was chosen for an earlier run is chosen again: a pinned request can be handed in like any other.

    Raises:
        BadInput: no method of the family can work with what the request brings.
    """
    asked = request.method
    if asked.name != AUTO and asked.chosen is None:
        return asked
    candidates = _candidates(family)
    lacking = {method.name: _missing((*method.needs, *preference.given), request) for method, preference in candidates}
    for place, (method, preference) in enumerate(candidates):
        if not lacking[method.name]:
            given = "training images" if request.training is not None else "no training images"
            why = [f"given {given}: {preference.because}",
                   *(f"{other.name} would come first with {_listed(lacking[other.name])}"
                     for other, _ in candidates[:place])]
            return MethodChoice(name=method.name, preset=asked.preset, chosen="; ".join(why))
    if not candidates:
        raise BadInput(f"method: 'auto' has none to choose from for {words(family)}", "name one: see 'expunge methods'")
    would = "; ".join(f"{name} needs {_listed(missing)}" for name, missing in lacking.items())
    raise BadInput(f"method: 'auto' finds none for what this request brings ({would})",
                   "name labelled images that training may read (training), or name a method")


def suited(request: Request, family: str) -> Method:
    """The method of a pinned request: known, with a preset and parameters that it knows, and all that it needs.

    Raises:
        BadInput: one of these is not so; or the request still says `auto`, or that `auto` chose what it would not.
    """
    choice = request.method
    if choice.name == AUTO:
        raise BadInput("method: 'auto' is still open, and what a run is to do must be settled",
                       "begin it with 'expunge run', or name the method")
    if choice.chosen is not None and (would := decided(request, family)) != choice:
        raise BadInput(f"method.chosen: 'auto' comes to something else here: {would.name}, {would.chosen}",
                       "write 'method: auto', or name the method and leave 'chosen' out")
    method = find(choice.name, family)
    method.parameters(choice.preset, choice.params)
    missing = _missing(method.needs, request)
    if missing:
        others = [other.name for other, _ in _candidates(family) if not _missing(other.needs, request)]
        raise BadInput(f"training: method {method.name!r} needs {_listed(missing)}, and the request names no images",
                       " ".join(["name labelled ones", *(["or choose", " or ".join(others)] if others else [])]))
    return method


def _candidates(family: str) -> list[tuple[Method, Preference]]:
    """The methods of a family that may be chosen, with when and why; the preferred first."""
    known = [(method, method.preference) for method in available().values()
             if method.family == family and method.preference is not None and not method.baseline]
    return sorted(known, key=lambda each: (each[1].order, each[0].name not in BUILT_IN, each[0].name))


def _missing(needs: Iterable[Need], request: Request) -> list[Need]:
    """Which of these the request does not bring."""
    brings = brought(request)
    return [need for need in dict.fromkeys(needs) if need not in brings]


def _listed(needs: Iterable[Need]) -> str:
    return " and ".join(WORDS[need] for need in needs)
