"""What a check of evidence comes to: one object after the other, and what is wrong with it."""

from expunge.contracts import Frozen


class Finding(Frozen):
    """One object that was checked. `message` says what is wrong, or what an honest reader should know."""

    object: str  # path relative to the workspace, or a place in the ledger
    ok: bool
    message: str = ""


Findings = tuple[Finding, ...]
