"""Whose rules these are: policies that ship with expunge, and policies that an admin has signed.

A workspace's policy is a file, `policies/NAME.yaml`. It counts if its bytes are those of a shipped preset, which
are part of the code (of a run's own copy: of one that ever shipped), or if `NAME.signature.json` beside it is an
admin's signature over its digest: a DSSE envelope (see `envelopes`), which is entered in the ledger, so that it goes on
counting when the admin's key ends. A requester cannot bring rules of their own, so their signature does not count for
a run of theirs.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from expunge.contracts import Digest, Identifier, Person, Policy, Record, parse_record
from expunge.digests import sha256_bytes, write_atomically
from expunge.documents import parse_document
from expunge.errors import BadInput, DoesNotVerify, Refused
from expunge.evidence.decisions import same_person
from expunge.evidence.envelopes import open_envelope, seal
from expunge.evidence.key_changes import place_of
from expunge.evidence.keys import Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.settings import Workspace

PAYLOAD_TYPE = "application/vnd.expunge.policy+json"
ENDING = ".yaml"
POLICY_FILE = f"policy{ENDING}"  # a run's own copy, in its folder
SIGNATURE_ENDING = ".signature.json"


class PolicySignature(Record):
    """What an admin signs: that a policy of these bytes may decide here."""

    SCHEMA: ClassVar[str] = "expunge/policy-signature/v1"

    name: Identifier
    policy_sha256: Digest  # of the stored file
    person: Person
    signed_at: str  # RFC 3339, UTC


def policy_file(workspace: Workspace, name: str) -> Path:
    """The file of a workspace's policy; BadInput if there is none of that name."""
    file = workspace.policies / f"{name}{ENDING}"
    if not file.is_file():
        known = ", ".join(names(workspace)) or "none: run 'expunge init'"
        raise BadInput(f"policy: '{name}' is not known", f"use one of {known}")
    return file


def names(workspace: Workspace) -> tuple[str, ...]:
    """Every policy of a workspace, by name."""
    return tuple(sorted(file.stem for file in workspace.policies.glob(f"[!.]*{ENDING}")))


def signature_file(policy: Path) -> Path:
    """Where the signature of a policy's file lies, or would."""
    return policy.with_name(policy.stem + SIGNATURE_ENDING)


def signature_beside(policy: Path) -> bytes | None:
    """The signature beside a policy's file, if there is one."""
    file = signature_file(policy)
    return file.read_bytes() if file.is_file() else None


def is_shipped(policy: bytes) -> bool:
    """Whether these are the bytes of a policy that ships with this expunge."""
    from expunge.measure.policy import preset_bytes, preset_names

    return any(policy == preset_bytes(name) for name in preset_names())


def has_shipped(policy: bytes) -> bool:
    """Whether these are the bytes of a policy that ships with this expunge, or once shipped with an earlier one."""
    from expunge.measure.policy import ever_shipped

    return sha256_bytes(policy) in ever_shipped()


