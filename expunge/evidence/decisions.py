"""Who agreed to what: one signed envelope per person and decision, over the digests decided on.

A decision names request, candidate, report, policy and sample sets by digest; if any of these bytes change it
no longer counts. What counts is people, not keys, and never the requester. A rejection does not expire.

An approval of an INCONCLUSIVE verdict is a waiver: it names every rule that is inconclusive, and it takes two people
whatever the policy says. What broke a rule, or cannot be trusted, nobody can waive.
"""

import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from expunge.contracts import (
    Approval,
    Candidate,
    Digest,
    Frozen,
    Identifier,
    Policy,
    Report,
    Verdict,
    parse_record,
    read_record,
)
from expunge.digests import sha256_bytes, sha256_file, write_atomically
from expunge.errors import BadInput, DoesNotVerify, Refused
from expunge.evidence.envelopes import open_envelope, seal
from expunge.evidence.keys import Keyring, KeyringEntry, SigningKey
from expunge.settings import Workspace

PAYLOAD_TYPE = "application/vnd.expunge.approval+json"
WAIVING = 2  # people whom a waiver takes, if the policy asks for fewer
CLOCK_SKEW = timedelta(minutes=5)  # between two machines that keep time; more is a wrong clock or a forgery

Token = Literal["open", "waiting", "closed"]


class Subject(Frozen):
    """The digests that a decision is about."""

    request_sha256: Digest  # of the stored request file
    candidate_sha256: Digest  # of the candidate's weights: the bytes that would be served
    report_sha256: Digest  # of the stored record
    policy_sha256: Digest  # of the stored policy file
    sample_sets: tuple[Digest, ...]

    @classmethod
    def of(cls, *, request: Path, candidate: Path, report: Path, policy: Path) -> "Subject":
        """The digests of these files; `candidate` and `report` are folders with a record, or the records."""
        made, found = read_record(Candidate, candidate), read_record(Report, report)
        return cls(
            request_sha256=sha256_file(request), candidate_sha256=made.weights.sha256,
            report_sha256=sha256_file(report / "record.json" if report.is_dir() else report),
            policy_sha256=sha256_file(policy),
            sample_sets=tuple(one for one in (made.negative_id, made.positive_id, made.forget_id, made.retain_id,
                                              found.holdout_id) if one is not None))


@dataclass(frozen=True)
class Decision:
    """A decision whose signature verified, and where it lies."""

    file: Path
    sha256: str  # of the envelope
    approval: Approval
    signer: KeyringEntry
    position: int  # in the ledger; of one that was not entered, the ledger's present size

    @property
    def reason(self) -> str:
        """Why, in the person's own words; DoesNotVerify if the text is not the one signed."""
        text = reason_file(self.file)
        if not text.is_file() or sha256_file(text) != self.approval.reason_sha256:
            raise DoesNotVerify(f"{text.name}: not the reason that was signed")
        return text.read_text()


class Void(Frozen):
    """A decision that does not count, and why."""

    person: str
    decision: Literal["approve", "reject"]
    reason: str


class Tally(Frozen):
    """What the decisions on one subject amount to at one moment."""

    needed: int
    approved_by: tuple[str, ...] = ()
    approvals: tuple[Digest, ...] = ()  # envelopes, in the order of `approved_by`
    rejected_by: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()  # the inconclusive rules that each of `approvals` waives
    void: tuple[Void, ...] = ()


def reason_file(envelope: Path) -> Path:
    """Where the plain text of a decision's reason lies."""
    return envelope.with_suffix(".reason.txt")


