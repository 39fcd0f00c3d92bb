"""What a check of evidence comes to: one object after the other, and what is wrong with it."""

from collections.abc import Iterable

from expunge.contracts import Frozen


class Finding(Frozen):
    """One object that was checked. `message` says what is wrong, or what an honest reader should know."""

    object: str  # path relative to the workspace, or a place in the ledger
    ok: bool
    message: str = ""
    count: int = 1  # the ledger's entries and checkpoints that are as they should be stand together


Findings = tuple[Finding, ...]


def checked(findings: Iterable[Finding]) -> int:
    """How many objects were looked at."""
    return sum(found.count for found in findings)
