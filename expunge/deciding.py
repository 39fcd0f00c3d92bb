"""Signing decisions on runs, entering them in the ledger, and what they and the passing of time make of a run."""

import base64
import functools
import json
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from expunge.contracts import Policy
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify, Refused, Rejected
from expunge.evidence import decisions
from expunge.evidence.coherence import read_policy
from expunge.evidence.decisions import Subject, Tally
from expunge.evidence.key_changes import as_entered, place_of
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import RoomPredicate, RoomUse, RunPredicate, Statement, open_statement, sign_statement
from expunge.room import STATEMENT_FILE
from expunge.runs import Run, RunState
from expunge.settings import Workspace

_TICK = 2_000_000_000  # ns: a folder's time may be that coarse, so what changed within it may change again unseen
DECIDABLE = ("awaiting_approval", "approved", "inconclusive")


def decide(run: Run, person: str, decision: Literal["approve", "reject"], reason: str,
           waives: Iterable[str] = ()) -> Path:
    """Signs a person's decision on what a run made, and enters it. Returns the envelope.

    Raises:
        BadInput: the run does not wait for a decision, or not the inconclusive rules were named, and only these.
        Refused: this person may not decide on this run, or has approved it already.
        Rejected: nobody decided in time.
    """
    waives = tuple(dict.fromkeys(waives))
    _require_decidable(run, person, decision, waives)
    signed = decisions.decide(run.workspace, run.name, person, decision, subject_of(run), reason,
                              policy_of(run).valid_days, requester=run.request().requester, waives=waives)
    settle(run)
    return signed


def take_in(run: Run, envelope: bytes, reason: str, now: datetime | None = None) -> decisions.Decision:
    """Enters a decision that was signed elsewhere, by a key that never came here. Returns it as it was stored.

    What would not count is not taken in, for it would stand beside the run for ever. It has to be of now: one that was
    kept back may be about what its signer has thought over since.

    Raises:
        BadInput: the run does not wait for a decision, the reason is not the signed one, or not the inconclusive
            rules are waived, and only these.
        DoesNotVerify: the signature does not, or it is about other bytes than the run's.
        Refused: this person may not decide on this run, or has decided so already.
        Rejected: nobody decided in time.
    """
    now = now or datetime.now(UTC)
    approval, signer = decisions.open_approval(envelope, as_entered(run.workspace))
    if approval.run != run.name:
        raise DoesNotVerify(f"decision: it is about run {approval.run}", "sign for this one")
    file = decisions.place_for(run.workspace, run.name, envelope)
    if file.exists():
        raise Refused(f"{approval.decision}: this very decision has been entered", "a signature counts once")
    if why_not := signer.why_not_at(Ledger.open(run.workspace).size):
        raise Refused(f"{approval.decision}: {why_not}", "an admin can enter another key")
    decisions.require_entitled(signer, approval.decision, run.request().requester)
    _require_decidable(run, approval.person, approval.decision, approval.waives)
    subject = subject_of(run)
    if differing := decisions.differing(approval, subject):
        raise DoesNotVerify(f"decision: it names {differing}, not what this run made",
                            "look at the run again, and sign")
    if not reason.strip():
        raise BadInput(f"{approval.decision}: a decision needs a reason", "say why")
    if sha256_bytes(reason.encode()) != approval.reason_sha256:
        raise DoesNotVerify("decision: the reason is not the one that was signed", "send the text that was signed")
    decided = decisions.moment(approval.decided_at)
    if decided is None or abs(decided - now) > decisions.CLOCK_SKEW:
        raise DoesNotVerify(f"decision: it is dated {approval.decided_at}, and it is {now:%Y-%m-%d %H:%M} UTC",
                            "sign it now, with a clock that is right")
    ends = decisions.moment(approval.not_after)
    if ends is None or not decided < ends <= decided + timedelta(days=policy_of(run).valid_days):
        raise BadInput(f"decision: it is to hold until {approval.not_after}",
                       f"the policy lets one hold for {policy_of(run).valid_days:g} days")
    decisions.store(run.workspace, run.name, envelope, reason)
    settle(run)
    return decisions.open_decision(file, run.name, Keyring.load(run.workspace), place_of(run.workspace, envelope))


