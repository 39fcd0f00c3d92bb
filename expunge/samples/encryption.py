"""One key per request: everything of the request that could show the forgotten is encrypted under it.

Files are sealed in pieces of 1 MiB with AES-256-GCM in the STREAM construction (Hoang, Reyhanitabar,
Rogaway, Vizár 2015, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance"): each nonce
holds a random prefix, the piece's number and a flag on the last one, so that pieces cannot be reordered,
dropped or cut off. Destroying the key destroys the content.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from expunge.digests import write_atomically
from expunge.errors import BadInput, DoesNotVerify
from expunge.settings import Workspace

MAGIC = b"EXPUNGE\x01"  # how everything begins that is sealed here
_PIECE = 1 << 20
_TAG = 16


@dataclass(frozen=True)
class RequestKey:
    """The secret of one request, from which its encryption and digest keys are derived."""

    request_id: str
    secret: bytes = field(repr=False)

    @classmethod
    def file(cls, workspace: Workspace, request_id: str) -> Path:
        """Where the key of a request is kept."""
        return workspace.keys / "requests" / f"{request_id}.key"

    @classmethod
    def load(cls, workspace: Workspace, request_id: str) -> "RequestKey":
        """Reads a request's key; BadInput if it is not there (never made, or destroyed)."""
        file = cls.file(workspace, request_id)
        try:
            secret = file.read_bytes()
        except OSError:
            raise BadInput(f"the key of request '{request_id}' is not at {file}",
                           "restore it, or file the request anew if it was destroyed") from None
        if len(secret) != 32:
            raise BadInput(f"{file}: a request key has 32 bytes, this has {len(secret)}", "restore it from a copy")
        return cls(request_id, secret)

    @classmethod
    def load_or_create(cls, workspace: Workspace, request_id: str) -> "RequestKey":
        """Reads a request's key, or makes one that only its owner can read."""
        file = cls.file(workspace, request_id)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Never replaces a key that another process just made.
            write_atomically(file, os.urandom(32), mode=0o600, replace=False)
        return cls.load(workspace, request_id)

    def _derive(self, purpose: bytes) -> bytes:
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"expunge " + purpose).derive(self.secret)

    def seal(self, data: bytes) -> bytes:
        """Encrypts bytes; two calls give different ciphertexts."""
        cipher, prefix = AESGCM(self._derive(b"encryption")), os.urandom(7)
        pieces = [data[at : at + _PIECE] for at in range(0, len(data), _PIECE)] or [b""]
        sealed = (
            cipher.encrypt(_nonce(prefix, number, number == len(pieces) - 1), piece, MAGIC)
            for number, piece in enumerate(pieces)
        )
        return MAGIC + prefix + b"".join(sealed)

    def open(self, sealed: bytes, name: str) -> bytes:
        """Decrypts what `seal` made; DoesNotVerify names `name` if a byte changed or the key is another's."""
        header = len(MAGIC) + 7
        prefix, body = sealed[len(MAGIC) : header], sealed[header:]
        cipher = AESGCM(self._derive(b"encryption"))
        pieces = [body[at : at + _PIECE + _TAG] for at in range(0, len(body), _PIECE + _TAG)]
        try:
            if not sealed.startswith(MAGIC) or not pieces:
                raise InvalidTag
            return b"".join(
                cipher.decrypt(_nonce(prefix, number, number == len(pieces) - 1), piece, MAGIC)
                for number, piece in enumerate(pieces)
            )
        except InvalidTag:
            raise DoesNotVerify(f"{name} does not decrypt under the key of request '{self.request_id}'",
                                "restore the file, or the key it was made with") from None

    def opens(self, sealed: BinaryIO) -> bool:
        """Whether this key made what a stream holds, judged by its first piece."""
        start = sealed.read(len(MAGIC) + 7)
        piece, more = sealed.read(_PIECE + _TAG), sealed.read(1)
        if not start.startswith(MAGIC) or len(start) < len(MAGIC) + 7 or not piece:
            return False
        try:
            AESGCM(self._derive(b"encryption")).decrypt(_nonce(start[len(MAGIC) :], 0, not more), piece, MAGIC)
        except InvalidTag:
            return False
        return True

    def digest(self, *parts: bytes) -> str:
        """Keyed digest (HMAC-SHA-256): says nothing of the content to anybody without the key."""
        mac = hmac.new(self._derive(b"digest"), digestmod=hashlib.sha256)
        for part in parts:
            mac.update(len(part).to_bytes(8, "big") + part)
        return mac.hexdigest()


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])
