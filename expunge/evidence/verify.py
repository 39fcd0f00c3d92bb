"""Does everything still say what was signed? Reads a workspace's evidence byte by byte, names what differs.

Order: the ledger against its signed checkpoints; each envelope in it; the files that room statements are
about; decisions; runs; releases and what is served. Nothing is repaired, and nothing is skipped in silence.

What this cannot show from inside: that nobody shortened or forked the whole ledger and signed it again with
the operator's key. For that it takes a checkpoint saved where the operator cannot reach it.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.contracts import RECORD_FILE, Release, Request, Verdict, read_record
from expunge.custody import receipts
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import ExpungeError
from expunge.evidence import decisions, policies
from expunge.evidence.findings import Finding, Findings
from expunge.evidence.key_changes import History
from expunge.evidence.keys import Keyring
from expunge.evidence.said import Said, SaidOfRoom, folder_of
from expunge.evidence.statements import RoomPredicate, open_statement
from expunge.evidence.verify_ledger import verify_ledger
from expunge.samples.encryption import RequestKey
from expunge.settings import Workspace
from expunge.stores.addresses import scheme

STATEMENT_FILE = "statement.json"


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
    said, results, history = Said(), _Results(workspace), History(keyring)

    def take(part: Said) -> Iterator[Finding]:
        for change in part.keys:
            if problem := history.take(change.position, change.statement, change.signer):
                yield Finding(object=f"ledger entry {change.position}", ok=False, message=problem)
        for room in part.rooms:
            yield from results.take(room)
        said.add(part)

    try:
        yield from verify_ledger(workspace, keyring, outside, take)
    except ExpungeError as error:
        yield Finding(object=workspace.ledger.name, ok=False, message=error.problem)
    if keyring.entries:
        ok, message = history.end(workspace.keyring.read_bytes())
        yield Finding(object="keyring.json", ok=ok, message=message)
    yield from results.end(said, keyring)
    yield from _decisions(workspace, keyring, said)
    yield from _runs(workspace, said, results)
    yield from _releases(workspace, said)
    yield from _disposals(workspace, said)


# ---------------------------------------------------------------------------------------- rooms' results


class _Results:
    """What rooms left, beside what their statements say of it: one statement after the other, as they come."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._recorded: set[str] = set()  # folders
        self._amiss: list[tuple[tuple[str, str], Finding]] = []  # by file and digest: they may be destroyed later on
        self._statements: set[bytes] = set()  # digests of their envelopes

    def take(self, said: SaidOfRoom) -> Iterator[Finding]:
        """What a statement is about."""
        self._statements.add(bytes.fromhex(said.sha256))
        folders = sorted({"/".join(name.split("/")[:2]) for name in said.subjects})
        for folder in folders:
            self._recorded.add(folder)
            yield _same_file(self._workspace, f"{folder}/{STATEMENT_FILE}", said.sha256,
                             f"ledger entry {said.position} has other bytes")
        for name, digest in said.subjects.items():
            found = _same_file(self._workspace, name, digest)
            if found.ok:
                yield found
            else:
                self._amiss.append(((name, digest), found))
        for folder in folders:
            yield from self._strays(folder, said)

    def holds(self, statement_sha256: str) -> bool:
        """Whether that was a room's statement."""
        return bytes.fromhex(statement_sha256) in self._statements

    def end(self, said: Said, keyring: Keyring) -> Iterator[Finding]:
        """What was destroyed on purpose is not missing; and what lies there that the ledger knows nothing of."""
        for subject, found in self._amiss:
            name, reason = subject[0], said.destroyed.get(subject)
            if reason is None:
                yield found
            elif not (self._workspace.root / name).exists():
                yield Finding(object=name, ok=True, message=f"destroyed: {reason}")
            else:
                yield _still_there(name, reason)
        for file in sorted(self._workspace.results.glob(f"*/{STATEMENT_FILE}")):
            folder = file.parent.relative_to(self._workspace.root).as_posix()
            if folder not in self._recorded and not file.parent.name.startswith("."):
                yield from _unrecorded(self._workspace, folder, file, keyring)

    def _strays(self, folder: str, said: SaidOfRoom) -> Iterator[Finding]:
        for path in sorted((self._workspace.root / folder).rglob("*")):
            name = path.relative_to(self._workspace.root).as_posix()
            if path.is_file() and name not in said.subjects and name != f"{folder}/{STATEMENT_FILE}":
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


def _decisions(workspace: Workspace, keyring: Keyring, said: Said) -> Iterator[Finding]:
    found: set[str] = set()
    for file in sorted(workspace.approvals.glob("*/*.json")):
        name = file.relative_to(workspace.root).as_posix()
        found.add(file.stem)
        try:
            decision = decisions.open_decision(file, file.parent.name, keyring, 0)  # who counts where is not asked
            message = "" if decision.sha256 in said.approvals else "not in the ledger"
            yield Finding(object=name, ok=True, message=message)
        except ExpungeError as error:
            yield Finding(object=name, ok=False, message=error.problem.removeprefix(f"{name}: "))
            continue
        reason = decisions.reason_file(file)
        yield _same_file(workspace, reason.relative_to(workspace.root).as_posix(),
                         decision.approval.reason_sha256)
    for sha256, run in said.approvals.items():
        if sha256 not in found:
            yield Finding(object=f"approvals/{run}/{sha256}.json", ok=False, message="missing")


