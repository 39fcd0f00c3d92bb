"""Signed bytes: DSSE v1 envelopes with one Ed25519 signature.

The format is https://github.com/secure-systems-lab/dsse (protocol.md, envelope.md). We are stricter in one
point: an envelope is only accepted in the one encoding that `seal` writes, so that no byte of its file can
change unnoticed (DSSE itself leaves key ids, white space and unused base64 bits unsigned).
"""

import base64
import binascii
import json
from typing import Any

from expunge.errors import DoesNotVerify
from expunge.evidence.keys import Keyring, KeyringEntry, SigningKey


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """PAE of the DSSE protocol: what is signed, so that type and payload cannot be swapped."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, payload_type: str, key: SigningKey) -> bytes:
    """The envelope of `payload`, signed by `key`, as RFC 8785 JSON."""
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    return _encode(payload, payload_type, key.key_id, signature)


def _encode(payload: bytes, payload_type: str, key_id: str, signature: bytes) -> bytes:
    """RFC 8785 JSON: of strings under sorted names, that is also what the standard library writes, ten times faster."""
    return json.dumps({
        "payload": base64.b64encode(payload).decode(), "payloadType": payload_type,
        "signatures": [{"keyid": key_id, "sig": base64.b64encode(signature).decode()}]},
        separators=(",", ":"), ensure_ascii=False).encode()


def open_envelope(envelope: bytes, payload_type: str, keyring: Keyring) -> tuple[bytes, KeyringEntry]:
    """The payload, and whose key signed it.

    Raises:
        DoesNotVerify: not an envelope, of another type, by an unknown key, wrongly signed, or not in the one
            encoding that `seal` writes.
    """
    try:
        document: Any = json.loads(envelope)
        found_type, (signed,) = document["payloadType"], document["signatures"]
        payload = base64.b64decode(document["payload"], validate=True)
        signature, key_id = base64.b64decode(signed["sig"], validate=True), signed["keyid"]
        if not isinstance(key_id, str):
            raise TypeError
        encoded = _encode(payload, found_type, key_id, signature)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise DoesNotVerify("not a signed envelope") from None
    if encoded != envelope:
        raise DoesNotVerify("the envelope is not in its one valid encoding")
    if found_type != payload_type:
        raise DoesNotVerify(f"the envelope holds {found_type}, not {payload_type}")
    entry = keyring.by_id(key_id)
    if not entry.verifies(signature, pre_authentication_encoding(payload_type, payload)):
        raise DoesNotVerify(f"the signature is not {entry.person}'s over these bytes")
    return payload, entry


def payload_type_of(envelope: bytes) -> str:
    """What an envelope says it holds, before anything is verified; empty if it is no envelope."""
    try:
        found = json.loads(envelope)["payloadType"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""
