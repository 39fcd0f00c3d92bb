"""Which requests came before: what a workspace knows of how a checkpoint was made, back to where its chain began.

A candidate names the samples that it was taught with, those name their request, and a run keeps that request; a
release names its request itself. Every step is a digest, so what was changed since is not found rather than believed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from expunge.contracts import (
    RECORD_FILE,
    AnyRecord,
    Candidate,
    ClassifierSource,
    EarlierRequest,
    ParentSource,
    Request,
    SampleSet,
    read_record,
    read_record_if_any,
    shorten,
)
from expunge.digests import sha256_file
from expunge.errors import BadInput, Refused
from expunge.settings import Workspace
from expunge.stores import releases

Class = int | str


@dataclass(frozen=True)
class Past:
    """What made a model. Without `named_by` nothing is known of it here: it is a chain's first, or a stranger."""

    requests: tuple[EarlierRequest, ...] = ()  # oldest first
    classes: tuple[Class, ...] = ()  # that they were about as wholes, as the last of them calls them
    origin: ParentSource | None = None  # where the chain began; None also where a request did not say
    named_by: ClassifierSource | ParentSource | None = None  # whose names these are


def with_its_past(request: Request, workspace: Workspace) -> Request:
    """A pinned request, with what is known of the requests before it filled in.

    What the request says itself stands, unless the workspace knows otherwise.

    Raises:
        BadInput: what it states and what is known do not agree, or cannot be compared.
    """
    past = past_of(workspace, request.checkpoint.sha256 or "")
    if request.came_before and request.came_before != past.requests:
        raise BadInput("came_before: not the requests that made the checkpoint here", "leave it out: it is filled in")
    found = request.model_copy(update={
        "came_before": past.requests, "origin": _origin(request, past),
        "forget": request.forget.model_copy(update={
            "earlier": _earlier(request, past), "earlier_images": _earlier_images(request, past, workspace)})})
    if found.origin is not None and not (found.forget.earlier or found.forget.earlier_images or found.came_before):
        raise BadInput("origin: nothing was forgotten before this request, so there is no drift to measure from it",
                       "name what was in forget.earlier, or leave it out")
    if found.origin is not None and found.origin.sha256 == request.checkpoint.sha256:
        raise BadInput("origin: it is the checkpoint itself", "name the model from before the earlier requests")
    return found


def past_of(workspace: Workspace, sha256: str) -> Past:
    """What made the weights of that digest, as far as this workspace knows.

    Raises:
        BadInput: they were made here, and the request that they were made for is gone.
    """
    maker = _makers(workspace).get(sha256)
    if maker is None:
        return Past()
    request = _request(workspace, maker)
    before = Past(request.came_before, request.forget.earlier, request.origin)
    if before == Past():  # the first of its chain, or pinned by a version that did not ask what came before
        before = past_of(workspace, request.checkpoint.sha256 or "")
        before = replace(before, classes=_earlier(request, before))
    here = EarlierRequest(request_id=request.id, request_sha256=maker, candidate_sha256=sha256,
                          classes=request.forget.classes, images=len(set(request.forget.images)))
    whole = () if request.forget.images else request.forget.classes  # of single images, their class has not gone
    called = {_name(item, _names(request).classes): item for item in (*whole, *before.classes)}
    return Past((*before.requests, here), tuple(sorted(called.values(), key=str)),
                before.origin if before.requests or before.classes else request.checkpoint, _names(request))


def _makers(workspace: Workspace) -> dict[str, str]:
    """By the digest of weights made here, that of the request that they were made for.

    The same bytes made twice were made by the same training, on the same samples: either request says the same.
    """
    found = {release.weights.sha256: release.request_sha256
             for model in releases.models(workspace) for release in releases.history(workspace, model)}
    asked: dict[str, str] = {}
    for role in ("negative", "forget"):  # a model that draws nothing has only the second
        for file in sorted(workspace.results.glob(f"*/{role}/{RECORD_FILE}")):
            samples = _readable(SampleSet, file)
            if samples is not None:
                asked.setdefault(samples.set_id, samples.request_sha256)
    for file in sorted(workspace.results.glob(f"*/candidate/{RECORD_FILE}")):
        made = _readable(Candidate, file)
        taught = made and (made.negative_id or made.forget_id)
        if made is not None and taught in asked:
            found.setdefault(made.weights.sha256, asked[taught])
    return found


