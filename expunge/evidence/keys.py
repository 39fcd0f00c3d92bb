"""Who may sign: Ed25519 keys of people, and the keyring that says whose they are and what they may do.

Private keys lie outside the workspace's data (``workspace.keys``), one PEM file per person, readable by its
owner only and never overwritten. The keyring holds public parts, so it may travel with the evidence.
Ed25519 is RFC 8032, by ``cryptography``.
"""

import fcntl
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from expunge.contracts import Digest, Frozen, Person, Record, describe, read_record
from expunge.digests import sha256_bytes, write_atomically
from expunge.errors import BadInput, DoesNotVerify
from expunge.settings import Workspace

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

OPERATOR = "operator"
"""The workspace's own signing identity: signs the statements of rooms and the ledger's checkpoints."""

Role = Literal["requester", "reviewer", "operator", "admin"]


class KeyringEntry(Frozen):
    """One public key, whose it is, and what that person may do with it."""

    key_id: Digest  # SHA-256 of the raw public key
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    person: Person
    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    created_at: str  # RFC 3339, UTC

    @model_validator(mode="after")
    def _id_is_of_the_key(self) -> Self:
        if self.key_id != sha256_bytes(bytes.fromhex(self.public_key)):
            raise ValueError("key_id is not the SHA-256 of public_key")
        return self

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

    @model_validator(mode="after")
    def _one_entry_per_key(self) -> Self:
        if len({entry.key_id for entry in self.entries}) != len(self.entries):
            raise ValueError("the same key is listed twice")
        return self

    @classmethod
    def load(cls, workspace: Workspace) -> "Keyring":
        """The workspace's keyring; an empty one if there is none yet. BadInput if it cannot be read."""
        return read_record(cls, workspace.keyring) if workspace.keyring.exists() else cls()

    def by_id(self, key_id: str) -> KeyringEntry:
        """The entry of that key; DoesNotVerify if nobody here owns it."""
        for entry in self.entries:
            if entry.key_id == key_id:
                return entry
        raise DoesNotVerify(f"key {key_id[:12]} is in nobody's name", "was another keyring meant?")

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
        """That person's private key; BadInput if there is none here or its file holds something else."""
        file = private_key_file(workspace, person)
        if not file.exists():
            command = "init" if person == OPERATOR else f"keys new {person} --role reviewer"
            raise BadInput(f"key: {person} has no private key in {file.parent}", f"run 'expunge {command}'")
        return _read_private(file, person)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `message`."""
        return self._private.sign(message)


def private_key_file(workspace: Workspace, person: str) -> Path:
    """Where that person's private key lies. No name can reach outside the folder."""
    name = urllib.parse.quote(person, safe="@+")
    if len(name) > 100:  # 255 bytes is what a file name may have
        name = f"{name[:60]}-{sha256_bytes(person.encode())[:16]}"
    return workspace.keys / "people" / f"{name}.pem"


def create_key(workspace: Workspace, person: str, roles: Iterable[Role]) -> KeyringEntry:
    """Makes a key for a person and enters it in the keyring.

    A private key that lies there without an entry in the keyring (a crash in between, a keyring made anew) is
    entered rather than replaced.

    Raises:
        BadInput: the name or a role cannot be used, or the person already has a key here.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    roles = tuple(dict.fromkeys(roles))
    _check(person, roles)
    file = private_key_file(workspace, person)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in (workspace.keys, file.parent):
        folder.chmod(0o700)
    with _keyring_lock(workspace):
        keyring = Keyring.load(workspace)
        if file.exists():
            key = _read_private(file, person)
            if key.key_id in {entry.key_id for entry in keyring.entries}:
                raise BadInput(f"key: {person} already has {key.key_id[:12]}", "keys are never overwritten")
        else:
            write_atomically(file, Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
                mode=0o600)
            key = _read_private(file, person)
        entry = KeyringEntry(key_id=key.key_id, public_key=key.public_key, person=person, roles=roles,
                             created_at=datetime.now(UTC).isoformat(timespec="seconds"))
        write_atomically(workspace.keyring, Keyring(entries=(*keyring.entries, entry)).to_bytes())
    return entry


def _check(person: str, roles: tuple[str, ...]) -> None:
    unknown = [role for role in roles if role not in get_args(Role)]
    if unknown or not roles:
        raise BadInput(f"key: role {unknown[0]!r} is not known" if unknown else "key: no role was given",
                       f"roles are {', '.join(get_args(Role))}")
    try:
        KeyringEntry(key_id=sha256_bytes(bytes(32)), public_key="00" * 32, person=person,
                     roles=("reviewer",), created_at="")
    except ValidationError as error:
        raise BadInput(describe(error, "key")[0], "use a name without spaces and slashes") from None


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


@contextmanager
def _keyring_lock(workspace: Workspace) -> Iterator[None]:
    workspace.keyring.parent.mkdir(parents=True, exist_ok=True)
    with workspace.keyring.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
