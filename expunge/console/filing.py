"""Filing a request: walls for a person to mark, and what becomes of the marks. Draws nothing itself.

What a person has marked is kept on the server, encrypted under the wall's key, and shown to nobody else: a browser that
is closed loses nothing.
"""

import base64
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from expunge.assets import SCHEME
from expunge.console.app import Console, Forbidden
from expunge.console.identity import Asking, entries_of, roles_of
from expunge.contracts import (
    ClassifierSource,
    DataSource,
    Digest,
    Forget,
    Frozen,
    Identifier,
    MethodChoice,
    ParentSource,
    Person,
    Reason,
    Request,
    Sampling,
    Source,
    describe,
    shorten,
)
from expunge.contracts.requests import Classes
from expunge.errors import BadInput
from expunge.evidence import policies
from expunge.evidence.coherence import read_policy
from expunge.evidence.decisions import same_person
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import AskedPredicate, Statement, sign_statement
from expunge.measure.needed import CONFIDENCE, PAIRED, RATE, SEARCH, Drawing, needs
from expunge.samples.encryption import RequestKey
from expunge.samples.labels import FEWEST_NEGATIVES, UNKNOWN, by_probability
from expunge.samples.marked import WALL, keep_marked
from expunge.samples.table import SampleTable
from expunge.settings import allowed_roots
from expunge.stores import releases, sources
from expunge.stores.addresses import scheme, shown
from expunge.stores.queue import Queue, Seen, file_request, ready_to_file, store_of
from expunge.stores.walls import KEPT_DAYS, SAMPLES_FILE, About, Marks, Wall, WallOrder, Walls

ROLE = "requester"
LAPTOP = "this-machine"  # in the place of a name, where a laptop's console was given none
_MARK = {"unwanted": b"u"[0], "wanted": b"w"[0], "nothing": b"."[0]}


class WallWish(Frozen):
    """What somebody wants to look at: what a generator draws, sorted by an oracle, or the images of a data set."""

    of: Literal["samples", "images"] = "samples"
    checkpoint: ParentSource
    oracle: ClassifierSource | None = None
    training: DataSource | None = None
    count: Annotated[int, Field(ge=100, le=20_000)] = 1_000
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    pictures: bool = True


class Marked(Frozen):
    """A mark for each of a wall, in order: u for unwanted, w for wanted, a dot for neither."""

    marks: Marks


class Filing(Frozen):
    """A request about what was marked on a wall. What it says nothing of is as in a request's file."""

    wall: Digest
    marks: Marks
    id: Identifier
    model: Identifier
    reason: Reason
    classes: Annotated[Classes, Field(min_length=1)]
    # Who speaks for samples that were not marked: the oracle, where it is sure, or nobody.
    rest: Literal["oracle", "nobody"] = "oracle"
    requester: Person | None = None  # who asks: of a laptop's console that was given no name
    due: date | None = None
    retain_until: date | None = None
    judge: ClassifierSource | None = None
    holdout: DataSource
    policy: Identifier = "standard"
    method: MethodChoice = MethodChoice(name="auto")
    sampling: Sampling = Sampling()  # how many are drawn to find the unwanted is as many as the wall has
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    show_before: bool | None = None


# ------------------------------------------------------------------------------------------------ who may


def requesters(console: Console) -> list[str]:
    """Everybody who may file, by the keyring."""
    return sorted({entry.person for entry in Keyring.load(console.workspace).entries
                   if entry.counts_now and ROLE in entry.roles})


def owner_of(console: Console, asking: Asking) -> str:
    """Whose walls somebody sees: their own. Forbidden for whoever may not file."""
    if asking.person is None:
        return LAPTOP
    if ROLE not in roles_of(entries_of(Keyring.load(console.workspace), asking.person)):
        raise Forbidden(f"{asking.person} is no requester: an admin enters a key with that role")
    return asking.person


