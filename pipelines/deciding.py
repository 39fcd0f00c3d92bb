"""Signing decisions on runs, and entering them in the ledger."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from expunge.contracts import Policy, read_record
from expunge.errors import BadInput
from expunge.evidence import decisions
from expunge.evidence.ledger import Ledger
from pipelines.runs import Run

DECIDABLE = ("awaiting_approval", "approved")


def decide(run: Run, person: str, decision: Literal["approve", "reject"], reason: str) -> Path:
    """Signs a person's decision on what a run made. Returns the envelope.

    Raises:
        BadInput: the run does not wait for a decision.
        Refused: this person may not decide on this run.
    """
    state = run.state()
    if state.state not in DECIDABLE:
        raise BadInput(f"run '{run.name}' is {state.state}", "only a run that awaits approval can be decided on")
    policy = read_record(Policy, run.policy_file)
    subject = decisions.Subject.of(
        request=run.request_file, candidate=run.output("unlearn", "candidate"),
        report=run.output("evaluate", "report"), policy=run.policy_file)
    signed = decisions.decide(run.workspace, run.name, person, decision, subject, reason, policy.valid_days,
                              requester=run.request().requester)
    enter_decisions(run)
    if decision == "reject":
        run.write(state.model_copy(update={"state": "rejected", "reason": f"rejected by {person}"}))
    else:
        tally = decisions.count_valid(decisions.decisions_of(run.workspace, run.name), subject, policy,
                                      run.request().requester, datetime.now(UTC))
        if decisions.token(run.verdict(), tally) == "open":
            run.write(state.model_copy(update={"state": "approved"}))
    return signed


def enter_decisions(run: Run) -> None:
    """Enters every decision on a run in the ledger, also one that a crash or a full disk kept out.

    Raises:
        DoesNotVerify: a stored decision does not.
    """
    ledger = Ledger.open(run.workspace)
    for found in decisions.decisions_of(run.workspace, run.name):
        ledger.append(found.file.read_bytes())