def decide(workspace: Workspace, run: Identifier, person: str, decision: Literal["approve", "reject"],
           subject: Subject, reason: str, valid_days: float, *, requester: str, waives: Iterable[str] = (),
           now: datetime | None = None) -> Path:
    """Signs a person's decision with that person's key and stores it. Returns the envelope's file.

    `waives` are rules, by metric, that an approval lets go although they are inconclusive.

    Raises:
        Refused: the requester approves their own request, or the person is no reviewer.
        BadInput: the person has no key here, or no reason is given.
    """
    if decision == "approve" and same_person(person, requester):
        raise Refused(f"approve: {person} made this request", "somebody else must sign")
    if not reason.strip():
        raise BadInput(f"{decision}: a decision needs a reason", "say it with --reason")
    key = SigningKey.load(workspace, person)
    entry = Keyring.load(workspace).by_id(key.key_id)
    if not same_person(entry.person, person):
        raise Refused(f"{decision}: this key is {entry.person}'s by the keyring", f"sign as {entry.person}")
    require_entitled(entry, decision, requester)
    at = now or datetime.now(UTC)
    approval = parse_record(Approval, {
        **subject.model_dump(mode="json"), "run": run, "person": entry.person, "decision": decision,
        "waives": tuple(dict.fromkeys(waives)), "reason_sha256": sha256_bytes(reason.encode()),
        "decided_at": _written(at), "not_after": _written(at + timedelta(days=valid_days)),
        "nonce": secrets.token_hex(16)}, decision)
    return store(workspace, run, seal(approval.to_bytes(), PAYLOAD_TYPE, key), reason)


def require_entitled(signer: KeyringEntry, decision: Literal["approve", "reject"], requester: str) -> None:
    """Refused if somebody may not decide so: no reviewer, or the requester of what is to be approved."""
    if decision == "approve" and same_person(signer.person, requester):
        raise Refused(f"approve: {signer.person} made this request", "somebody else must sign")
    if "reviewer" not in signer.roles:
        raise Refused(f"{decision}: {signer.person} is {' and '.join(signer.roles)}, not reviewer",
                      "somebody with a reviewer's key must sign")


def place_for(workspace: Workspace, run: str, envelope: bytes) -> Path:
    """Where a decision on a run lies: it goes by its own digest."""
    return workspace.approvals / run / f"{sha256_bytes(envelope)}.json"


def store(workspace: Workspace, run: str, envelope: bytes, reason: str) -> Path:
    """Keeps a decision and its reason. Returns the envelope's file."""
    file = place_for(workspace, run, envelope)
    write_atomically(reason_file(file), reason.encode())
    write_atomically(file, envelope)
    return file


def decisions_of(workspace: Workspace, run: str) -> tuple[Decision, ...]:
    """Every decision on a run, oldest first.

    Raises:
        DoesNotVerify: one of them does not. It is not skipped: it may have been a rejection. Or the keyring is not
            the one that the ledger's statements made.
    """
    from expunge.evidence.key_changes import as_entered, place_of

    keyring = as_entered(workspace)
    found = [open_decision(file, run, keyring, place_of(workspace, file.read_bytes()))
             for file in sorted((workspace.approvals / run).glob("*.json"))]
    return tuple(sorted(found, key=lambda decision: (decision.approval.decided_at, decision.sha256)))


def open_decision(file: Path, run: str, keyring: Keyring, position: int) -> Decision:
    """Reads and verifies one stored decision on `run`; DoesNotVerify names the file.

    Whether its key counts at `position` is for `count_valid` to say: a signature stays one.
    """
    data = file.read_bytes()
    try:
        approval, entry = open_approval(data, keyring)
    except DoesNotVerify as error:
        raise DoesNotVerify(f"{_name(file)}: {error.problem}") from None
    if file.stem != sha256_bytes(data):
        raise DoesNotVerify(f"{_name(file)}: it does not go by its own digest")
    if approval.run != run:
        raise DoesNotVerify(f"{_name(file)}: it decides on run {approval.run}")
    return Decision(file, file.stem, approval, entry, position)


def open_approval(envelope: bytes, keyring: Keyring) -> tuple[Approval, KeyringEntry]:
    """The approval in an envelope and whose key signed it; DoesNotVerify unless it is the named person's."""
    payload, entry = open_envelope(envelope, PAYLOAD_TYPE, keyring)
    try:
        approval = Approval.model_validate_json(payload)
    except ValueError:
        raise DoesNotVerify("the envelope holds no approval") from None
    if approval.person != entry.person:
        raise DoesNotVerify(f"{entry.person} signed in the name of {approval.person}")
    return approval, entry