def _requester(console: Console, asking: Asking, named: str | None) -> str:
    """Who asks: whoever it is, or on a laptop without a name whoever they say, by the keyring."""
    known = requesters(console)
    if asking.person is not None:
        if named is not None and not same_person(named, asking.person):
            raise Forbidden(f"{asking.person} files as nobody else")
        return next(person for person in known if same_person(person, asking.person))
    if not known:
        raise BadInput("requester: nobody here may file", f"expunge keys new NAME --role {ROLE}")
    found = [person for person in known if named is not None and same_person(person, named)]
    if not found:
        raise BadInput(f"requester: say who asks; who may is {shorten(', '.join(known))}", "choose one of them")
    return found[0]


# ------------------------------------------------------------------------------------------------ walls


def ask(console: Console, asking: Asking, wish: WallWish) -> Wall:
    """Asks a worker for a wall.

    Raises:
        Forbidden: they may not file.
        BadInput: a source may not be used from the console, or does not belong there.
    """
    owner, walls = owner_of(console, asking), Walls(console.workspace)
    walls.expire()
    try:
        order = WallOrder(by=owner, **{
            name: _settled(console, name, value) if isinstance(value, Source) else value
            for name, value in ((name, getattr(wish, name)) for name in type(wish).model_fields)})
    except ValidationError as error:
        raise BadInput(*describe(error, "wall")) from None
    wall = walls.ask(order)
    try:
        _enter(console, AskedPredicate(
            what="look", by=owner, asked_sha256=wall.sha256, checkpoint=shorten(shown(order.checkpoint.uri)),
            samples=order.count if order.of == "samples" else 0, at=_now()))
    except BaseException:
        walls.delete(wall.sha256)  # nobody looks without an entry
        raise
    return wall


def delete(console: Console, asking: Asking, sha256: str) -> None:
    """Destroys a wall of theirs."""
    owner, walls = owner_of(console, asking), Walls(console.workspace)
    walls.find(sha256, owner)
    walls.delete(sha256)
    _enter(console, AskedPredicate(what="delete", by=owner, asked_sha256=sha256, at=_now()))


def described(wall: Wall) -> dict[str, Any]:
    """A wall, for its owner."""
    ticket, order = wall.seen.ticket, wall.order
    return {"wall": wall.sha256, "of": order.of, "state": wall.state, "checkpoint": shown(order.checkpoint.uri),
            "oracle": shown(order.oracle.uri) if order.oracle else None,
            "training": shown(order.training.uri) if order.training else None, "count": order.count,
            "seed": order.seed, "pictures": order.pictures, "asked_at": ticket.filed_at, "error": ticket.last_error,
            "kept_days": KEPT_DAYS}


def _settled(console: Console, field: str, source: Source) -> Any:
    """A source as a worker finds it, wherever it works.

    Raises:
        BadInput: it is code, or a file of the server's where it is not for everybody to name those.
    """
    if sources.is_own_code(source):
        raise BadInput(f"{field}.architecture: code of one's own is not taken in here",
                       "file the request with 'expunge queue file'")
    if scheme(source.uri) not in ("", "file"):
        return source
    if not console.identity.is_for_one and allowed_roots() is None:
        raise BadInput(f"{field}.uri: files of the server are not read for whoever asks",
                       "name what is in a store, or have EXPUNGE_ROOTS say which folders may be read")
    if scheme(source.uri) == "file":
        return source
    return source.model_copy(update={"uri": str(console.workspace.root.parent / source.uri)})


# ------------------------------------------------------------------------------------------------ how sure


def chances(console: Console, unwanted: int, count: int, policy: str, sampling: Sampling) -> list[dict[str, Any]]:
    """What rules can come to that count samples, if so many of those looked at are unwanted: by the gate's arithmetic.

    Raises:
        BadInput: there is no such policy.
    """
    rules = read_policy(policies.policy_file(console.workspace, policy))
    found = needs(rules, Drawing(sampling.evaluate, CONFIDENCE, unwanted / count, sampling.search or None,
                                 sampling.sequential))
    return [rule.model_dump(mode="json") for rule in found if rule.metric in (RATE, SEARCH, PAIRED)]