def sign(workspace: Workspace, name: str, person: str, now: datetime | None = None) -> Path:
    """Signs a workspace's policy with a person's key. Returns the signature's file.

    Raises:
        BadInput: there is no such policy, it cannot be read or goes by another name, or the person has no key here.
        Refused: the key is no admin's.
    """
    file = policy_file(workspace, name)
    data = file.read_bytes()
    policy = parse_record(Policy, parse_document(data, f"policy {name}"), f"policy {name}")
    if policy.name != name:
        raise BadInput(f"policy {name}: name is '{policy.name}'", f"write 'name: {name}', or call the file "
                       f"{policy.name}{ENDING}")
    key = SigningKey.load(workspace, person)
    entry = Keyring.load(workspace).by_id(key.key_id)
    if not same_person(entry.person, person):
        raise Refused(f"policy: this key is {entry.person}'s by the keyring", f"sign as {entry.person}")
    if "admin" not in entry.roles:
        raise Refused(f"policy: {person} is {' and '.join(entry.roles)}, not admin",
                      "somebody with an admin's key must sign: 'expunge keys new NAME --role admin' makes one")
    signed = PolicySignature(name=name, policy_sha256=sha256_bytes(data), person=entry.person,
                             signed_at=(now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"))
    target, envelope = signature_file(file), seal(signed.to_bytes(), PAYLOAD_TYPE, key)
    Ledger.open(workspace).append(envelope)
    write_atomically(target, envelope)
    return target


def keyring_for(workspace: Workspace, signature: bytes | None) -> Keyring:
    """The workspace's keyring, for a policy's signature where that lies in the ledger."""
    keyring = Keyring.load(workspace)
    return keyring if signature is None else keyring.at(place_of(workspace, signature))


def open_signature(envelope: bytes, keyring: Keyring) -> PolicySignature:
    """What an admin signed.

    Raises:
        DoesNotVerify: the envelope does not, or its signer is no admin.
    """
    payload, entry = open_envelope(envelope, PAYLOAD_TYPE, keyring)
    try:
        signed = PolicySignature.model_validate_json(payload)
    except ValueError:
        raise DoesNotVerify("the envelope holds no signature of a policy") from None
    if signed.person != entry.person:
        raise DoesNotVerify(f"{entry.person} signed in the name of {signed.person}")
    if "admin" not in entry.roles:
        raise DoesNotVerify(f"it is signed by {entry.person}, who is not admin")
    return signed


def signer_of(policy: bytes, envelope: bytes, keyring: Keyring) -> str:
    """The admin who signed these bytes of a policy.

    Raises:
        DoesNotVerify: the envelope does not, its signer is no admin, or it is over other bytes.
    """
    signed = open_signature(envelope, keyring)
    if signed.policy_sha256 != sha256_bytes(policy):
        raise DoesNotVerify("the policy is not the one that was signed")
    return signed.person


def require_standing(name: str, policy: bytes, signature: bytes | None, keyring: Keyring, requester: str, *,
                     begun: bool = False) -> str | None:
    """Who signed a policy's bytes; None if they ship with expunge and need nobody's signature.

    For a run that has `begun`, what shipped then is as good: its evidence outlives the expunge that made it.

    Raises:
        BadInput: they do not ship, and nobody has signed them.
        DoesNotVerify: the signature does not.
        Refused: only the requester vouches for them.
    """
    if is_shipped(policy) or (begun and has_shipped(policy)):
        return None
    remedy = f"an admin other than {requester} must sign it: expunge policies sign {name} --as ADMIN"
    if signature is None and has_shipped(policy):
        raise BadInput(f"policy: '{name}' shipped with an earlier expunge, and not with this one",
                       f"run 'expunge init' for today's; or {remedy}")
    if signature is None:
        raise BadInput(f"policy: '{name}' does not ship with expunge and is not signed", remedy)
    try:
        signer = signer_of(policy, signature, keyring)
    except DoesNotVerify as error:
        raise DoesNotVerify(f"policy: the signature of '{name}' does not verify ({error.problem})", remedy) from None
    if same_person(signer, requester):
        raise Refused(f"policy: '{name}' is signed by {signer}, who made this request", remedy)
    return signer


def require_for_run(workspace: Workspace, run: str, name: str, policy: bytes, requester: str) -> None:
    """The rules that a run is judged by are expunge's or an admin's, whatever led here.

    The run's own copy of policy and signature lies where people can write, so the rooms that decide ask again.

    Raises:
        DoesNotVerify: they are neither, or the signature does not verify.
        Refused: only the requester vouches for them.
    """
    signature = signature_beside(workspace.runs / run / POLICY_FILE)
    try:
        require_standing(name, policy, signature, keyring_for(workspace, signature), requester, begun=True)
    except BadInput as error:
        raise DoesNotVerify(error.problem, "run the request again") from None