def _runs(workspace: Workspace, said: Said, results: _Results) -> Iterator[Finding]:
    """The request and the policy of a run are files too; its last statement and its verdict name them.

    Whose the rules were is asked as well: a policy that neither ships nor is signed decides nothing.
    """
    gates = {room.sha256: room.subjects for room in said.rooms if room.room == "gate"}
    for run, last in said.runs.items():
        yield _same_file(workspace, f"runs/{run}/request.json", last.request_sha256)
        for room, statement_sha256 in last.rooms.items():
            if not results.holds(statement_sha256):
                yield Finding(object=f"run {run}", ok=False,
                              message=f"the statement of its {room} is missing")
        verdict, _ = _record_of(workspace, gates.get(last.rooms.get("gate", ""), {}), Verdict)
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


def _record_of(workspace: Workspace, subjects: Mapping[str, str], kind: type[Any]) -> tuple[Any, str]:
    """The record that a room's statement is about, and its digest, if it still is what was signed."""
    for name, digest in subjects.items():
        file = workspace.root / name
        if file.name == RECORD_FILE and file.is_file() and sha256_file(file) == digest:
            return read_record(kind, file), digest
    return None, ""


# ---------------------------------------------------------------------------------------------- releases


def _releases(workspace: Workspace, said: Said) -> Iterator[Finding]:
    served = dict(said.served)  # what was said last of each model: where, and the folder that should be current
    known: dict[str, set[str]] = {}  # folder -> the files that its release speaks of
    for deployed in said.rooms:
        if deployed.room != "deploy":
            continue
        release, sha256 = _record_of(workspace, deployed.subjects, Release)
        if release is None:
            yield Finding(object=f"ledger entry {deployed.position}", ok=False,
                          message="its release's record is not what was signed")
            continue
        folder = folder_of(release.model, release.generation, release.weights.sha256)
        if served.get(release.model, (-1, None))[0] < deployed.position:
            served[release.model] = deployed.position, folder
        if folder not in known:
            known[folder] = {"release.json", *(file.name for file in (release.weights, *release.beside))}
            yield _same_file(workspace, f"{folder}/release.json", sha256)
            for file in (release.weights, *release.beside):
                yield _same_file(workspace, f"{folder}/{file.name}", file.sha256)
            yield from _mark_of(workspace, release)
    for home in sorted(workspace.releases.glob("*")):
        if home.is_dir():
            yield from _served(workspace, home, served.get(home.name, (-1, None))[1], known)
    yield from _live_and_tainted(workspace)


def _served(workspace: Workspace, home: Path, expected: str | None,
            known: dict[str, set[str]]) -> Iterator[Finding]:
    link = home / "current"
    if link.exists() and not link.is_symlink():
        yield Finding(object=link.relative_to(workspace.root).as_posix(), ok=False, message="not a link to a release")
    else:
        yield from _pointed_at(workspace, home.name, expected)
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


def _pointed_at(workspace: Workspace, model: str, expected: str | None) -> Iterator[Finding]:
    """What `current` says, beside the ledger; and what is served, if those are other bytes than the workspace's."""
    from expunge.stores import releases

    name = f"releases/{model}/current"
    try:
        store = releases.store_of(workspace)
        name = store.pointer(model)
        folder = store.pointed(model).folder
        points_at = f"releases/{model}/{folder}" if folder is not None else None
        if points_at != expected:
            yield Finding(object=name, ok=False,
                          message=f"serves {points_at or 'nothing'}, the ledger says {expected or 'nothing'}")
            return
        release, _ = store.current(model)
        if release is None:
            return
        yield Finding(object=name, ok=True, message="")
        for file in (release.weights, *release.beside):
            there = store.served_at(release, file.name)
            if scheme(there):
                ok = store.digest(release, file) == file.sha256
                yield Finding(object=there, ok=ok, message="" if ok else "not the bytes that were released")
    except ExpungeError as error:
        yield Finding(object=name, ok=False, message=error.problem)


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


def _disposals(workspace: Workspace, said: Said) -> Iterator[Finding]:
    """What was destroyed is gone, receipts are what was signed, and so are keys gone that were destroyed."""
    for (name, digest), reason in said.destroyed.items():
        file = workspace.root / name
        if file.is_file() and sha256_file(file) == digest:
            yield _still_there(name, reason)
    for request_id, digest in said.receipts:
        name = receipts.receipt_file(workspace, request_id).relative_to(workspace.root).as_posix()
        yield _same_file(workspace, name, digest)
        if RequestKey.file(workspace, request_id).exists():
            yield Finding(object=name, ok=False, message="the key of its request is said to be destroyed, and is there")
    signed = {request_id for request_id, _ in said.receipts}
    for file in sorted((workspace.root / "disposals").glob("*/receipt.json")):
        if file.parent.name not in signed:
            yield Finding(object=file.relative_to(workspace.root).as_posix(), ok=False, message="not in the ledger")


def _still_there(name: str, reason: str) -> Finding:
    return Finding(object=name, ok=False, message=f"said to be destroyed ({reason}), and still there")


def _same_file(workspace: Workspace, name: str, digest: str, wrong: str = "not what was signed") -> Finding:
    file = workspace.root / name
    if not file.is_file():
        return Finding(object=name, ok=False, message="missing")
    ok = sha256_file(file) == digest
    return Finding(object=name, ok=ok, message="" if ok else wrong)
