"""What is said under signature: in-toto Statements v1, in DSSE envelopes, signed by the operator's key.

The form is https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md. A statement's subjects are
files by their path relative to the workspace, with the SHA-256 of their stored bytes; its predicate says what
happened to them. Law: ``open_statement(sign_statement(s, key), keyring) == (s, key's entry)``.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import Field, ValidationError

from expunge.contracts import Digest, Frozen, Person, Receipt, describe
from expunge.digests import canonical_json
from expunge.errors import DoesNotVerify
from expunge.evidence.envelopes import open_envelope, payload_type_of, seal
from expunge.evidence.keys import Keyring, KeyringEntry, Role, SigningKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


class Predicate(Frozen):
    """What a statement says about its subjects."""

    TYPE: ClassVar[str]
    SIGNED_BY: ClassVar[tuple[Role, ...]] = ("operator",)  # a role that its signer must have


class RoomPredicate(Predicate):
    """A room made its subjects: from which inputs, with which parameters, code and image."""

    TYPE: ClassVar[str] = "urn:expunge:predicate:room:v1"

    room: str
    run: str
    inputs: dict[str, Digest]
    params: dict[str, Any]
    code_sha256: Digest
    image: str
    version: str
    python: str
    machine: str
    started_at: str
    seconds: float


class RoomUse(Frozen):
    """A room's part in a run: the statement it signed, and whether that is an earlier run's."""

    statement_sha256: Digest  # of the envelope
    reused: bool


class RunPredicate(Predicate):
    """A run came to a state, by way of these rooms. Its subjects are the run's own files."""

    TYPE: ClassVar[str] = "urn:expunge:predicate:run:v1"

    run: str
    request_id: str
    request_sha256: Digest
    rooms: dict[str, RoomUse]
    state: str
    note: str = ""


class DisposalPredicate(Predicate):
    """Its subjects were destroyed on purpose. What is gone from here on is not missing."""

    TYPE: ClassVar[str] = "urn:expunge:predicate:disposal:v1"

    request_id: str
    request_sha256: Digest
    reason: str
    by: str
    at: str


class ReceiptPredicate(Predicate):
    """What was to be forgotten was disposed of, and the key of its request destroyed. It has no subjects."""

    TYPE: ClassVar[str] = "urn:expunge:predicate:disposal-receipt:v1"

    receipt: Receipt


class RollbackPredicate(Predicate):
    """An earlier release is served again. Its subjects are that release's files."""

    TYPE: ClassVar[str] = "urn:expunge:predicate:rollback:v1"

    model: str
    from_sha256: Digest | None
    to_sha256: Digest
    to_generation: int
    by: str
    reason: str
    at: str


class WithdrawalPredicate(Predicate):
    """A model is served no longer."""

    TYPE: ClassVar[str] = "urn:expunge:predicate:withdrawal:v1"

    model: str
    from_sha256: Digest | None
    request_id: str | None  # the request that taints what could have been served instead
    by: str
    reason: str
    at: str


class RuleAsked(Frozen):
    """How one rule of the policy came out over what was measured again."""

    metric: str
    outcome: Literal["PASS", "INCONCLUSIVE", "FAIL", "INVALID"]
    reason: str  # with the numbers


class ReauditPredicate(Predicate):
    """What is served was evaluated once more, by the policy that it was released by. Its subjects are what is served.

    A generator draws other latents each time; other families are asked about the same images.
    """

    TYPE: ClassVar[str] = "urn:expunge:predicate:reaudit:v1"

    model: str
    generation: int
    run: str  # by which it was released
    request_id: str
    request_sha256: Digest
    policy_sha256: Digest
    audit: str  # the number that its latents come from
    # whole: every rule was asked. part: those that need none of the disposed images. none: nothing could be measured.
    extent: Literal["whole", "part", "none"]
    outcome: Literal["PASS", "INCONCLUSIVE", "FAIL", "INVALID"]
    rules: tuple[RuleAsked, ...]
    not_asked: dict[str, str]  # metric -> why
    report_sha256: Digest | None  # of the report's record, where there is one
    problem: str = ""  # why nothing, or not all, could be told
    at: str


