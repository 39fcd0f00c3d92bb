"""Does everything still say what was signed? Reads a workspace's evidence byte by byte, names what differs.

Order: the ledger against its signed checkpoints; each envelope in it; the files that room statements are
about; decisions; runs; releases and what is served. Nothing is repaired, and nothing is skipped in silence.

What this cannot show from inside: that nobody shortened or forked the whole ledger and signed it again with
the operator's key. For that it takes a checkpoint saved where the operator cannot reach it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.contracts import RECORD_FILE, Receipt, Release, Request, Verdict, read_record
from expunge.custody import receipts
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import ExpungeError
from expunge.evidence import decisions, policies
from expunge.evidence.envelopes import payload_type_of
from expunge.evidence.findings import Finding, Findings
from expunge.evidence.key_changes import History, place_of
from expunge.evidence.keys import Keyring
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
from expunge.evidence.verify_ledger import verify_ledger
from expunge.samples.encryption import RequestKey
from expunge.settings import Workspace

STATEMENT_FILE = "statement.json"


@dataclass
class _Trail:
    """What the ledger's envelopes say, in its order, as far as they verified."""

    # Place in the ledger, digest of the envelope, statement.
    statements: list[tuple[str, str, Statement[Any]]] = field(default_factory=list)
    history: History = field(default_factory=lambda: History(Keyring()))
    approvals: dict[str, str] = field(default_factory=dict)  # sha256 of the envelope -> run

    def of(self, kind: type) -> Iterator[tuple[str, str, Statement[Any]]]:
        return (found for found in self.statements if isinstance(found[2].predicate, kind))


def verify_workspace(workspace: Workspace, outside: Iterable[bytes] = ()) -> Findings:
    """Checks all evidence of a workspace. `outside` are checkpoints that were saved elsewhere.

    Never raises for what it finds: whatever is wrong is a finding that names the object.
    """
    return tuple(_verify(workspace, tuple(outside)))


def _verify(workspace: Workspace, outside: tuple[bytes, ...]) -> Iterator[Finding]:
    keyring = Keyring()
    try:
        keyring = Keyring.load(workspace)
    except ExpungeError as error:
        yield Finding(object="keyring.json", ok=False, message=error.problem)
    trail = _Trail(history=History(keyring))
    try:
        ledger = Ledger.existing(workspace)
        yield from verify_ledger(ledger, keyring, outside,
                                 lambda entry, place: _read_in(entry, place, keyring, trail))
    except ExpungeError as error:
        yield Finding(object=workspace.ledger.name, ok=False, message=error.problem)
    if keyring.entries:
        ok, message = trail.history.end(workspace.keyring.read_bytes())
        yield Finding(object="keyring.json", ok=ok, message=message)
    yield from _results(workspace, keyring, trail)
    yield from _decisions(workspace, keyring, trail)
    yield from _runs(workspace, keyring, trail)
    yield from _releases(workspace, trail)
    yield from _disposals(workspace, trail)


# ----------------------------------------------------------------------------------------------- ledger


def _read_in(entry: Entry, place: str, keyring: Keyring, trail: _Trail) -> str:
    there = keyring.at(entry.position)
    try:
        kind = payload_type_of(entry.envelope)
        if kind == decisions.PAYLOAD_TYPE:  # one by a key that has ended was entered as well, and does not count
            approval, _ = decisions.open_approval(entry.envelope, keyring)
            trail.approvals[entry.sha256] = approval.run
        elif kind == policies.PAYLOAD_TYPE:
            policies.open_signature(entry.envelope, there)
        else:
            statement: Statement[Any]
            statement, signer = open_statement(entry.envelope, there)
            trail.statements.append((place, entry.sha256, statement))
            if isinstance(statement.predicate, KeyringPredicate):
                return trail.history.take(entry.position, statement, signer)
    except ExpungeError as error:
        return error.problem
    return ""