# ------------------------------------------------------------------------------------------------ filing


def file(console: Console, asking: Asking, filing: Filing) -> dict[str, Any]:
    """Keeps what was marked as an encrypted, versioned set, and files the request that names it.

    Raises:
        Forbidden: they may not file.
        BadInput: a field cannot be used, or too little was marked.
        Refused: a source is not what the request pins, or the request was disposed of.
    """
    workspace, walls = console.workspace, Walls(console.workspace)
    wall = walls.find(filing.wall, owner_of(console, asking))
    requester = _requester(console, asking, filing.requester)
    _refuse_taken(Queue.of(workspace), filing.id, requester, RequestKey.file(workspace, filing.id).exists())
    walls.mark(wall, filing.marks)
    about = walls.about(wall)
    asked = _request(console, filing, wall.order, about, requester)
    ready_to_file(workspace, store_of(workspace), asked, workspace.root)  # before anything is kept for it
    marked = 0
    if wall.order.of == "samples":
        table, by_person = _labelled(walls, wall, about, filing)
        marked = len(table)
        uri = keep_marked(workspace, filing.id, table, by=requester, by_person=by_person, classes=about.names,
                          made_from={"checkpoint": str(about.checkpoint_sha256), "oracle": str(about.oracle_sha256),
                                     WALL: wall.sha256})
        asked = asked.model_copy(update={"labels": DataSource(uri=uri)})
    ticket, filed_now = file_request(workspace, asked, workspace.root, by=requester)
    if filed_now:
        try:
            _enter(console, AskedPredicate(
                what="file", by=requester, asked_sha256=ticket.request_sha256, request_id=ticket.request_id,
                samples=marked, checkpoint=shorten(shown(asked.checkpoint.uri)), at=_now()))
        except BaseException:
            queue = Queue.of(workspace)
            queue.withdraw(queue.find(ticket.request_sha256))  # nothing is asked for without an entry
            raise
    return {"request_id": ticket.request_id, "request_sha256": ticket.request_sha256, "stage": ticket.stage,
            "filed_now": filed_now, "marked": marked}


def known_models(console: Console, walls: Iterable[dict[str, Any]]) -> list[str]:
    """What may be meant as a checkpoint: what is released here, what they have looked at, what ships."""
    released = [f"{sources.RELEASE}://{model}" for model in releases.models(console.workspace)]
    return list(dict.fromkeys([*released, *(wall["checkpoint"] for wall in walls), f"{SCHEME}digits/dcgan"]))


def filed(console: Console) -> list[dict[str, Any]]:
    """Filed requests and how far each has come, the latest first."""
    return [_told(seen) for seen in reversed(Queue.of(console.workspace).all())]


def _told(seen: Seen) -> dict[str, Any]:
    ticket = seen.ticket
    return {"request_id": ticket.request_id, "request_sha256": ticket.request_sha256, "model": ticket.model,
            "filed_by": ticket.filed_by, "filed_at": ticket.filed_at, "stage": ticket.stage, "run": ticket.run,
            "outcome": ticket.outcome, "error": ticket.last_error}


def _refuse_taken(queue: Queue, request_id: str, requester: str, has_key: bool) -> None:
    """BadInput for the id of somebody else's request: what is kept for it would be under one key."""
    mine = any(seen.ticket.request_id == request_id and same_person(seen.ticket.filed_by, requester)
               for seen in queue.all())
    if has_key and not mine:
        raise BadInput(f"id: there is a request '{request_id}' that {requester} has not filed", "choose another id")


