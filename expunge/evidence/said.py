"""What the ledger's statements come to, as far as later checks ask: little of each, and the last of many.

Every envelope's signature is verified on the way. A statement of a kind that this expunge does not know is wrong:
nobody can tell what it says.
"""

from dataclasses import dataclass, field
from typing import Any

from expunge.digests import sha256_bytes
from expunge.errors import ExpungeError
from expunge.evidence import decisions, policies
from expunge.evidence.envelopes import payload_type_of
from expunge.evidence.keys import Keyring, KeyringEntry
from expunge.evidence.ledger import Entry
from expunge.evidence.statements import (
    DisposalPredicate,
    KeyringPredicate,
    ReceiptPredicate,
    RollbackPredicate,
    RoomPredicate,
    RunPredicate,
    Statement,
    WithdrawalPredicate,
    open_statement,
)


@dataclass(frozen=True)
class SaidOfRoom:
    """A room's statement: where it lies, and the files that it is about."""

    position: int
    sha256: str  # of the envelope
    room: str
    subjects: dict[str, str]


@dataclass(frozen=True)
class SaidOfRun:
    """The last that was said of a run."""

    request_sha256: str
    rooms: dict[str, str]  # name -> digest of its statement's envelope


@dataclass(frozen=True)
class SaidOfKeys:
    """A change of the keyring."""

    position: int
    statement: Statement[KeyringPredicate]
    signer: KeyringEntry


@dataclass
class Said:
    """Of a part of the ledger, as far as its envelopes verified."""

    rooms: list[SaidOfRoom] = field(default_factory=list)
    runs: dict[str, SaidOfRun] = field(default_factory=dict)
    destroyed: dict[tuple[str, str], str] = field(default_factory=dict)  # file and digest -> why
    receipts: list[tuple[str, str]] = field(default_factory=list)  # request, digest of the receipt
    served: dict[str, tuple[int, str | None]] = field(default_factory=dict)  # model -> where it was said, folder
    approvals: dict[str, str] = field(default_factory=dict)  # digest of the envelope -> run
    keys: list[SaidOfKeys] = field(default_factory=list)

    def take(self, entry: Entry, keyring: Keyring) -> str:
        """Takes in an entry; says what is wrong with it, empty if nothing is."""
        there = keyring.at(entry.position)
        try:
            kind = payload_type_of(entry.envelope)
            if kind == decisions.PAYLOAD_TYPE:  # one by a key that has ended was entered as well, and does not count
                approval, _ = decisions.open_approval(entry.envelope, keyring)
                self.approvals[entry.sha256] = approval.run
            elif kind == policies.PAYLOAD_TYPE:
                policies.open_signature(entry.envelope, there)
            else:
                self._note(entry, *open_statement(entry.envelope, there))
        except ExpungeError as error:
            return error.problem
        return ""

    def _note(self, entry: Entry, statement: Statement[Any], signer: KeyringEntry) -> None:
        said = statement.predicate
        match said:
            case RoomPredicate():
                self.rooms.append(SaidOfRoom(entry.position, entry.sha256, said.room, statement.subjects))
            case RunPredicate():
                self.runs[said.run] = SaidOfRun(said.request_sha256, {
                    room: use.statement_sha256 for room, use in said.rooms.items()})
            case DisposalPredicate():
                self.destroyed |= dict.fromkeys(statement.subjects.items(), said.reason)
            case ReceiptPredicate():
                self.receipts.append((said.receipt.request_id, sha256_bytes(said.receipt.to_bytes())))
            case RollbackPredicate():
                self.served[said.model] = entry.position, folder_of(said.model, said.to_generation, said.to_sha256)
            case WithdrawalPredicate():
                self.served[said.model] = entry.position, None
            case KeyringPredicate():
                self.keys.append(SaidOfKeys(entry.position, statement, signer))

    def add(self, later: "Said") -> None:
        """Takes in what was said after that. Of rooms only those that decide and release: there are many others."""
        self.rooms += [said for said in later.rooms if said.room in ("gate", "deploy")]
        self.runs |= later.runs
        self.destroyed |= later.destroyed
        self.receipts += later.receipts
        self.served |= later.served
        self.approvals |= later.approvals
        self.keys += later.keys


def folder_of(model: str, generation: int, sha256: str) -> str:
    """Where a release of a model lies in the workspace."""
    return f"releases/{model}/{generation}-{sha256[:12]}"