# ---------------------------------------------------------------------------------------- rooms' results


def _results(workspace: Workspace, keyring: Keyring, trail: _Trail) -> Iterator[Finding]:
    destroyed = {(name, digest): said.predicate.reason
                 for _, _, said in trail.of(DisposalPredicate) for name, digest in said.subjects.items()}
    recorded: set[str] = set()
    for place, sha256, statement in trail.of(RoomPredicate):
        folders = {"/".join(name.split("/")[:2]) for name in statement.subjects}
        for folder in sorted(folders):
            recorded.add(folder)
            yield _same_file(workspace, f"{folder}/{STATEMENT_FILE}", sha256, f"{place} has other bytes")
        for name, digest in statement.subjects.items():
            yield _subject(workspace, name, digest, destroyed)
        for folder in folders:
            yield from _strays(workspace, folder, statement)
    for file in sorted(workspace.results.glob(f"*/{STATEMENT_FILE}")):
        folder = file.parent.relative_to(workspace.root).as_posix()
        if folder not in recorded and not file.parent.name.startswith("."):
            yield from _unrecorded(workspace, folder, file, keyring)


def _subject(workspace: Workspace, name: str, digest: str, destroyed: dict[tuple[str, str], str]) -> Finding:
    reason = destroyed.get((name, digest))
    if reason is None:
        return _same_file(workspace, name, digest)
    if (workspace.root / name).exists():
        return Finding(object=name, ok=False, message=f"said to be destroyed ({reason}), and still there")
    return Finding(object=name, ok=True, message=f"destroyed: {reason}")


def _strays(workspace: Workspace, folder: str, statement: Statement[Any]) -> Iterator[Finding]:
    for path in sorted((workspace.root / folder).rglob("*")):
        name = path.relative_to(workspace.root).as_posix()
        if path.is_file() and name not in statement.subjects and name != f"{folder}/{STATEMENT_FILE}":
            yield Finding(object=name, ok=False, message="no statement speaks of it")


def _unrecorded(workspace: Workspace, folder: str, file: Path, keyring: Keyring) -> Iterator[Finding]:
    try:
        statement, _ = open_statement(file.read_bytes(), keyring, RoomPredicate)
    except ExpungeError as error:
        yield Finding(object=f"{folder}/{STATEMENT_FILE}", ok=False, message=error.problem)
        return
    own = all(name.startswith(f"{folder}/") for name in statement.subjects)
    yield Finding(object=f"{folder}/{STATEMENT_FILE}", ok=own,
                  message="not in the ledger" if own else "it speaks of another result")
    for name, digest in statement.subjects.items():
        yield _same_file(workspace, name, digest)


# ------------------------------------------------------------------------------------ decisions and runs


def _decisions(workspace: Workspace, keyring: Keyring, trail: _Trail) -> Iterator[Finding]:
    found: set[str] = set()
    for file in sorted(workspace.approvals.glob("*/*.json")):
        name = file.relative_to(workspace.root).as_posix()
        found.add(file.stem)
        try:
            decision = decisions.open_decision(file, file.parent.name, keyring, place_of(workspace, file.read_bytes()))
            message = "" if decision.sha256 in trail.approvals else "not in the ledger"
            yield Finding(object=name, ok=True, message=message)
        except ExpungeError as error:
            yield Finding(object=name, ok=False, message=error.problem.removeprefix(f"{name}: "))
            continue
        reason = decisions.reason_file(file)
        yield _same_file(workspace, reason.relative_to(workspace.root).as_posix(),
                         decision.approval.reason_sha256)
    for sha256, run in trail.approvals.items():
        if sha256 not in found:
            yield Finding(object=f"approvals/{run}/{sha256}.json", ok=False, message="missing")