def _readable(kind: type[AnyRecord], file: Path) -> AnyRecord | None:
    """A result's record, if there is one.

    None also for one that was tampered with: it stays where it is, and `audit verify` names it.
    """
    try:
        return read_record_if_any(kind, file)
    except BadInput:
        return None


def _request(workspace: Workspace, sha256: str) -> Request:
    for file in sorted(workspace.runs.glob("*/request.json")):
        if sha256_file(file) == sha256:
            return read_record(Request, file)
    raise BadInput(f"checkpoint: it was made here for the request {sha256[:12]}…, which no run holds any more",
                   "put the folder of its run back: what it forgot has to stay forgotten")


# --------------------------------------------------------------------------------- what is said and what is known


def _earlier(request: Request, past: Past) -> tuple[Class, ...]:
    """The classes that have to stay forgotten, as this request calls them."""
    stated = request.forget.earlier
    if past.named_by is None:
        return stated
    # A classifier that was made to forget has its parent's classes, in their order.
    same = request.family == "classifier" or past.named_by.sha256 == _names(request).sha256
    known = {_name(item, past.named_by.classes): item for item in past.classes}
    ours = {_name(item, _names(request).classes) for item in stated}
    strange = [name for name in known if isinstance(name, int) and not same]
    if strange:  # two oracles' numbers: what a class was called there says nothing here
        if stated:
            return stated
        raise BadInput(f"forget.earlier: class {strange[0]} was forgotten before, by the numbers of another oracle",
                       "name what was forgotten as this request's oracle calls it")
    if stated and ours != known.keys():
        raise BadInput(f"forget.earlier: the request says {_listed(ours)}, the runs here that made the checkpoint say "
                       f"{_listed(known)}", "leave it out: it is filled in")
    return stated or tuple(item if same else name for name, item in known.items())


def _earlier_images(request: Request, past: Past, workspace: Workspace) -> tuple[int, ...]:
    """The numbers in this request's training images of single ones that earlier requests were about."""
    stated, known = request.forget.earlier_images, set[int]()
    for came in past.requests:
        before = _request(workspace, came.request_sha256)
        if before.forget.images:
            known |= _rows(before, request, workspace)
    if stated and known and known != set(stated):
        raise BadInput("forget.earlier_images: not those of which the runs here that made the checkpoint say so",
                       "leave it out: it is filled in")
    return stated or tuple(sorted(known))


def _rows(before: Request, request: Request, workspace: Workspace) -> set[int]:
    """Which of a request's training images are those single ones that an earlier request was about."""
    from expunge.stores import sources  # which knows of this module

    assert before.training is not None  # no flow forgets anything without
    assert request.training is not None
    if before.training.sha256 == request.training.sha256:
        return set(before.forget.images)
    try:
        gone = sources.images("training", before.training, workspace).table
    except (BadInput, Refused) as error:
        if request.forget.earlier_images:
            return set()
        raise BadInput(f"forget.earlier_images: the images that request {before.id} was about are not there any more "
                       f"({error.problem})", "put its training images back, or say which of this request's they are"
                       ) from error
    known = {pixels.tobytes() for pixels in gone[np.array(before.forget.images)].pixels}
    ours = sources.images("training", request.training, workspace).table
    return {number for number, pixels in enumerate(ours.pixels) if pixels.tobytes() in known}


def _names(request: Request) -> ClassifierSource | ParentSource:
    """By whose names a request says what is unwanted: its oracle's, its judge's, or its own, of a classifier's."""
    return request.oracle or request.judge or request.checkpoint


def _origin(request: Request, past: Past) -> ParentSource | None:
    stated, known = request.origin, past.origin
    if stated is not None and known is not None and stated.sha256 != known.sha256:
        raise BadInput(f"origin: the request names {(stated.sha256 or '')[:12]}…, the runs here that made the "
                       f"checkpoint began with {(known.sha256 or '')[:12]}…", "leave it out: it is filled in")
    return stated or known


def _name(item: Class, names: tuple[str, ...]) -> Class:
    return names[item] if isinstance(item, int) and item < len(names) else item


def _listed(items: Iterable[Class]) -> str:
    return shorten(", ".join(sorted(map(str, items))) or "nothing")
