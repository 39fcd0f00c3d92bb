"""Where a run stands, durable and outside of any pipeline, and what may follow.

    running ─┬─ failed, cancelled ── running again
             ├─ not_needed, invalid, refused
             ├─ inconclusive ───────┐ (waived)
             └─ awaiting_approval ──┴─ approved ── releasing ── released ── rolled_back, withdrawn
                        └─ rejected, expired ─┘

A change is a compare-and-swap: it says which revision of the run it follows, so that of two who saw the same one
only the first succeeds. It also says when it was made, to a microsecond: the very same one, made again because nobody
was told that it had arrived, finds itself. No state is skipped, and those that people rely on have a guard: an entry
in the ledger that says so, looked up in the transaction that changes the state.
"""

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from expunge.errors import BadInput, WorkspaceBusy
from expunge.evidence.decisions import PAYLOAD_TYPE as DECISION
from expunge.evidence.envelopes import payload_type_of
from expunge.evidence.statements import RollbackPredicate, RunPredicate, WithdrawalPredicate

if TYPE_CHECKING:
    from sqlalchemy import Connection

State = Literal[
    "running", "failed", "cancelled", "invalid", "inconclusive", "refused", "awaiting_approval", "rejected",
    "expired", "approved", "releasing", "released", "rolled_back", "withdrawn", "not_needed",
]
# A stretch of work may have put a release into service and been cut before it could say so: it can be taken out again.
_OUT: frozenset[State] = frozenset({"rolled_back", "withdrawn"})
NEXT: dict[State, frozenset[State]] = {
    "running": _OUT | {"failed", "cancelled", "not_needed", "invalid", "inconclusive", "refused", "awaiting_approval"},
    "failed": _OUT | {"running", "cancelled"},
    "cancelled": _OUT | {"running"},
    "not_needed": frozenset(), "invalid": frozenset(), "refused": frozenset(),
    "rejected": frozenset(), "expired": frozenset(),
    "inconclusive": frozenset({"approved", "rejected", "expired"}),
    "awaiting_approval": _OUT | {"approved", "rejected", "expired", "failed", "invalid", "inconclusive", "refused"},
    "approved": _OUT | {"releasing", "rejected", "expired", "awaiting_approval"},
    # The gate is asked again before anything is deployed: what it says then may be anything that it can say.
    "releasing": _OUT | {"released", "failed", "awaiting_approval", "rejected", "expired", "invalid", "inconclusive",
                         "refused"},
    "released": _OUT,
    "rolled_back": frozenset({"released", "withdrawn"}),
    "withdrawn": frozenset({"released"}),
}
# What the ledger has to hold before a run is in a state: one of these, as `_kind_of` names entries.
GUARDS: dict[State, tuple[str, ...]] = {
    "invalid": ("gate",), "inconclusive": ("gate",), "refused": ("gate",), "awaiting_approval": ("gate",),
    "approved": ("decision",), "releasing": ("decision",), "rejected": ("decision",), "released": ("deploy",),
    "expired": ("expiry",), "rolled_back": ("rollback",), "withdrawn": ("withdrawal",)}
_TAKEN_OUT = {RollbackPredicate.TYPE: "rollback", WithdrawalPredicate.TYPE: "withdrawal"}


@dataclass(frozen=True)
class Standing:
    """A run as the database has it."""

    run: str
    state: State
    revision: int  # how many times it has been written
    since: str  # when it was last written
    record: str  # everything else that is known of it: whose JSON it is, its writer knows


def begin(connection: "Connection", run: str, record: str, at: str | None = None) -> Standing:
    """A run that begins, now or `at` a time of `now`: it is running. BadInput if there is one of that name."""
    from sqlalchemy import text

    began = Standing(run=run, state="running", revision=1, since=at or now(), record=record)
    there = find(connection, run)
    if there is not None:
        if there == began:
            return began
        raise BadInput(f"run '{run}' is there already", "look at 'expunge status'")
    connection.execute(text("INSERT INTO runs (run, state, revision, since, record) "
                            "VALUES (:run, :state, :revision, :since, :record)"), vars(began))
    return began