def _runs(workspace: Workspace, keyring: Keyring, trail: _Trail) -> Iterator[Finding]:
    """The request and the policy of a run are files too; its last statement and its verdict name them.

    Whose the rules were is asked as well: a policy that neither ships nor is signed decides nothing.
    """
    by_digest = {sha256: statement for _, sha256, statement in trail.of(RoomPredicate)}
    last = {said.predicate.run: said.predicate for _, _, said in trail.of(RunPredicate)}
    for run, predicate in last.items():
        yield _same_file(workspace, f"runs/{run}/request.json", predicate.request_sha256)
        for room, use in predicate.rooms.items():
            if use.statement_sha256 not in by_digest:
                yield Finding(object=f"run {run}", ok=False,
                              message=f"the statement of its {room} is missing")
        gate = predicate.rooms.get("gate")
        verdict, _ = _record_of(workspace, by_digest.get(gate.statement_sha256) if gate else None, Verdict)
        if verdict is not None:
            yield _same_file(workspace, f"runs/{run}/{policies.POLICY_FILE}", verdict.policy_sha256)
        yield from _rules_of(workspace, run)


def _rules_of(workspace: Workspace, run: str) -> Iterator[Finding]:
    folder = workspace.runs / run
    policy, request = folder / policies.POLICY_FILE, folder / "request.json"
    if not policy.is_file() or not request.is_file():
        return  # missing, and said so
    name = policy.relative_to(workspace.root).as_posix()
    try:
        asked = read_record(Request, request)
        signature = policies.signature_beside(policy)
        signer = policies.require_standing(asked.policy, policy.read_bytes(), signature,
                                           policies.keyring_for(workspace, signature), asked.requester, begun=True)
    except ExpungeError as error:
        yield Finding(object=name, ok=False, message=error.problem.removeprefix("policy: "))
        return
    if signer is not None:
        yield Finding(object=policies.signature_file(policy).relative_to(workspace.root).as_posix(), ok=True)


def _record_of(workspace: Workspace, statement: Statement[Any] | None, kind: type[Any]) -> tuple[Any, str]:
    """The record that a room's statement is about, and its digest, if it still is what was signed."""
    for name, digest in (statement.subjects if statement else {}).items():
        file = workspace.root / name
        if file.name == RECORD_FILE and file.is_file() and sha256_file(file) == digest:
            return read_record(kind, file), digest
    return None, ""


# ---------------------------------------------------------------------------------------------- releases


def _releases(workspace: Workspace, trail: _Trail) -> Iterator[Finding]:
    served: dict[str, str | None] = {}  # model -> folder that should be current
    known: dict[str, set[str]] = {}  # folder -> the files that its release speaks of
    for place, _, statement in trail.statements:
        said = statement.predicate
        if isinstance(said, RoomPredicate) and said.room == "deploy":
            release, sha256 = _record_of(workspace, statement, Release)
            if release is None:
                yield Finding(object=place, ok=False, message="its release's record is not what was signed")
                continue
            folder = f"releases/{release.model}/{release.generation}-{release.weights.sha256[:12]}"
            served[release.model] = folder
            if folder not in known:
                known[folder] = {"release.json", *(file.name for file in (release.weights, *release.beside))}
                yield _same_file(workspace, f"{folder}/release.json", sha256)
                for file in (release.weights, *release.beside):
                    yield _same_file(workspace, f"{folder}/{file.name}", file.sha256)
                yield from _mark_of(workspace, release)
        elif isinstance(said, RollbackPredicate):
            served[said.model] = f"releases/{said.model}/{said.to_generation}-{said.to_sha256[:12]}"
        elif isinstance(said, WithdrawalPredicate):
            served[said.model] = None
    for home in sorted(workspace.releases.glob("*")):
        if home.is_dir():
            yield from _served(workspace, home, served.get(home.name), known)
    yield from _live_and_tainted(workspace)


