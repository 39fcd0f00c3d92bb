"""The ledger's head under signature: a checkpoint in the C2SP note form.

Formats: https://c2sp.org/tlog-checkpoint and https://c2sp.org/signed-note (Ed25519, signature type 0x01). The
log's origin is also the signing key's name. As with envelopes, only the one encoding that `sign_checkpoint`
writes is accepted, so that every byte is covered.
"""

import base64
import binascii
import hashlib
import re

from expunge.contracts import Frozen
from expunge.errors import DoesNotVerify
from expunge.evidence.keys import Keyring, KeyringEntry, SigningKey

_FORM = re.compile(
    r"(?P<origin>[^\s+]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n"
    r"\n— (?P<name>[^\s+]+) (?P<signature>[A-Za-z0-9+/=]+)\n")


class Checkpoint(Frozen):
    """How many entries a log has, and the root over them."""

    origin: str
    size: int
    root: str  # hex

    def body(self) -> str:
        """The note's text: what is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(bytes.fromhex(self.root)).decode()}\n"


def key_hash(name: str, public_key: bytes) -> bytes:
    """The four bytes by which a note names an Ed25519 key."""
    return hashlib.sha256(name.encode() + b"\n\x01" + public_key).digest()[:4]


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> bytes:
    """The checkpoint as a signed note."""
    named = key_hash(checkpoint.origin, bytes.fromhex(key.public_key))
    return _encode(checkpoint, named + key.sign(checkpoint.body().encode()))


def _encode(checkpoint: Checkpoint, signature: bytes) -> bytes:
    return f"{checkpoint.body()}\n— {checkpoint.origin} {base64.b64encode(signature).decode()}\n".encode()


def read_checkpoint(note: bytes) -> tuple[Checkpoint, bytes]:
    """The checkpoint in a note and what signs it, before anything is verified: the key's hash and its signature.

    Raises:
        DoesNotVerify: not a checkpoint in the form we write.
    """
    try:
        form = _FORM.fullmatch(note.decode())
        if form is None:
            raise ValueError
        root = base64.b64decode(form["root"], validate=True)
        signed = base64.b64decode(form["signature"], validate=True)
    except (ValueError, binascii.Error):
        raise DoesNotVerify("not a signed checkpoint") from None
    checkpoint = Checkpoint(origin=form["origin"], size=int(form["size"]), root=root.hex())
    if _encode(checkpoint, signed) != note:
        raise DoesNotVerify("the checkpoint is not in its one valid encoding")
    return checkpoint, signed


def open_checkpoint(note: bytes, keyring: Keyring) -> tuple[Checkpoint, KeyringEntry]:
    """The checkpoint in a signed note, and whose key signed it.

    Raises:
        DoesNotVerify: not a checkpoint in the form we write, or signed by no operator of this keyring.
    """
    checkpoint, signed = read_checkpoint(note)
    operators = [entry for entry in keyring.entries if "operator" in entry.roles]
    for entry in operators:
        if key_hash(checkpoint.origin, bytes.fromhex(entry.public_key)) == signed[:4]:
            if entry.verifies(signed[4:], checkpoint.body().encode()):
                # It is signed with its last entry, by the key that counts there; or, where that entry makes another
                # the operator's because the key is lost, by the one that counts from there on.
                why_not = [entry.why_not_at(position) for position in (checkpoint.size, checkpoint.size - 1)]
                if all(why_not):
                    raise DoesNotVerify(f"the checkpoint does not count: {why_not[0]}")
                return checkpoint, entry
            raise DoesNotVerify(f"the checkpoint's signature is not {entry.person}'s over these bytes")
    raise DoesNotVerify("the checkpoint is signed by no operator of this keyring")
