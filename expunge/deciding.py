"""Signing decisions on runs, entering them in the ledger, and what they and the passing of time make of a run."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from expunge.contracts import Policy
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify, Refused, Rejected
from expunge.evidence import decisions
from expunge.evidence.coherence import read_policy
from expunge.evidence.decisions import Subject, Tally
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import RoomPredicate, RoomUse, RunPredicate, Statement, open_statement, sign_statement
from expunge.room import STATEMENT_FILE
from expunge.runs import Run, RunState
from expunge.settings import Workspace

DECIDABLE = ("awaiting_approval", "approved", "inconclusive")


def decide(run: Run, person: str, decision: Literal["approve", "reject"], reason: str,
           waives: Iterable[str] = ()) -> Path:
    """Signs a person's decision on what a run made, and enters it. Returns the envelope.

    Raises:
        BadInput: the run does not wait for a decision, or not the inconclusive rules were named, and only these.
        Refused: this person may not decide on this run, or has approved it already.
        Rejected: nobody decided in time.
    """
    require_in_time(run)
    state = settle(run)
    if state.state not in DECIDABLE:
        raise BadInput(f"run '{run.name}' is {state.state}", "only a run that awaits approval can be decided on")
    waives, waivable = tuple(dict.fromkeys(waives)), decisions.inconclusive(run.verdict())
    if decision == "approve":
        _require_waived(waives, waivable)
    elif waives:
        raise BadInput("reject: a rejection waives nothing", "leave --waive out")
    if decision == "approve" and any(decisions.same_person(person, known) for known in _tally(run).approved_by):
        raise Refused(f"approve: {person} has approved this already", "somebody else must sign: one person counts once")
    signed = decisions.decide(run.workspace, run.name, person, decision, subject_of(run), reason,
                              _policy(run).valid_days, requester=run.request().requester, waives=waives)
    settle(run)
    return signed


def _require_waived(waives: tuple[str, ...], waivable: tuple[str, ...]) -> None:
    named = " ".join(f"--waive {rule}" for rule in waivable)
    if beside := [rule for rule in waives if rule not in waivable]:
        raise BadInput(f"waive: '{beside[0]}' is not INCONCLUSIVE",
                       f"what can be waived: {', '.join(waivable)}" if waivable else "nothing is: leave --waive out")
    if set(waives) != set(waivable):
        raise BadInput("approve: the verdict is INCONCLUSIVE", f"who signs all the same says what they waive: {named}")


def settle(run: Run, now: datetime | None = None) -> RunState:
    """Enters decisions that a crash or a full disk kept out, and brings the run to where decisions and time have it.

    Raises:
        DoesNotVerify: a stored decision does not, or what it is about is not what it was.
    """
    now = now or datetime.now(UTC)
    state = run.state()
    ledger = Ledger.open(run.workspace)
    found = decisions.decisions_of(run.workspace, run.name)
    left_out = [one.file.read_bytes() for one in found if ledger.position_of(one.sha256) is None]
    for envelope in left_out[:-1]:
        ledger.append(envelope)
    after = _what_follows(run, state, now)
    if after.state == state.state:
        for envelope in left_out[-1:]:
            ledger.append(envelope)
        return state
    if after.state == "expired":
        left_out.append(_expiry(run, after))
    if left_out:
        ledger.append(left_out[-1], with_change=run.writing(after, sha256_bytes(left_out[-1])))
    else:  # it was entered, and a kill came before the state
        run.write(after)
    return run.state()


def _what_follows(run: Run, state: RunState, now: datetime) -> RunState:
    if state.state not in DECIDABLE:
        return state
    tally = _tally(run, now)
    if tally.rejected_by:
        return state.model_copy(update={"state": "rejected", "reason": f"rejected by {tally.rejected_by[0]}"})
    if decisions.token(run.verdict(), tally) == "open":
        waived = f"{' and '.join(sorted(tally.approved_by))} waived {', '.join(tally.waived)}"
        return state.model_copy(update={"state": "approved", "reason": waived if tally.waived else state.reason})
    deadline = deadline_of(run, state)
    if deadline is not None and now >= deadline:
        return state.model_copy(update={
            "state": "expired", "reason": f"nobody decided until {deadline:%Y-%m-%d %H:%M} UTC"})
    return state


def _expiry(run: Run, state: RunState) -> bytes:
    """The signed statement that a run expired."""
    folder = run.workspace.root
    return sign_statement(Statement.over({}, RunPredicate(
        run=state.run, request_id=state.request_id, request_sha256=state.request_sha256, state="expired",
        note=state.reason, rooms={
            room: RoomUse(statement_sha256=sha256_file(folder / done.result / STATEMENT_FILE),
                          reused=done.reused) for room, done in state.rooms.items()})),
        SigningKey.load(run.workspace, OPERATOR))


def require_in_time(run: Run, now: datetime | None = None) -> None:
    """Rejected if a run expired, now or before."""
    state = expire(run, now)
    if state.state == "expired":
        raise Rejected(f"run '{run.name}' is expired: {state.reason}", "run the request again: expunge run --again")


def expire(run: Run, now: datetime | None = None) -> RunState:
    """Rejects a run that has awaited approval beyond its policy's deadline, and says so in the ledger."""
    state = run.state()
    deadline = deadline_of(run, state)
    if deadline is None or (now or datetime.now(UTC)) < deadline:
        return state
    return settle(run, now)


def deadline_of(run: Run, state: RunState) -> datetime | None:
    """Until when people may decide on a run that awaits approval; None if there is no such moment.

    It counts from the first time that the gate asked for people, as the signed statements have it: asking the gate
    again gives nobody more time.
    """
    if state.state != "awaiting_approval":
        return None
    days = _policy(run).deadline_days
    since = None if days is None else waiting_since(run.workspace, run.name)
    return None if since is None or days is None else since + timedelta(days=days)


def waiting_since(workspace: Workspace, run: str) -> datetime | None:
    """When a run first came to the gate, by the gate's own signed statement; None if it has not.

    First is what comes first in the ledger: statements tell when a room began to the second.
    """
    from expunge.evidence.key_changes import place_of

    keyring, found = Keyring.load(workspace), []
    for file in workspace.results.glob(f"gate-*/{STATEMENT_FILE}"):
        try:
            said = open_statement(file.read_bytes(), keyring, RoomPredicate)[0].predicate
        except DoesNotVerify:
            continue  # it is named by 'expunge audit verify', and moves no deadline
        if said.run == run:
            ended = datetime.fromisoformat(said.started_at) + timedelta(seconds=said.seconds)
            found.append((place_of(workspace, file.read_bytes()), ended))
    return min(found)[1] if found else None


def subject_of(run: Run) -> Subject:
    """The digests that a decision on a run is about."""
    return Subject.of(request=run.request_file, candidate=run.output("unlearn", "candidate"),
                      report=run.output("evaluate", "report"), policy=run.policy_file)


def _tally(run: Run, now: datetime | None = None) -> Tally:
    return decisions.count_valid(
        decisions.decisions_of(run.workspace, run.name), subject_of(run), _policy(run), run.request().requester,
        now or datetime.now(UTC), run.verdict())


def waiver_of(run: Run) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who waived what of a run's verdict, as far as it holds: people and rules."""
    tally = _tally(run)
    return (tuple(sorted(tally.approved_by)), tally.waived) if tally.waived else ((), ())


def _policy(run: Run) -> Policy:
    return read_policy(run.policy_file)
