"""The queue of filed requests: what was asked for, and how far each has come. Never imports torch. See docs/queue.md.

Each filed request is a folder called by the digest of its bytes, under ``requests/`` in the workspace or, if
``config.yaml`` says so, under a prefix of S3 (the same names there)::

    <sha256>/request.json    as it was filed: never changed
    <sha256>/pinned-1.json   as the first worker pinned it: what every later attempt runs as well
    <sha256>/ticket.json     how far it has come: changed only by whoever read the version that it replaces

A worker holds a ticket by a lease, which it renews. Ages of leases and waits are told by the clock of whoever keeps the
tickets, never by a worker's: machines whose clocks disagree agree on them. A lease that ran out while its worker still
works does no harm, for the workspace itself lets only one run work at a time.

`file_request` is the one way in, for the command line and for the console.
"""

import fcntl
import functools
import json
import os
import re
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from expunge.configuration import Configuration
from expunge.contracts import Digest, Identifier, Person, Record, Request, parse_record, shorten
from expunge.custody import receipts
from expunge.digests import canonical_json, sha256_bytes, write_atomically
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, Refused, WorkspaceBusy
from expunge.evidence.ledger import Ledger
from expunge.runs import Run
from expunge.settings import Workspace
from expunge.stores import s3, sources
from expunge.stores.addresses import shown

FOLDER = "requests"  # of the workspace
REQUEST_FILE, TICKET_FILE, OWNER = "request.json", "ticket.json", "owner.json"
PROBE = ".conditional-writes"
ATTEMPTS = 3  # of each stage, running and releasing; a worker that was lost has had one
LEASE = 600.0  # seconds without a sign of its worker after which a request is taken over
FIRST_WAIT, LONGEST_WAIT = 60.0, 3600.0  # seconds before the second attempt, and before any; each four times the last

RELEASABLE = ("approved", "releasing")  # states of a run that a worker puts into service
Stage = Literal["filed", "claimed", "waiting", "released", "closed", "failed", "withdrawn"]
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Ticket(Record):
    """How far a filed request has come."""

    SCHEMA: ClassVar[str] = "expunge/ticket/v1"
    LEFT_OUT: ClassVar[frozenset[str]] = frozenset({"asked_by", "asked_at"})

    request_sha256: Digest  # of request.json
    request_id: Identifier
    model: Identifier
    filed_by: Person
    filed_at: str  # RFC 3339, UTC, by the clock of whoever filed it: for people, and for the order
    # filed: a worker may take it, after `wait`. claimed: a worker has it. waiting: for people's decision.
    # closed: it came to an end without a release. failed: given up. withdrawn: taken back by whoever filed it.
    stage: Stage = "filed"
    change: Annotated[int, Field(ge=1)] = 1  # one more with each version of this ticket
    round: Annotated[int, Field(ge=1)] = 1  # how many times it was filed
    attempts: Annotated[int, Field(ge=0)] = 0  # at the present stage, the one under way included
    wait: Annotated[float, Field(ge=0)] = 0.0  # seconds from this version on before a worker may take it
    lease: Annotated[float, Field(gt=0)] | None = None  # seconds from this version on that the worker has
    worker: str | None = None  # the last one that took it: machine and process
    run: Identifier | None = None  # that carries it out
    outcome: str | None = None  # the state that this run came to
    last_error: str | None = None  # of the last attempt that failed, one line
    asked_by: Person | None = None  # who asked that its run be released, if they were not those who filed it
    asked_at: str | None = None  # when, as `filed_at`
    nonce: str = ""

    @property
    def is_over(self) -> bool:
        """Whether no worker will touch it again."""
        return self.stage in ("released", "closed", "failed", "withdrawn")


@dataclass(frozen=True)
class Seen:
    """A ticket as it was at one moment. A change names it, and is not made if there is another version by then."""

    ticket: Ticket
    tag: str  # of this very version
    age: float  # seconds since it was written, by the clock of where it is kept

    @property
    def may_be_taken(self) -> bool:
        """Whether a worker may take it now: it waits and has waited long enough, or its worker has been lost."""
        if self.ticket.stage == "claimed":
            return self.age >= (self.ticket.lease or 0.0)
        return self.ticket.stage in ("filed", "waiting") and self.age >= self.ticket.wait


