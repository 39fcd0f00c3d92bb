"""Asking that an approved run be released. The console starts nothing: the next worker of the queue does it.

Who may ask is shown before anybody tries. What is asked for is in the ledger; that people approved, with which
signatures, the worker's gate looks at again.
"""

from datetime import UTC, datetime
from typing import Any

from expunge import deciding
from expunge.console.app import Console, Forbidden
from expunge.console.identity import Asking, entries_of, roles_of
from expunge.errors import BadInput, ExpungeError
from expunge.evidence.decisions import same_person
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import AskedPredicate, Statement, sign_statement
from expunge.runs import Run, RunState
from expunge.stores.queue import RELEASABLE, Queue, asked, file_release, take_back_release

ROLES = ("reviewer", "admin")


def why_not(console: Console, asking: Asking, run: Run) -> str:
    """Why somebody may not ask that a run be released; empty if they may.

    On a laptop without a name it is whoever could give `expunge release` as well.
    """
    if asking.person is None:
        return ""
    if same_person(asking.person, run.request().requester):
        return f"{asking.person} made this request: somebody else must have it released"
    if not set(ROLES) & set(roles_of(entries_of(Keyring.load(console.workspace), asking.person))):
        return f"{asking.person} is neither {' nor '.join(ROLES)}"
    return ""


def standing(console: Console, asking: Asking, run: Run, state: RunState) -> dict[str, Any] | None:
    """How far a release is, for its page; None where there is nothing to release."""
    if state.state not in RELEASABLE:
        return None
    found: dict[str, Any] = {"why_not": why_not(console, asking, run), "asked": None, "problem": ""}
    try:
        seen = Queue.of(console.workspace).of_run(run.name, state.request_sha256)
    except ExpungeError as error:
        return {**found, "problem": str(error)}
    if seen is not None and not seen.ticket.is_over:
        ticket = seen.ticket
        if not asked(ticket, state.request_sha256) and ticket.stage != "claimed":
            return found
        found["asked"] = {"by": ticket.asked_by or ticket.filed_by, "at": ticket.asked_at or ticket.filed_at,
                          "stage": ticket.stage, "worker": ticket.worker,
                          "error": ticket.last_error if ticket.attempts else None}
    elif seen is not None and seen.ticket.stage == "failed":
        found["problem"] = seen.ticket.last_error or "it was given up"
    return found


def ask(console: Console, asking: Asking, run: Run) -> dict[str, Any]:
    """Files the release, and enters who asked; asked again, it says that it was.

    Raises:
        Forbidden: they may not.
        BadInput: the run is not approved.
    """
    if reason := why_not(console, asking, run):
        raise Forbidden(reason)
    with console.deciding:
        state = deciding.settle(run)
        if state.state not in RELEASABLE:
            raise BadInput(f"run '{run.name}' is {state.state.replace('_', ' ')}",
                           "only what was approved can be released")
        by = asking.person or OPERATOR
        ticket, asked_now = file_release(console.workspace, run, by)
        if asked_now:
            said = AskedPredicate(
                what="release", by=by, asked_sha256=state.request_sha256, request_id=state.request_id, run=run.name,
                at=datetime.now(UTC).isoformat(timespec="seconds"))
            try:
                Ledger.open(console.workspace).append(
                    sign_statement(Statement.over({}, said), SigningKey.load(console.workspace, OPERATOR)))
            except BaseException:
                take_back_release(console.workspace, ticket)  # nothing is asked for without an entry
                raise
    return {"run": run.name, "asked_by": ticket.asked_by or ticket.filed_by,
            "asked_at": ticket.asked_at or ticket.filed_at, "stage": ticket.stage, "asked_now": asked_now}