class KeyringPredicate(Predicate):
    """The keyring changed. Its one subject is the new keyring's file; see ``key_changes``."""

    TYPE: ClassVar[str] = "urn:expunge:predicate:keyring:v1"
    SIGNED_BY: ClassVar[tuple[Role, ...]] = ("admin", "operator")  # the operator as long as nobody is admin

    change: Literal["entered", "revoked", "rotated"]
    person: Person
    roles: tuple[Role, ...]
    key_id: Digest  # of the key that was entered; of a revocation, of the key that ended
    replaces: Digest | None = None  # of a rotation: the key that ended
    position: int  # where this statement must lie in the ledger: elsewhere it changes nothing
    by: Person
    reason: str
    at: str


class AskedPredicate(Predicate):
    """Somebody asked for something in the console. It has no subjects."""

    TYPE: ClassVar[str] = "urn:expunge:predicate:asked:v1"

    # look: to draw samples, or show images, for them alone. delete: of what was drawn. file: a request.
    # release: of a run that was approved.
    what: Literal["look", "delete", "file", "release"]
    by: Person  # as the console knew them; this statement is signed by the operator
    asked_sha256: Digest  # of the order of a wall, or of the request as it was filed; of a run's, as it ran
    request_id: str | None = None
    run: str | None = None  # that is to be released
    samples: int = 0  # drawn or shown; of a request, those that were marked
    checkpoint: str = ""  # where it comes from, as it may be shown
    at: str


PREDICATES: tuple[type[Predicate], ...] = (
    RoomPredicate, RunPredicate, DisposalPredicate, ReceiptPredicate, RollbackPredicate, WithdrawalPredicate,
    KeyringPredicate, ReauditPredicate, AskedPredicate)

P = TypeVar("P", bound=Predicate)


@dataclass(frozen=True)
class Statement(Generic[P]):
    """Subjects by name and digest, and what is said about them."""

    subjects: dict[str, str]
    predicate: P

    @classmethod
    def over(cls, subjects: Mapping[str, str], predicate: P) -> "Statement[P]":
        """A statement whose subjects are the files named, by path relative to the workspace."""
        return cls(dict(sorted(subjects.items())), predicate)

    def to_bytes(self) -> bytes:
        """The in-toto Statement as RFC 8785 JSON."""
        return canonical_json({
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": digest}}
                        for name, digest in self.subjects.items()],
            "predicateType": self.predicate.TYPE,
            "predicate": self.predicate.model_dump(mode="json", by_alias=True)})


class _Digests(Frozen):
    sha256: Digest


class _Subject(Frozen):
    name: str
    digest: _Digests


class _Document(Frozen):
    type_: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[_Subject, ...]
    predicateType: str
    predicate: dict[str, Any]


def sign_statement(statement: Statement[Any], key: SigningKey) -> bytes:
    """The statement in an envelope signed by `key`."""
    return seal(statement.to_bytes(), PAYLOAD_TYPE, key)


def predicate_type_of(envelope: bytes) -> str:
    """What kind of thing an envelope says of its subjects, before anything is verified; empty if it is no statement."""
    if payload_type_of(envelope) != PAYLOAD_TYPE:
        return ""
    try:
        found = json.loads(base64.b64decode(json.loads(envelope)["payload"]))["predicateType"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""


def open_statement(envelope: bytes, keyring: Keyring, kind: type[P] = Predicate,  # type: ignore[assignment]
                   ) -> tuple[Statement[P], KeyringEntry]:
    """The statement in an envelope, and whose key signed it.

    Raises:
        DoesNotVerify: the envelope does not, its signer may not say this, or it is no statement of that `kind`.
    """
    payload, entry = open_envelope(envelope, PAYLOAD_TYPE, keyring)
    try:
        document = _Document.model_validate(json.loads(payload))
        predicate = next((found for found in PREDICATES if document.predicateType == found.TYPE), None)
        if predicate is None:
            raise DoesNotVerify(f"the statement says {document.predicateType}, unknown here")
        said = predicate.model_validate(document.predicate)
    except ValidationError as error:
        raise DoesNotVerify(describe(error, "statement")[0]) from None
    except (ValueError, RecursionError):
        raise DoesNotVerify("the envelope holds no statement") from None
    if not set(said.SIGNED_BY) & set(entry.roles):
        raise DoesNotVerify(f"the statement is signed by {entry.person}, who is not {' or '.join(said.SIGNED_BY)}")
    if not isinstance(said, kind):
        raise DoesNotVerify(f"the statement says {said.TYPE}, not {kind.TYPE}")
    subjects = {subject.name: subject.digest.sha256 for subject in document.subject}
    if len(subjects) != len(document.subject):
        raise DoesNotVerify("the statement names a subject twice")
    return Statement(subjects, said), entry
