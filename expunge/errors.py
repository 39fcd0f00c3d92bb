"""Every way expunge can end badly, and the exit code of each.

    ExpungeError              1   anything else
    ├── BadInput              2   a file, field or argument that cannot be used
    ├── NotPassed                 the gate did not open
    │   ├── AwaitingApproval  10
    │   ├── NotNeeded         11  the model does not draw what it is to forget
    │   ├── Failed            20
    │   ├── Inconclusive      21
    │   └── Invalid           22
    ├── Rejected              30  a person said no, or the decision ran out
    ├── Cancelled             31
    ├── DoesNotVerify         40  evidence and bytes disagree
    ├── Refused               41  a digest, a taint or a missing approval stands in the way
    ├── WorkspaceBusy         75  somebody else works here now; nothing waits silently
    ├── NonFiniteLoss         1   training diverged
    ├── NotServed             1   a release did not become ready; the one before it still serves
    └── NoSpace               1   the disk is full

Each carries one line for a person: what is wrong, then what to do about it.
"""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path


class ExpungeError(Exception):
    """Base of every error that a user can meet. `problem` says what is wrong, `remedy` what to do."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem}: {remedy}" if remedy else problem)


class BadInput(ExpungeError):
    """A file, field or argument cannot be used. The problem names the field."""

    exit_code = 2


class NotPassed(ExpungeError):
    """The gate did not open."""


class AwaitingApproval(NotPassed):
    """The verdict is PASS and nobody entitled has decided yet."""

    exit_code = 10


class NotNeeded(NotPassed):
    """The parent already draws less of the unwanted than the policy allows: there is nothing to do."""

    exit_code = 11


class Failed(NotPassed):
    """The verdict is FAIL."""

    exit_code = 20


class Inconclusive(NotPassed):
    """An interval straddles its limit: more samples would decide."""

    exit_code = 21


class Invalid(NotPassed):
    """A control failed or a rule has no number: the measurement itself cannot be trusted."""

    exit_code = 22


class Rejected(ExpungeError):
    """A reviewer rejected the candidate, or the decision expired."""

    exit_code = 30


class Cancelled(ExpungeError):
    """Somebody stopped the run."""

    exit_code = 31


class DoesNotVerify(ExpungeError):
    """Evidence and bytes disagree; the problem names the object."""

    exit_code = 40


class Refused(ExpungeError):
    """A digest is not the approved one, a model is tainted, or an approval is missing."""

    exit_code = 41


class WorkspaceBusy(ExpungeError):
    """Another process works in this workspace."""

    exit_code = 75


class NonFiniteLoss(ExpungeError):
    """Training produced a loss that is not a finite number; the problem names the step."""


class NotServed(ExpungeError):
    """A release did not become ready where it was to be served. What served before it still does."""


class NoSpace(ExpungeError):
    """The disk, or somebody's share of it, is full. Nothing is spoiled: what was half written is taken back."""

    @classmethod
    def on(cls, place: Path) -> "NoSpace":
        """The error that names a place on the full disk, and how little is left there."""
        with suppress(OSError):
            left = shutil.disk_usage(place).free / 2**20
            return cls(f"no space left on the disk of {place} ({left:.1f} MiB free)", _MAKE_SPACE)
        return cls(f"no space left on the disk of {place}", _MAKE_SPACE)


_MAKE_SPACE = "make space there, then give the same command again"
_FULL = (errno.ENOSPC, errno.EDQUOT)
# SQLite, Rust, Git and everybody who wraps the system's words in their own.
_FULL_IN_WORDS = ("database or disk is full", *(f"os error {number}" for number in _FULL),
                  *(os.strerror(number).lower() for number in _FULL))


def out_of_space(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error, however many libraries have wrapped it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, NoSpace) or (isinstance(error, OSError) and error.errno in _FULL):
            return True
        if says_out_of_space(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def says_out_of_space(text: str) -> bool:
    """Whether words, of an error or in a log, speak of a full disk."""
    return any(words in text.lower() for words in _FULL_IN_WORDS)


def by_name() -> dict[str, type[ExpungeError]]:
    """Every error class by its name, so that a room's error keeps its code across processes."""

    def walk(error: type[ExpungeError]) -> dict[str, type[ExpungeError]]:
        found = {error.__name__: error}
        for child in error.__subclasses__():
            found |= walk(child)
        return found

    return walk(ExpungeError)
