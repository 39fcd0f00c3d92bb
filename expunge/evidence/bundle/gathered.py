"""Everything that speaks of one run and its release, found by walking digests down. Nothing of the forget set."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from expunge.contracts import (
    RECORD_FILE,
    Approval,
    Candidate,
    Policy,
    Record,
    Release,
    Report,
    Request,
    Verdict,
    read_record,
)
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, DoesNotVerify
from expunge.evidence import decisions, policies
from expunge.evidence.checkpoints import Checkpoint, open_checkpoint
from expunge.evidence.coherence import read_policy
from expunge.evidence.envelopes import payload_type_of
from expunge.evidence.keys import Keyring, private_key_file
from expunge.evidence.ledger import Entry, Ledger
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
from expunge.settings import Workspace
from expunge.stores import releases, taint

RECORDS = {"unlearn": "candidate", "evaluate": "report", "gate": "verdict", "deploy": "release"}
"""The rooms that a bundle is about, and which of their outputs has the record."""


@dataclass(frozen=True)
class Said:
    """One entry of the ledger, its signature verified."""

    entry: Entry
    what: Statement[Any] | Approval | None  # None: the signature of a policy
    by: str


@dataclass(frozen=True)
class Gathered:
    """A run that came to a verdict, with all that was said of it, and of its release if there is one."""

    workspace: Workspace
    run: str
    keyring: Keyring
    note: bytes  # the ledger's newest checkpoint
    head: Checkpoint
    said: tuple[Said, ...]
    rooms: dict[str, Said]  # the statements of the rooms that made it

    def record_file(self, room: str) -> Path:
        """Where the record lies that a room's statement is about."""
        ending = f"/{RECORDS[room]}/{RECORD_FILE}"
        statement = self.rooms[room].what
        names = [name for name in getattr(statement, "subjects", {}) if name.endswith(ending)]
        if len(names) != 1:
            raise DoesNotVerify(f"ledger entry {self.rooms[room].entry.position}: it speaks of no {RECORDS[room]}")
        return self.workspace.root / names[0]

    def _read(self, kind: type[Record], room: str) -> Any:
        return read_record(kind, self.record_file(room))

    @property
    def is_released(self) -> bool:
        """Whether something went into service by it."""
        return "deploy" in self.rooms

    @cached_property
    def release(self) -> Release:
        """What went into service."""
        found: Release = self._read(Release, "deploy")
        return found

    @cached_property
    def candidate(self) -> Candidate:
        """The model that was released, and what it was made from."""
        found: Candidate = self._read(Candidate, "unlearn")
        return found

    @cached_property
    def report(self) -> Report:
        """What was measured."""
        found: Report = self._read(Report, "evaluate")
        return found

    @cached_property
    def verdict(self) -> Verdict:
        """What the gate decided."""
        found: Verdict = self._read(Verdict, "gate")
        return found

    @cached_property
    def request(self) -> Request:
        """What was asked for."""
        return read_record(Request, self.folder / "request.json")

    @cached_property
    def policy(self) -> Policy:
        """By which rules."""
        return read_policy(self.folder / policies.POLICY_FILE)

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return self.workspace.runs / self.run

    @property
    def released(self) -> Path:
        """The folder that is, or was, served."""
        return releases.folder_of(self.workspace, self.release)

    def statements(self, *kinds: type) -> Iterator[tuple[Said, Statement[Any]]]:
        """The statements that say one of these things, in the ledger's order."""
        return ((said, said.what) for said in self.said
                if isinstance(said.what, Statement) and isinstance(said.what.predicate, kinds))

    @cached_property
    def approvals(self) -> tuple[tuple[Entry, Approval], ...]:
        """The decisions that the release names, in its order; without a release all that there are."""
        decided = {said.entry.sha256: (said.entry, said.what) for said in self.said if isinstance(said.what, Approval)}
        if not self.is_released:
            return tuple(decided.values())
        missing = [digest for digest in self.release.approvals if digest not in decided]
        if missing:
            raise DoesNotVerify(f"approval {missing[0][:12]}: it is not in the ledger", "run 'expunge audit verify'")
        return tuple(decided[digest] for digest in self.release.approvals)

    @property
    def operator_key(self) -> str:
        """The key that signs the ledger's checkpoint."""
        return open_checkpoint(self.note, self.keyring)[1].key_id

    @property
    def people(self) -> tuple[str, ...]:
        """Everybody whose name stands in these records."""
        named = {self.request.requester, *(said.by for said in self.said), *self.keyring.people()}
        return tuple(sorted(named))

    @property
    def keys_here(self) -> tuple[str, ...]:
        """Whose private keys lie on this machine, of those who signed: what one person here could sign alone."""
        signed = {said.by for said in self.said}
        return tuple(sorted(person for person in signed if private_key_file(self.workspace, person).is_file()))

    @property
    def marks(self) -> tuple[tuple[Path, taint.Mark], ...]:
        """The mark that this release left, and any by which it may no longer be served. Without a release, none."""
        if not self.is_released:
            return ()
        placed, parents = taint.marks(self.workspace), taint.lineage(self.workspace)
        tainting = taint.tainting(self.release.weights.sha256, placed, parents)
        return tuple((taint.file_of(mark, self.workspace), mark) for mark in placed
                     if mark == tainting or (mark.request_sha256 == self.release.request_sha256
                                             and mark.approved_sha256 == self.release.weights.sha256))


