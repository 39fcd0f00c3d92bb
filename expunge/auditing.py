"""The ledger, in words: what happened, oldest first, and who signed it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from expunge.contracts import Approval
from expunge.errors import DoesNotVerify
from expunge.events import TITLES
from expunge.evidence import decisions, policies
from expunge.evidence.envelopes import payload_type_of
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Entry, Ledger
from expunge.evidence.statements import (
    AskedPredicate,
    DisposalPredicate,
    KeyringPredicate,
    ReauditPredicate,
    ReceiptPredicate,
    RollbackPredicate,
    RoomPredicate,
    RunPredicate,
    Statement,
    WithdrawalPredicate,
    open_statement,
)
from expunge.runs import Run
from expunge.settings import Workspace

_DATES = ("decided_at", "signed_at", "checked_at", "started_at", "at")  # what statements call their moment

Said = Statement[Any] | Approval | policies.PolicySignature


@dataclass(frozen=True)
class Line:
    """One entry of the ledger, opened. `said` is None if it does not verify."""

    index: int
    sha256: str
    by: str
    said: Said | None

    @property
    def what(self) -> str:
        """The entry in one line."""
        if self.said is None:
            return "does not verify: run 'expunge audit verify'"
        if isinstance(self.said, Approval):
            waived = f", waiving {', '.join(self.said.waives)}" if self.said.waives else ""
            return f"{self.said.decision} {self.said.run}{waived}"
        if isinstance(self.said, policies.PolicySignature):
            return f"policy {self.said.name} signed"
        return _in_words(self.said)

    @property
    def at(self) -> str:
        """When it was said, by who said it; empty where that is not part of it."""
        about = self.said.predicate if isinstance(self.said, Statement) else self.said
        about = about.receipt if isinstance(about, ReceiptPredicate) else about
        return next((str(getattr(about, name)) for name in _DATES if getattr(about, name, None)), "")

    def to_json(self) -> dict[str, Any]:
        """The entry as plain values."""
        inputs: dict[str, str] = {}
        subjects: dict[str, str] = {}
        if isinstance(self.said, Statement):
            subjects = self.said.subjects
            inputs = getattr(self.said.predicate, "inputs", {})
        elif self.said is not None:
            inputs = {name.removesuffix("_sha256"): value for name, value in self.said.model_dump().items()
                      if name.endswith("_sha256")}
        return {"index": self.index, "sha256": self.sha256, "by": self.by, "what": self.what, "inputs": inputs,
                "subjects": subjects}


def log_lines(workspace: Workspace) -> list[dict[str, Any]]:
    """Every entry, oldest first."""
    return [line.to_json() for line in _lines(workspace)]


def show(workspace: Workspace, name: str) -> dict[str, Any]:
    """The entries that belong to one run: its rooms' statements, also reused ones, decisions, what became of it."""
    run = Run.find(workspace, name)
    state = run.state()
    lines = list(_lines(workspace))
    used = {use.statement_sha256 for line in lines if isinstance(line.said, Statement)
            and isinstance(line.said.predicate, RunPredicate) and line.said.predicate.run == run.name
            for use in line.said.predicate.rooms.values()}
    return {"run": run.name, "state": state.state, "request_sha256": state.request_sha256,
            "entries": [line.to_json() for line in lines
                        if line.sha256 in used or _is_about(line.said, run.name, state.request_id)]}


def _is_about(said: Said | None, run: str, request_id: str) -> bool:
    """Whether something was said of a run, or of what was kept for its request."""
    about = said.predicate if isinstance(said, Statement) else said
    if isinstance(about, ReceiptPredicate):
        return about.receipt.request_id == request_id
    if isinstance(about, DisposalPredicate):
        return about.request_id == request_id
    return getattr(about, "run", None) == run


def _lines(workspace: Workspace) -> Iterator[Line]:
    keyring = Keyring.load(workspace)
    for entry in Ledger.open(workspace).entries():
        yield open_line(entry, keyring)


def open_line(entry: Entry, keyring: Keyring) -> Line:
    """An entry of the ledger, its signature verified."""
    said: Said
    kind = payload_type_of(entry.envelope)
    try:
        if kind == decisions.PAYLOAD_TYPE:
            said, signer = decisions.open_approval(entry.envelope, keyring)
            by = signer.person
        elif kind == policies.PAYLOAD_TYPE:
            said = policies.open_signature(entry.envelope, keyring)
            by = said.person
        else:
            said, signer = open_statement(entry.envelope, keyring)
            by = signer.person
        return Line(entry.position, entry.sha256, by, said)
    except DoesNotVerify:
        return Line(entry.position, entry.sha256, "?", None)


def _in_words(statement: Statement[Any]) -> str:
    said = statement.predicate
    match said:
        case RoomPredicate():
            return f"{said.run}: {TITLES.get(said.room, said.room)}, {said.seconds:.1f} s"
        case RunPredicate():
            return f"{said.run}: the run is {said.state.replace('_', ' ')}"
        case ReauditPredicate():
            what = {"whole": "", "part": ", as far as it can still be asked", "none": ", nothing could be measured"}
            return f"{said.model}: generation {said.generation} was evaluated again: {said.outcome}{what[said.extent]}"
        case KeyringPredicate():
            why = f" ({said.reason})" if said.reason else ""
            return f"keyring: {said.person}'s key {said.key_id[:12]} {said.change}{why}"
        case DisposalPredicate():
            return f"{said.request_id}: destroyed, for {said.reason}"
        case ReceiptPredicate(receipt=receipt):
            left = sum(found.images for found in receipt.found
                       if not found.removed and found.kind in ("copies", "parts"))
            remain = f"; {left:,} copies remain, and are named" if left else ""
            return f"{receipt.request_id}: disposed of by {receipt.by}, its key destroyed{remain}"
        case AskedPredicate():
            counted = f"{said.samples:,} samples"
            return {"look": f"{said.by} asked to look at {counted if said.samples else 'classes'} of {said.checkpoint}",
                    "delete": f"{said.by} deleted what they looked at",
                    "release": f"{said.run}: {said.by} asked that it be released",
                    "file": f"{said.request_id}: filed by {said.by}"
                            f"{f', with {counted} marked' if said.samples else ''}"}[said.what]
        case RollbackPredicate():
            return f"{said.model}: rolled back to generation {said.to_generation} by {said.by}"
        case WithdrawalPredicate():
            return f"{said.model}: withdrawn by {said.by}"
        case _:
            return str(said.TYPE)
