"""Who may sign: Ed25519 keys of people, and the keyring that says whose they are and what they may do.

Private keys lie outside the workspace's data (``workspace.keys``), one PEM file per key, readable by its owner
only and never overwritten. The keyring holds public parts, so it may travel with the evidence.

A key counts from one position of the ledger to another. What it signed is judged at the position where the
envelope was entered; one that has not been entered, at the ledger's present size: see
docs/decisions/keys-by-position.md. How the keyring changes is in ``key_changes``.
Ed25519 is RFC 8032, by ``cryptography``.
"""

import glob
import urllib.parse
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from expunge.contracts import Digest, Frozen, Person, Record, describe, read_record
from expunge.digests import canonical_json, sha256_bytes, write_atomically
from expunge.errors import BadInput, DoesNotVerify, Refused
from expunge.settings import Workspace

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OPERATOR = "operator"
"""The workspace's own signing identity: signs the statements of rooms and the ledger's checkpoints."""

Role = Literal["requester", "reviewer", "operator", "admin"]
Ended = Literal["revoked", "rotated"]


class KeyringEntry(Frozen):
    """One public key, whose it is, what that person may do with it, and from where to where it counts."""

    key_id: Digest  # SHA-256 of the raw public key
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    person: Person
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    created_at: str  # RFC 3339, UTC
    valid_from: Annotated[int, Field(ge=0)] = 0  # the first position of the ledger at which it counts
    valid_until: Annotated[int, Field(ge=0)] | None = None  # the first at which it no longer does
    ended: Ended | None = None
    ended_because: str = ""

    @model_validator(mode="after")
    def _id_is_of_the_key(self) -> Self:
        if self.key_id != sha256_bytes(bytes.fromhex(self.public_key)):
            raise ValueError("key_id is not the SHA-256 of public_key")
        return self

    @model_validator(mode="after")
    def _an_end_is_told_whole(self) -> Self:
        if (self.valid_until is None) != (self.ended is None):
            raise ValueError("valid_until and ended say different things")
        if self.valid_until is not None and self.valid_until < self.valid_from:
            raise ValueError("valid_until lies before valid_from")
        return self

    @property
    def counts_now(self) -> bool:
        """Whether what this key signs next will count."""
        return self.valid_until is None

    def why_not_at(self, position: int) -> str:
        """Why what this key signed does not count at a position of the ledger; empty if it does."""
        name = f"{self.person}'s key {self.key_id[:12]}"
        if position < self.valid_from:
            return f"{name} counts from ledger position {self.valid_from} on"
        if self.valid_until is not None and position >= self.valid_until:
            because = f" ({self.ended_because})" if self.ended_because else ""
            return f"{name} was {self.ended}{because} and does not count from ledger position {self.valid_until} on"
        return ""

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made `signature` over `message`."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key)).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class Keyring(Record):
    """Every key that this workspace knows."""

    SCHEMA: ClassVar[str] = "expunge/keyring/v1"

    entries: tuple[KeyringEntry, ...] = ()
    _position: int | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_entry_per_key(self) -> Self:
        if len({entry.key_id for entry in self.entries}) != len(self.entries):
            raise ValueError("the same key is listed twice")
        return self

    @classmethod
    def load(cls, workspace: Workspace) -> "Keyring":
        """The workspace's keyring; an empty one if there is none yet. BadInput if it cannot be read.

        A change that is in the ledger is in force, even if a kill came before its file was written.
        """
        if change_file(workspace).exists():
            from expunge.evidence import key_changes

            if (changed := key_changes.finish(workspace)) is not None:
                return changed
        return read_record(cls, workspace.keyring) if workspace.keyring.exists() else cls()

    def to_bytes(self) -> bytes:
        """As of every record, without what has its default: so an earlier keyring can be written again as it was."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_defaults=True))

    def at(self, position: int) -> "Keyring":
        """This keyring for what lies at a position of the ledger: keys that do not count there are refused."""
        found = self.model_copy()
        found._position = position
        return found

    def as_of(self, position: int) -> "Keyring":
        """The keyring as it was when the ledger had `position` entries: without what came later."""
        known = (entry for entry in self.entries if entry.valid_from <= position)
        return Keyring(entries=tuple(
            entry if entry.valid_until is None or entry.valid_until <= position
            else entry.model_copy(update={"valid_until": None, "ended": None, "ended_because": ""})
            for entry in known))

    def by_id(self, key_id: str) -> KeyringEntry:
        """The entry of that key; DoesNotVerify if nobody here owns it, or it does not count where it was used."""
        for entry in self.entries:
            if entry.key_id == key_id:
                if self._position is not None and (why_not := entry.why_not_at(self._position)):
                    raise DoesNotVerify(why_not)
                return entry
        raise DoesNotVerify(f"key {key_id[:12]} is in nobody's name", "was another keyring meant?")

    def holders(self, role: Role) -> tuple[KeyringEntry, ...]:
        """The keys by which something can be signed now in a role."""
        return tuple(entry for entry in self.entries if entry.counts_now and role in entry.roles)

    def people(self) -> tuple[str, ...]:
        """Everybody with a key, sorted."""
        return tuple(sorted({entry.person for entry in self.entries}))

    def entries_of(self, person: str) -> tuple[KeyringEntry, ...]:
        """That person's keys, oldest first."""
        return tuple(entry for entry in self.entries if entry.person == person)