def gather(workspace: Workspace, run: str) -> Gathered:
    """Everything on a run that came to a verdict.

    Raises:
        BadInput: it did not.
        DoesNotVerify: something that belongs to it is missing or not what was signed.
    """
    keyring, ledger = Keyring.load(workspace), Ledger.existing(workspace)
    note = ledger.checkpoint
    head, _ = open_checkpoint(note, keyring)
    entries = {entry.position: entry for entry in ledger.entries() if _is_about(entry.envelope, run)}
    said_of_it = (_run_statement(entry, keyring) for entry in reversed(entries.values()))
    last = next((statement.predicate for statement in said_of_it if statement is not None), None)
    if last is None or "gate" not in last.rooms:
        raise BadInput(f"run: {run} has come to no verdict", "a bundle is about one: see 'expunge status'")
    rooms = {}
    for room, use in last.rooms.items():
        position = ledger.position_of(use.statement_sha256)
        if position is None:
            raise DoesNotVerify(f"run {run}: the statement of its {room} is missing")
        entries[position] = rooms[room] = ledger.entry(position)
    signature = policies.signature_beside(workspace.runs / run / policies.POLICY_FILE)
    if signature is not None and (place := ledger.position_of(sha256_bytes(signature))) is not None:
        entries[place] = ledger.entry(place)
    said = {place: _open(entries[place], keyring) for place in sorted(entries) if place < head.size}
    found = Gathered(workspace, run, keyring, note, head, tuple(said.values()),
                     {room: said[entry.position] for room, entry in rooms.items()})
    model, request = found.request.model, last.request_sha256
    kept = tuple(one for one in found.said if _belongs(one, model, request))
    return Gathered(workspace, run, keyring, note, head, kept, found.rooms)


_WHOEVER = frozenset(kind.TYPE for kind in (
    KeyringPredicate, RollbackPredicate, WithdrawalPredicate, DisposalPredicate, ReceiptPredicate))


def _belongs(said: Said, model: str, request: str) -> bool:
    about = said.what.predicate if isinstance(said.what, Statement) else None
    match about:
        case RollbackPredicate() | WithdrawalPredicate():
            return about.model == model
        case DisposalPredicate():
            return about.request_sha256 == request
        case ReceiptPredicate():
            return request in about.receipt.request_sha256
        case _:
            return True


def _is_about(envelope: bytes, run: str) -> bool:
    """Whether an envelope may belong to a run, before anything is verified: cheap, for every entry is asked."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        payload = json.loads(_decoded(json.loads(envelope)["payload"]))
        if "predicateType" not in payload:
            return bool(payload.get("run") == run)
        kind, said = payload["predicateType"], payload["predicate"]
        if kind in _WHOEVER:
            return True
        return bool(said.get("run") == run and kind != RoomPredicate.TYPE)
    return False


def _decoded(text: str) -> bytes:
    import base64

    return base64.b64decode(text)


def _run_statement(entry: Entry, keyring: Keyring) -> Statement[RunPredicate] | None:
    with suppress(DoesNotVerify):
        return open_statement(entry.envelope, keyring.at(entry.position), RunPredicate)[0]
    return None


def _open(entry: Entry, keyring: Keyring) -> Said:
    there = keyring.at(entry.position)
    try:
        match payload_type_of(entry.envelope):
            case decisions.PAYLOAD_TYPE:
                approval, signer = decisions.open_approval(entry.envelope, keyring)  # by a key that ended: void
                return Said(entry, approval, signer.person)
            case policies.PAYLOAD_TYPE:
                return Said(entry, None, "")
            case _:
                statement: Statement[Any]
                statement, signer = open_statement(entry.envelope, there)
                return Said(entry, statement, signer.person)
    except DoesNotVerify as error:
        raise DoesNotVerify(f"ledger entry {entry.position}: {error.problem}") from None