def _require_decidable(run: Run, person: str, decision: Literal["approve", "reject"], waives: tuple[str, ...]) -> None:
    """Whether the run waits for this person to decide so."""
    require_in_time(run)
    state = settle(run)
    if state.state not in DECIDABLE:
        raise BadInput(f"run '{run.name}' is {state.state}", "only a run that awaits approval can be decided on")
    if decision == "approve":
        _require_waived(waives, decisions.inconclusive(run.verdict()))
    elif waives:
        raise BadInput("reject: a rejection waives nothing", "leave --waive out")
    if decision == "approve" and any(decisions.same_person(person, known) for known in tally_of(run).approved_by):
        raise Refused(f"approve: {person} has approved this already", "somebody else must sign: one person counts once")


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
    tally = tally_of(run, now)
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
    days = policy_of(run).deadline_days
    since = None if days is None else waiting_since(run.workspace, run.name)
    return None if since is None or days is None else since + timedelta(days=days)


def waiting_since(workspace: Workspace, run: str) -> datetime | None:
    """When a run first came to the gate, by the gate's own signed statement; None if it has not.

    First is what comes first in the ledger: statements tell when a room began to the second.
    """
    keyring, found = Keyring.load(workspace), []
    for file in _gates_in(workspace.results).of(run):
        try:
            said = open_statement(file.read_bytes(), keyring, RoomPredicate)[0].predicate
        except (DoesNotVerify, OSError):
            continue  # it is named by 'expunge audit verify', and moves no deadline
        if said.run == run:
            ended = datetime.fromisoformat(said.started_at) + timedelta(seconds=said.seconds)
            found.append((place_of(workspace, file.read_bytes()), ended))
    return min(found)[1] if found else None


class _Gates:
    """Which run each of the gate's statements says that it is of. There may be ten thousand: each is read once.

    A result never changes once it has its name, so what is known of it stays; what it says is verified by who asks.
    """

    def __init__(self, results: Path) -> None:
        self._results, self._lock = results, threading.Lock()
        self._runs: dict[str, str] = {}  # folder -> run
        self._folders: dict[str, list[str]] = {}  # run -> folders
        self._as_of = -1  # the folder's time when it was last looked through, if nothing can have been added since

    def of(self, run: str) -> list[Path]:
        """The statements that say they are of a run."""
        with self._lock:
            self._look()
            return [self._results / folder / STATEMENT_FILE for folder in self._folders.get(run, ())]

    def _look(self) -> None:
        try:
            changed = self._results.stat().st_mtime_ns
        except OSError:
            return  # nothing has been made yet
        if changed == self._as_of:
            return
        began = time.time_ns()
        for name in os.listdir(self._results):
            if name.startswith("gate-") and name not in self._runs and not name.endswith(".lock"):
                with suppress(OSError):  # half of a result has another name: one without a statement is being removed
                    self._runs[name] = found = _run_named(self._results / name / STATEMENT_FILE)
                    self._folders.setdefault(found, []).append(name)
        self._as_of = changed if began - changed > _TICK else -1


def _run_named(file: Path) -> str:
    """The run that a room's statement names, before anything is verified; empty if it names none."""
    try:
        found = json.loads(base64.b64decode(json.loads(file.read_bytes())["payload"]))["predicate"]["run"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""


@functools.cache
def _gates_in(results: Path) -> _Gates:
    return _Gates(results)


def subject_of(run: Run) -> Subject:
    """The digests that a decision on a run is about."""
    return Subject.of(request=run.request_file, candidate=run.output("unlearn", "candidate"),
                      report=run.output("evaluate", "report"), policy=run.policy_file)


def tally_of(run: Run, now: datetime | None = None) -> Tally:
    """What the decisions on a run amount to."""
    return decisions.count_valid(
        decisions.decisions_of(run.workspace, run.name), subject_of(run), policy_of(run), run.request().requester,
        now or datetime.now(UTC), run.verdict())


def waiver_of(run: Run) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who waived what of a run's verdict, as far as it holds: people and rules."""
    tally = tally_of(run)
    return (tuple(sorted(tally.approved_by)), tally.waived) if tally.waived else ((), ())


def policy_of(run: Run) -> Policy:
    """The policy by which a run is judged, as it was when the run began."""
    return read_policy(run.policy_file)