def count_valid(decisions: Iterable[Decision], subject: Subject, policy: Policy, requester: str,
                now: datetime, verdict: Verdict) -> Tally:
    """Counts distinct people whose decision names exactly these digests, may be theirs and has not run out.

    `decisions` have verified signatures (`decisions_of`). The requester's approval never counts, nor does one whose
    key did not count where the ledger has it. An approval holds until its own end or the policy's, whichever comes
    first. Of an INCONCLUSIVE verdict it has to waive every inconclusive rule; of another, none.
    """
    approved: dict[str, Decision] = {}
    rejected: dict[str, str] = {}
    void: list[Void] = []
    waivable = inconclusive(verdict)
    for decision in decisions:
        approval = decision.approval
        why_not = _why_not(decision, subject, policy, requester, now) or _why_not_waived(approval, waivable)
        same = approved if approval.decision == "approve" else rejected
        if not why_not and _folded(approval.person) in same:
            why_not = f"{approval.person} has decided so already, and counts once"
        if why_not:
            void.append(Void(person=approval.person, decision=approval.decision, reason=why_not))
        elif approval.decision == "reject":
            rejected[_folded(approval.person)] = approval.person
        else:
            approved[_folded(approval.person)] = decision
    return Tally(
        needed=needed(policy, verdict),
        approved_by=tuple(found.approval.person for found in approved.values()),
        approvals=tuple(found.sha256 for found in approved.values()), rejected_by=tuple(rejected.values()),
        waived=waivable if approved else (), void=tuple(void))


def needed(policy: Policy, verdict: Verdict) -> int:
    """How many people, other than who asked, have to approve."""
    return max(policy.approvals, WAIVING) if inconclusive(verdict) else policy.approvals


def inconclusive(verdict: Verdict) -> tuple[str, ...]:
    """The rules, by metric, that people may waive: those that are INCONCLUSIVE where nothing is worse."""
    if verdict.outcome != "INCONCLUSIVE":
        return ()
    return tuple(dict.fromkeys(found.rule.metric for found in verdict.rules if found.outcome == "INCONCLUSIVE"))


def _why_not_waived(approval: Approval, waivable: tuple[str, ...]) -> str:
    if approval.decision == "reject":
        return ""
    if beside := [rule for rule in approval.waives if rule not in waivable]:
        return f"it waives {beside[0]}, which is not INCONCLUSIVE"
    if lacking := [rule for rule in waivable if rule not in approval.waives]:
        return f"{lacking[0]} is INCONCLUSIVE, and it does not waive that"
    return ""


def _why_not(decision: Decision, subject: Subject, policy: Policy, requester: str, now: datetime) -> str:
    approval = decision.approval
    if other := differing(approval, subject):
        return f"it names {other}"
    if key_ended := decision.signer.why_not_at(decision.position):
        return key_ended
    if "reviewer" not in decision.signer.roles:
        return "the key is no reviewer's"
    try:
        decided, ends = (datetime.fromisoformat(at) for at in (approval.decided_at, approval.not_after))
        if decided > now + CLOCK_SKEW:
            return f"it is dated {approval.decided_at}, which has not come yet"
        if approval.decision == "approve" and same_person(approval.person, requester):
            return "the requester never counts"
        ends = min(ends, decided + timedelta(days=policy.valid_days))
        if approval.decision == "approve" and now >= ends:
            return f"it ran out on {ends:%Y-%m-%d %H:%M} UTC"
    except (ValueError, TypeError, OverflowError):
        return "its dates cannot be read"
    return ""


def differing(approval: Approval, subject: Subject) -> str:
    """The first thing that an approval names otherwise than a subject does, in words; empty if nothing."""
    found = next((name for name in Subject.model_fields if getattr(approval, name) != getattr(subject, name)), "")
    if found == "sample_sets":
        return "other sample sets"
    return f"another {found.removesuffix('_sha256')}" if found else ""


def moment(written: str) -> datetime | None:
    """A date and time as decisions bear them; None if it cannot be read, or has no zone."""
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def token(verdict: Verdict, tally: Tally) -> Token:
    """Whether the door is open: f(verdict, valid approvals, time), time being the tally's."""
    enough = len(tally.approved_by) >= tally.needed
    if tally.rejected_by or verdict.outcome in ("FAIL", "INVALID"):
        return "closed"
    if verdict.outcome == "INCONCLUSIVE":
        return "open" if enough and tally.waived == inconclusive(verdict) != () else "closed"
    return "open" if enough else "waiting"


def same_person(one: str, other: str) -> bool:
    """Whether two names are one person's: letter case and Unicode form make no second person."""
    return _folded(one) == _folded(other)


def _folded(person: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", person).casefold())


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _name(file: Path) -> str:
    return f"approvals/{file.parent.name}/{file.name}"