def _request(console: Console, filing: Filing, order: WallOrder, about: About, requester: str) -> Request:
    """The request, but for the labels of what was drawn."""
    of_samples = order.of == "samples"
    pins = {"checkpoint": about.checkpoint_sha256, "oracle": about.oracle_sha256}
    given: dict[str, Any] = {
        name: source.model_copy(update={"sha256": pins[name]}) if pins.get(name) else source
        for name, source in (("checkpoint", order.checkpoint), ("oracle", order.oracle), ("training", order.training))
        if source is not None}
    given |= {name: _settled(console, name, source) for name in ("judge", "holdout")
              if (source := getattr(filing, name)) is not None}
    images = () if of_samples else tuple(np.flatnonzero(_marked(filing.marks, "unwanted")).tolist())
    if of_samples:
        given |= {"seed": order.seed, "sampling": filing.sampling.model_copy(update={"curate": order.count})}
    elif "sampling" in filing.model_fields_set:
        given["sampling"] = filing.sampling
    given |= {name: value for name in ("due", "retain_until", "show_before")
              if (value := getattr(filing, name)) is not None}
    try:
        return Request(id=filing.id, requester=requester, reason=filing.reason, model=filing.model,
                       forget=Forget(classes=filing.classes, images=images), policy=filing.policy,
                       method=filing.method, threads=filing.threads, **given)
    except ValidationError as error:
        raise BadInput(*describe(error, "request")) from None


def _labelled(walls: Walls, wall: Wall, about: About, filing: Filing) -> tuple[SampleTable, int]:
    """The samples that somebody spoke for, labelled by the oracle's numbers, and how many a person has marked.

    Raises:
        BadInput: too few are unwanted, or too few are to stay.
    """
    unwanted = Forget(classes=filing.classes).numbers("the oracle", about.names, about.known)
    columns = np.array(about.shown)
    probabilities = np.frombuffer(base64.b64decode(about.probabilities), np.uint8).reshape(about.count, -1) / 255
    lost = np.isin(columns, unwanted)
    goes, stays = _marked(filing.marks, "unwanted"), _marked(filing.marks, "wanted")
    by_person = int(goes.sum() + stays.sum())
    if filing.rest == "oracle":
        silent = ~(goes | stays)
        by_oracle = by_probability(probabilities, np.flatnonzero(lost).tolist())
        goes, stays = goes | (silent & by_oracle[0]), stays | (silent & by_oracle[1])
    for what, chosen in (("unwanted", goes), ("to stay", stays)):
        if int(chosen.sum()) < FEWEST_NEGATIVES:
            raise BadInput(f"marks: only {int(chosen.sum())} samples are {what}, it takes {FEWEST_NEGATIVES}",
                           "mark more of them, let the oracle speak for the rest, or look at more samples")
    labels = np.full(about.count, UNKNOWN)
    labels[goes] = _most_likely(probabilities[goes], columns, lost, unwanted)
    labels[stays] = _most_likely(probabilities[stays], columns, ~lost, [
        number for number in range(about.known) if number not in unwanted])
    sealed = walls.read(wall.sha256, SAMPLES_FILE)
    assert sealed is not None
    drawn = SampleTable.from_parquet(sealed)
    chosen = goes | stays
    return SampleTable(drawn.images, labels, drawn.latents)[chosen], by_person


def _most_likely(probabilities: NDArray[np.float64], columns: NDArray[np.int64], among: NDArray[np.bool_],
                 numbers: Iterable[int]) -> NDArray[np.int64]:
    """The likeliest [N] of the classes that may be meant; the first of `numbers` if the oracle says nothing of any."""
    if not among.any():
        first = next(iter(numbers), None)
        if first is None:
            raise BadInput("classes: nothing would be left", "leave some out")
        return np.full(len(probabilities), first)
    found: NDArray[np.int64] = columns[among][probabilities[:, among].argmax(1)]
    return found


def _marked(marks: str, how: str) -> NDArray[np.bool_]:
    return np.frombuffer(marks.encode(), np.uint8) == _MARK[how]


def _enter(console: Console, said: AskedPredicate) -> None:
    Ledger.open(console.workspace).append(
        sign_statement(Statement.over({}, said), SigningKey.load(console.workspace, OPERATOR)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
