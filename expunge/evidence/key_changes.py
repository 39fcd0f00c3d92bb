"""How the keyring changes: by a statement in the ledger, signed by an admin, that names the new keyring's digest.

Keys are entered, revoked and rotated. As long as nobody is admin, the operator's key signs; the operator's first
key itself needs no statement, for it is what signs the empty ledger. The last admin cannot be revoked.

A change counts from the position after its own: its statement is signed for one position, and where another entry
came first it changes nothing and is made again. So the keyring of any position can be worked out from the last
one, and each statement's digest be compared with it (``History``).

Signed and entered first, then the file. What is about to be entered lies beside the keyring, and is in force as
soon as the ledger has it; ``finish`` writes what a kill left unwritten.
"""

import fcntl
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from expunge.contracts import Frozen, Record, parse_record
from expunge.digests import sha256_bytes, write_atomically
from expunge.documents import parse_document
from expunge.errors import BadInput, DoesNotVerify, Refused, WorkspaceBusy
from expunge.evidence.envelopes import open_envelope, payload_type_of
from expunge.evidence.keys import (
    OPERATOR,
    Keyring,
    KeyringEntry,
    Role,
    SigningKey,
    change_file,
    check_name_and_roles,
    make_private,
)
from expunge.evidence.ledger import Entry, Ledger
from expunge.evidence.statements import KeyringPredicate, Statement, open_statement, sign_statement
from expunge.settings import Workspace

_TRIES = 20  # at landing on the position that a change was signed for, with others appending
NOT_RECORDED = "not shown: entered before changes were recorded"


class _Change(Record):
    """A change on its way: what is entered in the ledger, and the keyring that holds once it is."""

    SCHEMA: ClassVar[str] = "expunge/keyring-change/v1"

    position: int
    envelope: str  # an envelope is RFC 8785 JSON
    keyring: str

    @property
    def after(self) -> Keyring:
        """The keyring, as a record."""
        return parse_record(Keyring, parse_document(self.keyring.encode(), "keyring"), "keyring")


class _Made(Frozen):
    """What a change comes to, given the keyring before it and the position from which on it counts."""

    after: Keyring
    entry: KeyringEntry  # that was entered, or that ended
    said: KeyringPredicate


# ------------------------------------------------------------------------------------------ the three changes


def enter(workspace: Workspace, person: str, roles: Iterable[Role], *, by: str | None = None,
          reason: str = "", public_key: str | None = None) -> KeyringEntry:
    """Makes a key for a person and enters it. The first of all is the operator's, and needs no statement.

    With `public_key`, 64 hex digits, it is entered and none is made: the private part is the person's, elsewhere.

    Raises:
        BadInput: the name, a role or the public key cannot be used, the person has a key that counts, or nobody was
            named who may.
        Refused: whoever signs may not.
    """
    roles = tuple(dict.fromkeys(roles))
    check_name_and_roles(person, roles)
    with _locked(workspace):
        keyring = Keyring.load(workspace)
        if not keyring.entries:
            if person != OPERATOR:
                raise BadInput("keys: the keyring is empty, and its first key is the operator's", "run 'expunge init'")
            key = make_private(workspace, person, keyring)
            first = KeyringEntry(key_id=key.key_id, public_key=key.public_key, person=person, roles=roles,
                                 created_at=_now())
            write_atomically(workspace.keyring, Keyring(entries=(first,)).to_bytes())
            return first
        signer = _entitled(workspace, keyring, by)
        for entry in keyring.entries_of(person):
            if entry.counts_now:
                raise BadInput(f"key: {person} already has {entry.key_id[:12]}",
                               f"keys are never overwritten; 'expunge keys rotate {person}' replaces it")
        entered = _public(public_key, keyring) if public_key is not None else make_private(workspace, person, keyring)

        def make(before: Keyring, position: int) -> _Made:
            entry = _entry(entered, person, roles, position)
            return _Made(after=Keyring(entries=(*before.entries, entry)), entry=entry, said=KeyringPredicate(
                change="entered", person=person, roles=roles, key_id=entered.key_id, position=position,
                by=signer.person, reason=reason, at=entry.created_at))

        return _carry_out(workspace, signer, make)