class TicketStore(ABC):
    """Where filed requests lie, as small files by name. Each method raises ExpungeError if it cannot be reached."""

    @abstractmethod
    def address(self, name: str) -> str:
        """The place of a file, for people."""

    @abstractmethod
    def require_ready(self, workspace: Workspace) -> None:
        """ExpungeError if nothing could be kept here safely, or if it is kept for another workspace."""

    @abstractmethod
    def filed(self, known: Mapping[str, str]) -> Iterator[tuple[str, bytes | None, str, float]]:
        """Every ticket, in no order: its request's digest, and what `read` gives of it.

        There are no bytes where `known` has this very version, by its tag under that digest, and it need not be read.
        """

    @abstractmethod
    def read(self, name: str) -> tuple[bytes, str, float] | None:
        """A file's bytes, the tag of this version, and its age in seconds by the clock here; None if there is none."""

    @abstractmethod
    def write(self, name: str, data: bytes, tag: str | None) -> str:
        """Writes a file in the place of the version of that tag, or where there was none; returns the new tag.

        Raises:
            WorkspaceBusy: there is another version by now, and it stays.
        """

    @abstractmethod
    def remove_all(self, sha256: str) -> None:
        """Removes everything that is kept under a digest."""

    def keep(self, name: str, data: bytes) -> bytes:
        """Writes a file that never changes, unless it is there already; returns what is there now."""
        if (there := self.read(name)) is not None:
            return there[0]
        try:
            self.write(name, data, None)
        except WorkspaceBusy:
            there = self.read(name)
            if there is None:
                raise
            return there[0]
        return data