@dataclass(frozen=True)
class SigningKey:
    """A private key in the hand of its owner."""

    person: str
    key_id: str
    public_key: str
    _private: "Ed25519PrivateKey"

    @classmethod
    def load(cls, workspace: Workspace, person: str) -> "SigningKey":
        """That person's private key that counts now.

        Raises:
            BadInput: there is none here, or its file holds something else.
            Refused: what lies here is a key that was revoked or rotated.
        """
        entries = Keyring.load(workspace).entries_of(person)
        found = _private_of(workspace, person, entries)
        if found is not None:
            return found
        file = _places(workspace, person)[0]
        if not file.exists():
            command = "init" if person == OPERATOR else f"keys new {person} --role reviewer"
            lost = f"restore it, or an admin replaces it: expunge keys rotate {person} --as ADMIN"
            raise BadInput(f"key: {person} has no private key in {file.parent}",
                           lost if entries else f"run 'expunge {command}'")
        key = _read_private(file, person)
        ended = next((entry for entry in entries if entry.key_id == key.key_id and not entry.counts_now), None)
        if ended is not None:
            raise Refused(f"key: {ended.why_not_at(ended.valid_until or 0)}", "an admin can enter another key")
        return key

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `message`."""
        return self._private.sign(message)


def private_key_file(workspace: Workspace, person: str) -> Path:
    """Where that person's private key lies. No name can reach outside the folder."""
    for entry in reversed(Keyring.load(workspace).entries_of(person)):
        beside = _places(workspace, person, entry.key_id)[0]
        if entry.counts_now and beside.exists():
            return beside
    return _places(workspace, person)[0]


def change_file(workspace: Workspace) -> Path:
    """Where a change of the keyring lies until it is made: signed, perhaps entered, not yet in the keyring's file."""
    return workspace.keyring.with_suffix(".change.json")


def create_key(workspace: Workspace, person: str, roles: Iterable[Role], by: str | None = None,
               reason: str = "", public_key: str | None = None) -> KeyringEntry:
    """Makes a key for a person and enters it, by a statement in the ledger: see ``key_changes.enter``."""
    from expunge.evidence import key_changes

    return key_changes.enter(workspace, person, roles, by=by, reason=reason, public_key=public_key)


def make_private(workspace: Workspace, person: str, keyring: Keyring) -> SigningKey:
    """A new private key of a person, in a file of its own beside earlier ones.

    A private key that lies there and that no keyring entry knows (a crash in between, a keyring made anew) is taken
    rather than left.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    plain, = _places(workspace, person)
    plain.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in (workspace.keys, plain.parent):
        folder.chmod(0o700)
    known = {entry.key_id for entry in keyring.entries}
    for file in (plain, *sorted(plain.parent.glob(f"{glob.escape(plain.stem)}{_BESIDE}*.pem"))):
        with suppress(BadInput):  # there is none, or it is damaged: it stays as it lies
            if (key := _read_private(file, person)).key_id not in known:
                return key
    private = Ed25519PrivateKey.generate()
    key_id = sha256_bytes(private.public_key().public_bytes_raw())
    file = _places(workspace, person, key_id)[0] if plain.exists() else plain
    write_atomically(file, private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                                 serialization.NoEncryption()), mode=0o600, replace=False)
    return _read_private(file, person)


def check_name_and_roles(person: str, roles: tuple[str, ...]) -> None:
    """BadInput if a name cannot be used, or a role is not known."""
    unknown = [role for role in roles if role not in get_args(Role)]
    if unknown or not roles:
        raise BadInput(f"key: role {unknown[0]!r} is not known" if unknown else "key: no role was given",
                       f"roles are {', '.join(get_args(Role))}")
    try:
        KeyringEntry(key_id=sha256_bytes(bytes(32)), public_key="00" * 32, person=person,
                     roles=("reviewer",), created_at="")
    except ValidationError as error:
        raise BadInput(describe(error, "key")[0], "use a name without spaces and slashes") from None


_BESIDE = "="  # between the name and the key id of a later key's file; no quoted name has it


def _places(workspace: Workspace, person: str, key_id: str | None = None) -> tuple[Path, ...]:
    """Where a person's first private key lies; before it, where one of that id would that came later."""
    name = urllib.parse.quote(person, safe="@+")
    if len(name) > 100:  # 255 bytes is what a file name may have
        name = f"{name[:60]}-{sha256_bytes(person.encode())[:16]}"
    plain = workspace.keys / "people" / f"{name}.pem"
    return (plain,) if key_id is None else (plain.with_name(f"{name}{_BESIDE}{key_id[:16]}.pem"), plain)


def _private_of(workspace: Workspace, person: str, entries: Iterable[KeyringEntry]) -> SigningKey | None:
    """The private part of the newest of a person's keys that count, if it lies here."""
    for entry in reversed([entry for entry in entries if entry.counts_now]):
        for file in _places(workspace, person, entry.key_id):
            if file.exists() and (key := _read_private(file, person)).key_id == entry.key_id:
                return key
    return None


def _read_private(file: Path, person: str) -> SigningKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        private = serialization.load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise BadInput(f"key: {file} is not a readable Ed25519 private key", "restore it from a backup")
    public = private.public_key().public_bytes_raw()
    return SigningKey(person, sha256_bytes(public), public.hex(), private)