def revoke(workspace: Workspace, whose: str, *, by: str | None = None, reason: str) -> KeyringEntry:
    """Ends a key, named by its person or by the beginning of its id: what is entered from now on does not count.

    Raises:
        BadInput: no such key counts, several do, or no reason is given.
        Refused: whoever signs may not, or nobody could do what only this key can.
    """
    if not reason.strip():
        raise BadInput("keys: a revocation needs a reason", "say it with --reason")
    with _locked(workspace):
        keyring = Keyring.load(workspace)
        signer, ended = _entitled(workspace, keyring, by), _named(keyring, whose)
        if "operator" in ended.roles and keyring.holders("operator") == (ended,):
            raise Refused(f"keys: without {ended.person}'s key nothing could be signed here",
                          f"expunge keys rotate {ended.person}   gives it another one")
        if "admin" in ended.roles and keyring.holders("admin") == (ended,):
            raise Refused(f"keys: {ended.person} is the last admin", "enter another admin's key first")

        def make(before: Keyring, position: int) -> _Made:
            entry = _end(ended, "revoked", reason, position)
            return _Made(after=_with(before, entry), entry=entry, said=KeyringPredicate(
                change="revoked", person=entry.person, roles=entry.roles, key_id=entry.key_id, position=position,
                by=signer.person, reason=reason, at=_now()))

        return _carry_out(workspace, signer, make)


def rotate(workspace: Workspace, whose: str, *, by: str | None = None, reason: str = "",
           public_key: str | None = None) -> KeyringEntry:
    """Gives a person another key in the place of theirs, with the same roles; the old one's file stays.

    What the old key signed so far is entered first, so that it goes on counting. The old private key is not
    needed: this is also what helps who has lost it. `public_key` as for `enter`.

    Raises:
        BadInput: no such key counts, several do, the public key cannot be used, or it is to be the operator's.
        Refused: whoever signs may not.
        WorkspaceBusy: it is the operator's, and a run is at work, whose statements would come too late.
    """
    from expunge.room import exclusive

    with _locked(workspace), ExitStack() as alone:
        keyring = Keyring.load(workspace)
        signer, ended = _entitled(workspace, keyring, by), _named(keyring, whose)
        if "operator" in ended.roles:
            if public_key is not None:
                raise BadInput("keys: the operator's key signs what this installation says, so it lies here",
                               "leave --public-key out")
            alone.enter_context(exclusive(
                workspace.root / "supervisor.lock", f"workspace: a run works in {workspace.root}",
                "wait for it, or stop it with 'expunge cancel'"))
        lost = ended.person == OPERATOR and not _lies_here(workspace, OPERATOR)
        if not lost:  # without the operator's key nothing can be entered but this
            _enter_what_it_signed(workspace, ended)
        made = None if public_key is not None else make_private(workspace, ended.person, keyring)
        key = made or _public(str(public_key), keyring)

        def make(before: Keyring, position: int) -> _Made:
            entry = _entry(key, ended.person, ended.roles, position)
            after = _with(before, _end(ended, "rotated", reason, position))
            return _Made(after=Keyring(entries=(*after.entries, entry)), entry=entry, said=KeyringPredicate(
                change="rotated", person=entry.person, roles=entry.roles, key_id=entry.key_id,
                replaces=ended.key_id, position=position, by=signer.person, reason=reason, at=entry.created_at))

        return _carry_out(workspace, signer, make, head_signer=made if lost else None)


def place_of(workspace: Workspace, envelope: bytes) -> int:
    """The position at which an envelope is judged: its own, or, of one not entered, the ledger's present size."""
    ledger = Ledger.open(workspace)
    found = ledger.position_of(sha256_bytes(envelope))
    return ledger.size if found is None else found


# ------------------------------------------------------------------------------------------ whether it adds up