class LocalTickets(TicketStore):
    """In a folder. A change holds its lock, and what time it is there the lock's own file tells."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def address(self, name: str) -> str:
        """The file's path."""
        return str(self._folder / name)

    def require_ready(self, workspace: Workspace) -> None:
        """It always is: it lies in the workspace."""

    def filed(self, known: Mapping[str, str]) -> Iterator[tuple[str, bytes | None, str, float]]:
        """By the folders that hold a ticket."""
        for file in self._folder.glob(f"*/{TICKET_FILE}"):
            if _SHA256.fullmatch(file.parent.name) and (found := self.read(f"{file.parent.name}/{TICKET_FILE}")):
                yield file.parent.name, *found

    def read(self, name: str) -> tuple[bytes, str, float] | None:
        """By the file's own times, as the file system has them."""
        if not (self._folder / name).exists():
            return None
        with self._locked() as at:
            try:
                data = (self._folder / name).read_bytes()
            except FileNotFoundError:  # removed in this very moment
                return None
            return data, sha256_bytes(data), at - (self._folder / name).stat().st_mtime

    def write(self, name: str, data: bytes, tag: str | None) -> str:
        """In one step, if it is still the version of that tag."""
        file = self._folder / name
        with self._locked():
            there = sha256_bytes(file.read_bytes()) if file.exists() else None
            if there != tag:
                raise _overtaken(self.address(name))
            write_atomically(file, data)
            return sha256_bytes(data)

    def remove_all(self, sha256: str) -> None:
        """The ticket goes first: without it there is nothing."""
        with self._locked():
            (self._folder / sha256 / TICKET_FILE).unlink(missing_ok=True)
            shutil.rmtree(self._folder / sha256, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[float]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.utime(handle.fileno())  # on a network's disk the server writes its own time
            yield os.fstat(handle.fileno()).st_mtime


class S3Tickets(TicketStore):
    """Under a prefix of a bucket. Writes are conditional, and ages are between two times of the server's."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def address(self, name: str) -> str:
        """Of the object."""
        return f"{self._prefix}/{name}"

    def require_ready(self, workspace: Workspace) -> None:
        """ExpungeError if the server lets anybody write over a ticket; Refused if another workspace's queue is here."""
        ours = canonical_json({"ledger": Ledger.existing(workspace).head.origin})
        if (there := self.read(OWNER)) is None:
            if not s3.heeds_conditions(self.address(PROBE)):
                raise ExpungeError(f"{shown(self._prefix)}: the S3 server does not heed If-Match and If-None-Match",
                                   "keep requests where there are conditional writes; nothing was changed")
            kept = self.keep(OWNER, ours)
        else:
            kept = there[0]
        if kept != ours:
            raise Refused(f"{shown(self._prefix)}: is the queue of another workspace",
                          "name a prefix of your own in config.yaml (requests)")

    def filed(self, known: Mapping[str, str]) -> Iterator[tuple[str, bytes | None, str, float]]:
        """By the objects that are tickets: a listing says their tags and ages, and those that changed are read."""
        bucket, _, prefix = self._prefix.removeprefix("s3://").partition("/")
        changed = []
        for key, tag, age in s3.versions(bucket, f"{prefix}/"):
            name, _, rest = key.removeprefix(f"{prefix}/").partition("/")
            if rest != TICKET_FILE or not _SHA256.fullmatch(name):
                continue
            if known.get(name) == tag:
                yield name, None, tag, age
            else:
                changed.append(name)
        if not changed:
            return
        with ThreadPoolExecutor(s3.WORKERS) as pool:
            for name, found in zip(changed, pool.map(self.read, (f"{name}/{TICKET_FILE}" for name in changed)),
                                   strict=True):
                if found is not None:
                    yield name, *found

    def read(self, name: str) -> tuple[bytes, str, float] | None:
        """As the server has it."""
        return s3.read_with_age(self.address(name))

    def write(self, name: str, data: bytes, tag: str | None) -> str:
        """On a condition that the server checks."""
        try:
            return s3.write_over(self.address(name), data, tag)
        except WorkspaceBusy:
            raise _overtaken(self.address(name)) from None

    def remove_all(self, sha256: str) -> None:
        """The ticket goes first: without it there is nothing."""
        s3.delete(self.address(f"{sha256}/{TICKET_FILE}"))
        bucket, _, prefix = self._prefix.removeprefix("s3://").partition("/")
        for key, _ in list(s3.listing(bucket, f"{prefix}/{sha256}/")):
            s3.delete(f"s3://{bucket}/{key}")


def store_of(workspace: Workspace, folder: str = FOLDER) -> TicketStore:
    """Where this workspace's filed requests lie, or beside them what else is asked of workers, by its folder's name.

    BadInput if its configuration cannot be read.
    """
    prefix = Configuration.load(workspace).requests
    if prefix is None:
        return LocalTickets(workspace.root / folder)
    return S3Tickets(prefix if folder == FOLDER else f"{prefix}/{folder}")


# ---------------------------------------------------------------------------------------------- filing


def file_request(workspace: Workspace, request: Request, folder: Path, by: str | None = None,
                 again: bool = False) -> tuple[Ticket, bool]:
    """Files a request, for whichever worker comes next; or finds that it was filed.

    It is filed by content: places become absolute, and each source is pinned by the digest of what lies there now. The
    same request about the same bytes is one, however often and from wherever it is filed.

    Args:
        workspace: Whose queue it is.
        request: As a person wrote it.
        folder: What its paths are relative to.
        by: Who files it; its requester if nobody is named.
        again: File one again that failed, was withdrawn or had its run cancelled: with new attempts, and pinned anew.

    Returns:
        Its ticket, and whether this call has filed it.

    Raises:
        BadInput: a source, the policy or the request's name cannot be used; with a queue on S3, also if a field names
            something of this machine. The problem names the field.
        Refused: a source is not what the request pins, its samples were disposed of, or the queue is another
            workspace's.
        ExpungeError: the queue cannot be reached.
    """
    workspace.require()
    store = store_of(workspace)
    pinned = ready_to_file(workspace, store, request, folder)
    data = _as_filed(pinned, "method" in request.model_fields_set)
    sha256 = sha256_bytes(data)
    queue = Queue(store)
    queue.keep_filed(sha256, data)
    fresh = numbered(Ticket(request_sha256=sha256, request_id=request.id, model=request.model, filed_at=now(),
                              filed_by=by or request.requester))
    seen = queue.seen(sha256)
    if seen is None:
        return queue.file(fresh, None)
    if again and (seen.ticket.stage in ("failed", "withdrawn") or seen.ticket.outcome == "cancelled"):
        return queue.change(seen, **{
            name: value for name, value in fresh if name not in ("change", "round", "nonce", "schema_name")},
            round=seen.ticket.round + 1).ticket, True
    return seen.ticket, False


def ready_to_file(workspace: Workspace, store: TicketStore, request: Request, folder: Path) -> Request:
    """The request with its content pinned, after everything was looked at that can be without its models.

    Raises as `file_request`.
    """
    Run.policy_for(workspace, request)
    receipts.refuse_disposed(workspace, request.id)
    _refuse_local(store, request)
    store.require_ready(workspace)
    return sources.pin_content(request, folder, workspace)


def _refuse_local(store: TicketStore, request: Request) -> None:
    """BadInput for the first field that names something of one machine, where the queue is for several."""
    for field, found in sources.names_of_this_machine(request) if isinstance(store, S3Tickets) else ():
        raise BadInput(f"{field}: {shorten(shown(found))} is on one machine, and others read this queue",
                       "use what is in a store or built in, or keep the queue in the workspace")


def _as_filed(request: Request, names_method: bool) -> bytes:
    """What is kept of a request. Where it names no method it says none: which is meant depends on its model."""
    plain = json.loads(request.to_bytes())
    return canonical_json(plain if names_method else {name: plain[name] for name in plain if name != "method"})


def file_release(workspace: Workspace, run: Run, by: str) -> tuple[Ticket, bool]:
    """Asks the next worker to release a run that people have approved, or finds that somebody has asked.

    If the run came by the queue, the ticket of its request says so from then on. Else it gets one, of the run's own
    request, pinned as it ran: no source is looked at again. The worker finds the run by it, asks the gate once more,
    and deploys.

    Returns:
        Its ticket, and whether it was this call that asked.

    Raises:
        BadInput: the run is not approved, or a later one of the same request would be taken for it.
        DoesNotVerify: its request is not what it was.
        Refused: its samples were disposed of, or the queue is another workspace's.
        ExpungeError: the queue cannot be reached.
    """
    state, request = run.state(), run.request()
    if state.state not in RELEASABLE:
        raise BadInput(f"run '{run.name}' is {state.state.replace('_', ' ')}", "only what was approved can be released")
    sha256, data = state.request_sha256, run.request_file.read_bytes()
    if sha256_bytes(data) != sha256:
        raise DoesNotVerify(f"run '{run.name}': its request is not what it was", "run 'expunge audit verify'")
    if later := _later_run(run, sha256):
        raise BadInput(f"run '{later}' is a later one of the same request", f"expunge release {run.name}")
    receipts.refuse_disposed(workspace, request.id)
    queue = Queue.of(workspace)
    seen = queue.of_run(run.name, sha256)
    if seen is not None and not seen.ticket.is_over:
        if asked(seen.ticket, sha256) or seen.ticket.stage == "claimed":
            return seen.ticket, False
        try:
            return queue.change(seen, asked_by=by, asked_at=now()).ticket, True
        except WorkspaceBusy:  # somebody else has asked, or a worker has taken it
            there = queue.seen(seen.ticket.request_sha256)
            if there is None:
                raise
            return there.ticket, False
    fresh = numbered(Ticket(request_sha256=sha256, request_id=request.id, model=request.model, filed_at=now(),
                            filed_by=by, stage="waiting", run=run.name, outcome=state.state,
                            round=seen.ticket.round + 1 if seen else 1))
    queue.keep_filed(sha256, data)
    queue.keep_pinned(fresh, request)
    return queue.file(fresh, seen)


def asked(ticket: Ticket, request_sha256: str) -> bool:
    """Whether somebody has asked that the run of that request be released, by this ticket."""
    return ticket.asked_by is not None or ticket.request_sha256 == request_sha256


def take_back_release(workspace: Workspace, ticket: Ticket) -> None:
    """Undoes what `file_release` has just done, and nothing that came after it."""
    queue = Queue.of(workspace)
    seen = queue.seen(ticket.request_sha256)
    if seen is not None and seen.ticket.asked_by is not None:
        queue.change(seen, asked_by=None, asked_at=None)
    elif seen is not None:
        queue.change(seen, stage="withdrawn", wait=0.0)


def _later_run(run: Run, request_sha256: str) -> str | None:
    """A run of exactly this request that was begun after another. Runs of one name are numbered as they are begun."""
    number, stem = run.number, run.name.rpartition(".")[0]
    while (later := Run(run.workspace, f"{stem}.{(number := number + 1)}")).folder.exists():
        if later.state().request_sha256 == request_sha256:
            return later.name
    return None


# ---------------------------------------------------------------------------------------------- the queue


class Queue:
    """The tickets of all filed requests, and who may change which."""

    def __init__(self, store: TicketStore) -> None:
        self._store = store
        self._read = _read_before(store.address(""))

    @classmethod
    def of(cls, workspace: Workspace) -> "Queue":
        """A workspace's queue. Refused if it is kept where another workspace's is."""
        store = store_of(workspace)
        store.require_ready(workspace)
        return cls(store)

    def all(self) -> list[Seen]:
        """Every ticket that can be read, in the order of filing: a spoiled one keeps no other from its worker."""
        return self._looked_through()[0]

    def spoiled(self) -> list[DoesNotVerify]:
        """What is wrong with tickets that cannot be read."""
        return self._looked_through()[1]

    def _looked_through(self) -> tuple[list[Seen], list[DoesNotVerify]]:
        found: list[Seen] = []
        wrong, known = [], dict(self._read)  # as it is now: other threads look through the same queue
        for sha256, data, tag, age in self._store.filed({sha256: tag for sha256, (tag, _) in known.items()}):
            try:
                ticket = known[sha256][1] if data is None else self._ticket(sha256, data)
            except DoesNotVerify as error:
                wrong.append(error)
            else:
                found.append(Seen(ticket, tag, max(0.0, age)))
        self._read.clear()
        self._read.update({seen.ticket.request_sha256: (seen.tag, seen.ticket) for seen in found})
        return sorted(found, key=lambda seen: (seen.ticket.filed_at, seen.ticket.request_sha256)), wrong

    def seen(self, sha256: str) -> Seen | None:
        """The ticket of the request with that digest, as it is now; None if it was not filed.

        Raises:
            DoesNotVerify: what lies there is no ticket of that request.
        """
        found = self._store.read(f"{sha256}/{TICKET_FILE}")
        if found is None:
            return None
        data, tag, age = found
        return Seen(self._ticket(sha256, data), tag, max(0.0, age))

    def _ticket(self, sha256: str, data: bytes) -> Ticket:
        try:
            ticket = parse_record(Ticket, json.loads(data), TICKET_FILE)
        except (BadInput, ValueError):
            ticket = None
        if ticket is None or ticket.request_sha256 != sha256:
            place = shown(self._store.address(f"{sha256}/{TICKET_FILE}"))
            raise DoesNotVerify(f"{place}: is no ticket of ours", "see who wrote it")
        return ticket

    def of_run(self, run: str, request_sha256: str) -> Seen | None:
        """The ticket by which a worker brings a run on, of a request with that digest; or the last one that did.

        That of the request as somebody filed it, before anything but its content was pinned, has another digest.
        """
        at_work = (seen for seen in self.all() if seen.ticket.run == run and not seen.ticket.is_over)
        return next(at_work, None) or self.seen(request_sha256)

    def find(self, name: str) -> Seen:
        """The ticket of a request, by its id or the beginning of its digest; of several of one id the newest.

        Raises:
            BadInput: none is known, or several begin so.
        """
        every = self.all()
        called = [seen for seen in every if seen.ticket.request_id == name]
        begin = [seen for seen in every if len(name) >= 6 and seen.ticket.request_sha256.startswith(name)]
        if not called and len(begin) != 1:
            raise BadInput(f"request '{shorten(name)}' is not filed, or not the only one that begins so",
                           "see 'expunge queue list'")
        return called[-1] if called else begin[0]

    def request(self, ticket: Ticket) -> Request:
        """What was filed.

        Raises:
            DoesNotVerify: it is not what its digest says.
            BadInput: it was put there past `file_request`, and cannot be used.
        """
        name = f"{ticket.request_sha256}/{REQUEST_FILE}"
        found = self._store.read(name)
        if found is None or sha256_bytes(found[0]) != ticket.request_sha256:
            raise DoesNotVerify(f"{shown(self._store.address(name))}: is not what was filed", "file the request again")
        try:
            plain = json.loads(found[0])
        except ValueError:
            raise BadInput(f"request {ticket.request_sha256[:12]}: is no request", "file one") from None
        request = parse_record(Request, plain, f"request {ticket.request_sha256[:12]}")
        _refuse_local(self._store, request)
        return request

    def pinned(self, ticket: Ticket) -> Request | None:
        """What the attempts of this round run; None before the first."""
        found = self._store.read(self._pinned_name(ticket))
        return None if found is None else parse_record(Request, json.loads(found[0]), "pinned")

    def keep_pinned(self, ticket: Ticket, request: Request) -> Request:
        """Keeps what the attempts of this round run; returns it, or what another worker has kept before."""
        kept = self._store.keep(self._pinned_name(ticket), request.to_bytes())
        return parse_record(Request, json.loads(kept), "pinned")

    def keep_filed(self, sha256: str, request: bytes) -> None:
        """Keeps a request by its digest; DoesNotVerify if another lies there."""
        name = f"{sha256}/{REQUEST_FILE}"
        if self._store.keep(name, request) != request:
            raise DoesNotVerify(f"{shown(self._store.address(name))}: is not what its name says",
                                "find out who wrote it")

    def file(self, fresh: Ticket, seen: Seen | None) -> tuple[Ticket, bool]:
        """Writes a ticket where there was none, or over the one seen; whoever is second finds the first's."""
        try:
            self._store.write(f"{fresh.request_sha256}/{TICKET_FILE}", fresh.to_bytes(), seen.tag if seen else None)
        except WorkspaceBusy:
            there = self.seen(fresh.request_sha256)
            if there is None or there.ticket.is_over:
                raise
            return there.ticket, False
        return fresh, True

    def _pinned_name(self, ticket: Ticket) -> str:
        return f"{ticket.request_sha256}/pinned-{ticket.round}.json"

    def claim(self, seen: Seen, worker: str, lease: float = LEASE) -> Seen | None:
        """Takes a request for a worker; None if it may not be taken, or somebody else was first.

        One whose worker was lost in its last attempt is given up instead.
        """
        ticket = seen.ticket
        if not seen.may_be_taken:
            return None
        lost = {}
        if ticket.stage == "claimed":
            lost = {"last_error": f"{ticket.worker} was lost while it worked on it"}
            if ticket.attempts >= ATTEMPTS:
                self._changed_if_first(seen, stage="failed", lease=None, **lost)
                return None
        return self._changed_if_first(seen, stage="claimed", worker=worker, lease=lease, wait=0.0,
                                      attempts=ticket.attempts + 1, **lost)

    def renew(self, held: Seen) -> Seen:
        """A sign of life of the worker. WorkspaceBusy if another worker has the request by now."""
        return self.change(held)

    def put_back(self, held: Seen, stage: Literal["filed", "waiting"]) -> Seen:
        """Ends a claim as if it had not been made: nothing was tried. WorkspaceBusy as `renew`."""
        return self.change(held, stage=stage, lease=None, attempts=max(0, held.ticket.attempts - 1))

    def came_to(self, held: Seen, stage: Literal["waiting", "released", "closed"], run: str, outcome: str) -> Seen:
        """Ends a claim with what came of it. WorkspaceBusy as `renew`."""
        return self.change(held, stage=stage, lease=None, attempts=0, wait=0.0, last_error=None, run=run,
                           outcome=outcome)

    def failed(self, held: Seen, error: str, back_to: Literal["filed", "waiting"], for_good: bool = False) -> Seen:
        """Ends a claim with an attempt that failed: it is tried again after a while, or given up.

        WorkspaceBusy as `renew`.
        """
        tried = held.ticket.attempts
        if for_good or tried >= ATTEMPTS:
            return self.change(held, stage="failed", lease=None, last_error=shorten(error, 500))
        return self.change(held, stage=back_to, lease=None, last_error=shorten(error, 500),
                           wait=min(LONGEST_WAIT, FIRST_WAIT * 4 ** (tried - 1)))

    def withdraw(self, seen: Seen) -> Ticket:
        """Takes a request back that nobody works on, and that nothing came of.

        Raises:
            BadInput: it is being worked on, waits for people's decision, or is over.
        """
        ticket = seen.ticket
        if ticket.stage not in ("filed", "failed"):
            remedy = {"claimed": "stop its run: expunge cancel", "waiting": "reject its run: expunge reject"}
            raise BadInput(f"request '{ticket.request_id}' is {ticket.stage}",
                           remedy.get(ticket.stage, "there is nothing to take back"))
        return self.change(seen, stage="withdrawn", wait=0.0).ticket

    def change(self, seen: Seen, **changes: Any) -> Seen:
        """Writes the next version of a ticket. WorkspaceBusy if there is another one than was seen."""
        after = numbered(seen.ticket.model_copy(update={**changes, "change": seen.ticket.change + 1}))
        tag = self._store.write(f"{after.request_sha256}/{TICKET_FILE}", after.to_bytes(), seen.tag)
        return Seen(after, tag, 0.0)

    def _changed_if_first(self, seen: Seen, **changes: Any) -> Seen | None:
        try:
            return self.change(seen, **changes)
        except WorkspaceBusy:
            return None


@functools.lru_cache(maxsize=8)
def _read_before(address: str) -> dict[str, tuple[str, Ticket]]:
    """What this process has read of a queue, by digest and with its tag: a version never changes, and is read once."""
    return {}


def numbered(ticket: Ticket) -> Ticket:
    """The ticket with a number drawn for it: no version is like an earlier one, whatever it says."""
    return ticket.model_copy(update={"nonce": secrets.token_hex(8)})


def _overtaken(place: str) -> WorkspaceBusy:
    return WorkspaceBusy(f"{shown(place)}: somebody else has changed it meanwhile", "give the same command again")


def now() -> str:
    """This moment by the clock of this machine, for people."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
