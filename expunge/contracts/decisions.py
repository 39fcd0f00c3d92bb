"""What people decided, and what went into service by it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from expunge.contracts.artifacts import StoredFile
from expunge.contracts.records import Digest, Identifier, Person, Record


class Approval(Record):
    """One person's decision over named bytes. If any named digest changes, it is void."""

    SCHEMA: ClassVar[str] = "expunge/approval/v1"

    run: Identifier
    person: Person
    decision: Literal["approve", "reject"]
    waives: tuple[str, ...] = ()  # of an approval: the rules, by metric, that it lets go although they are INCONCLUSIVE
    request_sha256: Digest
    candidate_sha256: Digest
    report_sha256: Digest
    policy_sha256: Digest
    sample_sets: tuple[Digest, ...]
    reason_sha256: Digest
    decided_at: str  # RFC 3339, UTC
    not_after: str
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Release(Record):
    """A model in service: which bytes, from what, by whose leave."""

    SCHEMA: ClassVar[str] = "expunge/release/v1"

    model: Identifier
    generation: Annotated[int, Field(ge=1)]
    run: Identifier
    request_id: Identifier
    request_sha256: Digest
    parent_sha256: Digest
    candidate_sha256: Digest
    verdict_sha256: Digest
    report_sha256: Digest
    approvals: tuple[Digest, ...]  # digests of the decision envelopes
    waived: tuple[str, ...] = ()  # rules that were INCONCLUSIVE, and that all who approved let go
    weights: StoredFile
    beside: tuple[StoredFile, ...] = ()  # what the library that has this format reads with the weights
    released_at: str