class History:
    """Whether a keyring is what the ledger's statements made of it, taken in one by one in the ledger's order."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._changed_at = {0}  # positions from which on some change counts
        self._last: str | None = None  # digest of the keyring that the last change made

    def take(self, position: int, statement: Statement[Any], signer: KeyringEntry) -> str:
        """What is wrong with a `KeyringPredicate` at a position of the ledger; empty if nothing is."""
        said: KeyringPredicate = statement.predicate
        if said.position != position:
            return ""  # it came too late for its place, changed nothing, and was made again
        before, after = self._keyring.as_of(position), self._keyring.as_of(position + 1)
        self._changed_at.add(position + 1)
        self._last, = statement.subjects.values() if len(statement.subjects) == 1 else (None,)
        if why_not := _why_not_entitled(before, signer):
            return why_not
        if self._last != sha256_bytes(after.to_bytes()):
            return "the keyring is not the one that this change made"
        entered = {entry.key_id for entry in after.entries} - {entry.key_id for entry in before.entries}
        ended = {entry.key_id for entry in before.entries if entry.counts_now} - {
            entry.key_id for entry in after.entries if entry.counts_now}
        told = {"entered": ({said.key_id}, set()), "revoked": (set(), {said.key_id}),
                "rotated": ({said.key_id}, {said.replaces})}[said.change]
        entry = next(entry for entry in after.entries if entry.key_id == min(entered | ended))
        named = next((entry for entry in after.entries if entry.key_id == said.key_id), entry)
        if (entered, ended) != told or (named.person, named.roles) != (said.person, said.roles):
            return "it tells another change than was made"
        return ""

    def end(self, stored: bytes) -> tuple[bool, str]:
        """Whether these bytes of the keyring's file are what the last statement made, and what is to be said of it."""
        if self._last is not None and self._last != sha256_bytes(stored):
            return False, "not the keyring that its last change made"
        for entry in self._keyring.entries:
            for position in (entry.valid_from, entry.valid_until or 0):
                if position not in self._changed_at:
                    return False, f"no statement in the ledger makes {entry.person}'s key what it is"
        first = [entry for entry in self._keyring.entries if entry.valid_from == 0 and "operator" not in entry.roles]
        return True, f"{len(first)} of its keys: {NOT_RECORDED}" if first else ""


def as_entered(workspace: Workspace) -> Keyring:
    """The workspace's keyring, if it is what the ledger's statements made of it.

    Only entries about keys are read, however many others there are.

    Raises:
        DoesNotVerify: it is another.
    """
    keyring, changes = _keyring_and_its_changes(workspace)
    history, problems = History(keyring), []
    for entry in changes:
        try:
            statement, signer = open_statement(entry.envelope, keyring.at(entry.position), KeyringPredicate)
            problems.append(history.take(entry.position, statement, signer))
        except DoesNotVerify as error:
            problems.append(error.problem)
    good, problem = history.end(keyring.to_bytes())
    if wrong := next(filter(None, ["" if good else problem, *problems]), ""):
        raise DoesNotVerify(f"{workspace.keyring.name}: {wrong}",
                            "put back the last one that was signed; 'expunge audit verify' says more")
    return keyring


def _keyring_and_its_changes(workspace: Workspace) -> tuple[Keyring, tuple[Entry, ...]]:
    """Both of one moment: others may be changing the keyring."""
    ledger = Ledger.open(workspace)
    while True:
        changes = ledger.keyring_changes()
        keyring = Keyring.load(workspace)
        if ledger.keyring_changes() == changes:
            return keyring, changes


# ------------------------------------------------------------------------------------------ how it is done


def _carry_out(workspace: Workspace, signer: SigningKey, make: Callable[[Keyring, int], _Made],
               head_signer: SigningKey | None = None) -> KeyringEntry:
    ledger = Ledger.open(workspace)
    for _ in range(_TRIES):
        position = ledger.size
        made = make(as_entered(workspace), position)  # nothing is signed on top of one that nobody made
        after = made.after.to_bytes()
        envelope = sign_statement(Statement.over({workspace.keyring.name: sha256_bytes(after)}, made.said), signer)
        write_atomically(change_file(workspace), _Change(
            position=position, envelope=envelope.decode(), keyring=after.decode()).to_bytes())
        if ledger.append(envelope, head_signer=head_signer) == position:
            _write(workspace, after)
            return made.entry
        change_file(workspace).unlink()  # others were quicker: what was entered is of no effect
    raise WorkspaceBusy("ledger: others write it all the time", "try again")


def finish(workspace: Workspace) -> Keyring | None:
    """The keyring of a change that is in the ledger and not yet in its file; None if there is no such change.

    Writes the file, unless whoever makes the change is still at it, or nothing can be written here.
    """
    with suppress(FileNotFoundError, DoesNotVerify):
        change = parse_record(_Change, parse_document(change_file(workspace).read_bytes(), "keyring"), "keyring change")
        entered = Ledger.existing(workspace).entry(change.position)
        if entered.envelope != change.envelope.encode():
            return None
        with suppress(OSError, WorkspaceBusy), _locked(workspace, wait=False):
            _write(workspace, change.keyring.encode())
        return change.after
    return None