def find(connection: "Connection", run: str) -> Standing | None:
    """Where a run stands; None if there is none of that name."""
    return next(_select(connection, "WHERE run = :run", run=run), None)


def every(connection: "Connection") -> list[Standing]:
    """Where every run stands."""
    return list(_select(connection, ""))


def change(connection: "Connection", run: str, revision: int, way: Sequence[State], record: str,
           because: Iterable[str] = (), at: str | None = None) -> Standing:
    """Brings a run from the revision that the caller has seen to the last state of `way`, over those before it.

    It is changed now, or `at` a time of `now`.

    A `way` of one state in which the run already is only renews its record. `because` names the entries of the ledger,
    by the digest of their bytes, that guards may ask for.

    Raises:
        WorkspaceBusy: somebody else has changed the run since.
        BadInput: the state cannot follow, or the ledger does not hold what its guard asks for.
    """
    from sqlalchemy import text

    seen, at = find(connection, run), at or now()
    if seen is not None and (seen.revision, seen.since, seen.record) == (revision + 1, at, record):
        return seen
    if seen is None or seen.revision != revision:
        found = f": it is {_said(seen.state)}" if seen else ""
        raise WorkspaceBusy(f"run '{run}' has been changed meanwhile{found}", "see 'expunge status', then try again")
    state, there = seen.state, None
    for after in way:
        if after == state:
            continue
        if after not in NEXT[state]:
            raise BadInput(f"run '{run}' is {_said(state)}", f"it cannot become {_said(after)} from there")
        if after in GUARDS:
            there = set(_kinds(connection, run, because)) if there is None else there
            if not there & set(GUARDS[after]):
                raise BadInput(f"run '{run}' is {_said(state)}",
                               f"no {' or '.join(GUARDS[after])} of it is in the ledger: it cannot be {_said(after)}")
        state = after
    changed = Standing(run=run, state=state, revision=revision + 1, since=at, record=record)
    connection.execute(text("UPDATE runs SET state = :state, revision = :revision, since = :since, record = :record "
                            "WHERE run = :run"), vars(changed))
    return changed


def _select(connection: "Connection", where: str, **given: str) -> Iterator[Standing]:
    from sqlalchemy import text

    query = text(f"SELECT run, state, revision, since, record FROM runs {where} ORDER BY run")
    for row in connection.execute(query, given).mappings():
        yield Standing(**row)


def _kinds(connection: "Connection", run: str, because: Iterable[str]) -> Iterator[str]:
    """What the entries with these digests are, as far as the ledger holds them."""
    from sqlalchemy import text

    query = text("SELECT envelope FROM digests JOIN entries ON entries.position = digests.position "
                 "WHERE digests.sha256 = :sha256")
    for sha256 in because:
        envelope = connection.execute(query, {"sha256": bytes.fromhex(sha256)}).scalar()
        if envelope is not None and (kind := _kind_of(bytes(envelope), run)):
            yield kind


def _kind_of(envelope: bytes, run: str) -> str:
    """`decision` or `expiry`, if it is of this run; `rollback`, `withdrawal`, or the room that a statement is of.

    Empty for all else. A room's statement may be an earlier run's, whose result is used again; what is said of a model
    names its bytes and not their run, which whoever passes it on knows. Signatures are looked at by whoever appends.
    """
    payload = json.loads(base64.b64decode(json.loads(envelope)["payload"]))
    if payload_type_of(envelope) == DECISION:
        return "decision" if payload["run"] == run else ""
    kind, said = payload.get("predicateType"), payload["predicate"]
    if kind == RunPredicate.TYPE:
        return "expiry" if (said["run"], said["state"]) == (run, "expired") else ""
    return _TAKEN_OUT.get(kind) or str(said.get("room", ""))


def _said(state: State) -> str:
    return state.replace("_", " ")


def now() -> str:
    """The time that a change is made at, to a microsecond, so that no two have the same."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