def _served(workspace: Workspace, home: Path, expected: str | None,
            known: dict[str, set[str]]) -> Iterator[Finding]:
    link = home / "current"
    name = link.relative_to(workspace.root).as_posix()
    if link.exists() and not link.is_symlink():
        yield Finding(object=name, ok=False, message="not a link to a release")
    elif link.is_symlink() or expected is not None:
        points_at = f"releases/{home.name}/{link.readlink()}" if link.is_symlink() else None
        ok = points_at == expected and (expected is None or link.exists())
        wrong = f"serves {points_at or 'nothing'}, the ledger says {expected or 'nothing'}"
        yield Finding(object=name, ok=ok, message="" if ok else wrong)
    for folder in sorted(home.iterdir()):
        path = folder.relative_to(workspace.root).as_posix()
        if folder.is_symlink() or folder.name.startswith("."):
            continue
        if path not in known:
            yield Finding(object=path, ok=path != expected, message="no signed statement speaks of it")
            continue
        for file in sorted(folder.iterdir()):
            if file.name not in known[path]:
                yield Finding(object=f"{path}/{file.name}", ok=False, message="no statement speaks of it")


def _mark_of(workspace: Workspace, release: Release) -> Iterator[Finding]:
    """A release that was made has left its mark on the parent."""
    from expunge.stores import taint

    mark = taint.Mark(request_id=release.request_id, request_sha256=release.request_sha256,
                      parent_sha256=release.parent_sha256, approved_sha256=release.candidate_sha256,
                      pending=False)
    file = taint.file_of(mark, workspace)
    yield _same_file(workspace, file.relative_to(workspace.root).as_posix(), sha256_bytes(mark.to_bytes()),
                     "not the mark that its release left")


def _live_and_tainted(workspace: Workspace) -> Iterator[Finding]:
    from expunge.stores import releases, taint

    try:
        placed = releases.effective(workspace, taint.marks(workspace))
        parents = taint.lineage(workspace)
        for model in releases.models(workspace):
            live = releases.current(workspace, model)
            mark = taint.tainting(live.weights.sha256, placed, parents) if live else None
            if mark is not None:
                yield Finding(object=f"releases/{model}/current", ok=False,
                              message=f"serves what request {mark.request_id} had removed")
    except ExpungeError as error:
        yield Finding(object="taint", ok=False, message=error.problem)


# --------------------------------------------------------------------------------------------- disposals


def _disposals(workspace: Workspace, trail: _Trail) -> Iterator[Finding]:
    """Receipts are what was signed, keys that were destroyed are gone, and so is what no room's statement speaks of."""
    of_rooms = {item for _, _, said in trail.of(RoomPredicate) for item in said.subjects.items()}
    for _, _, said in trail.of(DisposalPredicate):
        for name, digest in said.subjects.items() - of_rooms:
            file = workspace.root / name
            if file.is_file() and sha256_file(file) == digest:
                yield Finding(object=name, ok=False,
                              message=f"said to be destroyed ({said.predicate.reason}), and still there")
    signed: set[str] = set()
    for _, _, said in trail.of(ReceiptPredicate):
        receipt: Receipt = said.predicate.receipt
        signed.add(receipt.request_id)
        name = receipts.receipt_file(workspace, receipt.request_id).relative_to(workspace.root).as_posix()
        yield _same_file(workspace, name, sha256_bytes(receipt.to_bytes()))
        if RequestKey.file(workspace, receipt.request_id).exists():
            yield Finding(object=name, ok=False, message="the key of its request is said to be destroyed, and is there")
    for file in sorted((workspace.root / "disposals").glob("*/receipt.json")):
        if file.parent.name not in signed:
            yield Finding(object=file.relative_to(workspace.root).as_posix(), ok=False, message="not in the ledger")


def _same_file(workspace: Workspace, name: str, digest: str, wrong: str = "not what was signed") -> Finding:
    file = workspace.root / name
    if not file.is_file():
        return Finding(object=name, ok=False, message="missing")
    ok = sha256_file(file) == digest
    return Finding(object=name, ok=ok, message="" if ok else wrong)