def _write(workspace: Workspace, keyring: bytes) -> None:
    write_atomically(workspace.keyring, keyring)
    change_file(workspace).unlink(missing_ok=True)


def _entitled(workspace: Workspace, keyring: Keyring, by: str | None) -> SigningKey:
    """The key of somebody who may change the keyring now."""
    admins = keyring.holders("admin")
    named = " or ".join(entry.person for entry in admins)
    if by is None and admins:
        raise BadInput("keys: the keyring has an admin, so only an admin may change it", f"say --as {named}")
    key = SigningKey.load(workspace, by or OPERATOR)
    entry = keyring.by_id(key.key_id)
    if why_not := _why_not_entitled(keyring, entry):
        raise Refused(f"keys: {why_not}", f"say --as {named}" if admins else "leave --as out")
    return key


def _why_not_entitled(keyring: Keyring, signer: KeyringEntry) -> str:
    """Why somebody may not change this keyring; empty if they may."""
    needed: Role = "admin" if keyring.holders("admin") else "operator"
    if needed in signer.roles:
        return ""
    alone = ", and as long as nobody is admin only the operator's key may" if needed == "operator" else ", not admin"
    return f"{signer.person} is {' and '.join(signer.roles)}{alone}"


def _lies_here(workspace: Workspace, person: str) -> bool:
    try:
        SigningKey.load(workspace, person)
    except BadInput:
        return False
    return True


def _named(keyring: Keyring, whose: str) -> KeyringEntry:
    """The one key that counts now and is meant by a person's name, or by the beginning of its id."""
    found = [entry for entry in keyring.entries if entry.counts_now and (
        entry.person == whose or (len(whose) >= 8 and entry.key_id.startswith(whose)))]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(entry.key_id[:12] for entry in found)
        raise BadInput(f"keys: {whose} has several keys ({ids})", "name one by its id")
    raise BadInput(f"keys: {whose} has no key that counts", "see 'expunge keys list'")


@dataclass(frozen=True)
class _Public:
    """A key of which the private part is elsewhere."""

    key_id: str
    public_key: str


def _public(given: str, keyring: Keyring) -> _Public:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw = bytes.fromhex(given)
        Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        raise BadInput("keys: the public key is no Ed25519 key", "give its 32 bytes as 64 hex digits") from None
    key_id = sha256_bytes(raw)
    if known := [entry for entry in keyring.entries if entry.key_id == key_id]:
        raise BadInput(f"keys: this key has been {known[0].person}'s", "make another: a key is one person's, once")
    return _Public(key_id, raw.hex())


def _entry(key: SigningKey | _Public, person: str, roles: tuple[Role, ...], position: int) -> KeyringEntry:
    return KeyringEntry(key_id=key.key_id, public_key=key.public_key, person=person, roles=roles, created_at=_now(),
                        valid_from=position + 1)


def _end(entry: KeyringEntry, how: str, reason: str, position: int) -> KeyringEntry:
    return entry.model_copy(update={"valid_until": position + 1, "ended": how, "ended_because": reason})


def _with(keyring: Keyring, changed: KeyringEntry) -> Keyring:
    return Keyring(entries=tuple(changed if entry.key_id == changed.key_id else entry for entry in keyring.entries))


def _enter_what_it_signed(workspace: Workspace, signer: KeyringEntry) -> None:
    ledger, alone = Ledger.open(workspace), Keyring(entries=(signer,))
    for pattern in ("results/*/statement.json", "approvals/*/*.json", "policies/*.signature.json",
                    "runs/*/policy.signature.json"):
        for file in sorted(workspace.root.glob(pattern)):
            envelope = file.read_bytes()
            with suppress(DoesNotVerify):
                open_envelope(envelope, payload_type_of(envelope), alone)
                ledger.append(envelope)


@contextmanager
def _locked(workspace: Workspace, wait: bool = True) -> Iterator[None]:
    """One change at a time. Without `wait`, WorkspaceBusy says that somebody is at it."""
    workspace.keyring.parent.mkdir(parents=True, exist_ok=True)
    with workspace.keyring.with_suffix(".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise WorkspaceBusy("keyring: it is being changed", "try again") from None
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
