"""Gate: a report and a policy become a verdict; the verdict and people's signatures become a token."""

from datetime import UTC, datetime
from pathlib import Path

from expunge.contracts import write_record
from expunge.evidence import policies
from expunge.evidence.coherence import open_case
from expunge.evidence.decisions import count_valid, decisions_of, token
from expunge.measure import policy as rules
from expunge.room import Entered, room
from expunge.settings import current_run
from expunge.stores import telemetry

TOKEN_FILE = "token.txt"


@room(outputs=("verdict",), memo=False)  # people sign and time passes: there is more to it than the inputs
def gate(entered: Entered, *, request: Path, candidate: Path, report: Path, policy: Path,
         verdict: Path) -> None:
    """Decides, and says whether the door is open, waiting for a signature, or closed.

    Raises:
        DoesNotVerify: the evidence does not add up, a stored decision or the policy's signature does not verify, or
            the policy neither ships with expunge nor is signed.
        Refused: nobody but the requester signed the policy.
    """
    case = open_case(request=request, candidate=candidate, report=report, policy=policy)
    policies.require_for_run(entered.workspace, current_run(), case.policy.name, policy.read_bytes(),
                             case.request.requester)
    decided = rules.decide(case.report, case.policy, report_sha256=case.subject.report_sha256,
                           policy_sha256=case.subject.policy_sha256)
    decisions = decisions_of(entered.workspace, current_run())
    tally = count_valid(decisions, case.subject, case.policy, case.request.requester, datetime.now(UTC), decided)
    write_record(verdict, decided)
    (verdict / TOKEN_FILE).write_text(token(decided, tally))
    entered.figures.extend(telemetry.of_verdict(decided.outcome, rules.deciding(decided, case.report)))
    if tally.waived:
        entered.note(f"{' and '.join(tally.approved_by)} waived {', '.join(tally.waived)}")
    for void in tally.void:
        entered.note(f"{void.person}'s decision to {void.decision} does not count: {void.reason}")
