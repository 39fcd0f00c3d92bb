"""Does the ledger still hold together? From its first entry to its last, in memory that does not grow with it.

Each entry is taken into a tree. The subtrees and the checkpoints that the database keeps have to be what that tree
gives, and so have checkpoints that were saved elsewhere.
"""

from collections.abc import Callable, Iterator

from expunge.errors import ExpungeError
from expunge.evidence.checkpoints import Checkpoint, open_checkpoint
from expunge.evidence.findings import Finding
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Entry, Ledger
from expunge.evidence.tree import Growing, leaf_hash

_OTHER_ROOT = "its root is not that of the entries"


def verify_ledger(ledger: Ledger, keyring: Keyring, outside: tuple[bytes, ...],
                  take: Callable[[Entry, str], str]) -> Iterator[Finding]:
    """Checks a ledger against itself and against checkpoints from outside.

    `take` is given every entry and the name of its place, in order, and says what is wrong with it.
    """
    damage = ledger.damage()
    yield Finding(object="ledger.sqlite", ok=not damage, message=damage)
    tree, subtrees, notes = Growing(), _Subtrees(ledger), _Notes(ledger, keyring)
    aside = [_opened(note, keyring) for note in outside]
    roots = {0: tree.root}  # of the sizes that somebody asks about from outside
    asked = {checkpoint.size for checkpoint, _ in aside if checkpoint}
    yield from notes.at(tree)
    for entry in ledger.entries():
        place = f"ledger entry {entry.position}"
        problem = take(entry, place)
        if entry.position != tree.size:
            problem = f"entry {tree.size} is missing"
        yield Finding(object=place, ok=not problem, message=problem)
        yield from subtrees.compare(tree.add(leaf_hash(entry.envelope)))
        yield from notes.at(tree)
        if tree.size in asked:
            roots[tree.size] = tree.root
    yield from subtrees.end()
    yield from notes.end(tree)
    if not outside:
        yield Finding(object="ledger", ok=True, message="append-only: not shown")
    for number, (checkpoint, problem) in enumerate(aside):
        yield _held_against(f"outside checkpoint {number}", checkpoint, problem, roots, tree.size)


def _opened(note: bytes, keyring: Keyring) -> tuple[Checkpoint | None, str]:
    try:
        return open_checkpoint(note, keyring)[0], ""
    except ExpungeError as error:
        return None, error.problem


def _held_against(name: str, checkpoint: Checkpoint | None, problem: str, roots: dict[int, bytes],
                  entries: int) -> Finding:
    if checkpoint is None:
        return Finding(object=name, ok=False, message=problem)
    if checkpoint.size > entries:
        return Finding(object=name, ok=False, message=f"it is over {checkpoint.size} entries, there are {entries}")
    if roots[checkpoint.size].hex() != checkpoint.root:
        return Finding(object=name, ok=False, message=_OTHER_ROOT)
    return Finding(object=name, ok=True, message=f"append-only: shown since entry {checkpoint.size}")


class _Subtrees:
    """The stored subtrees, which later appends and proofs build on: the first that is not as computed is named."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._stored, self._differ = ledger, dict[int, Iterator[tuple[int, bytes]]](), False

    def compare(self, computed: list[tuple[int, int, bytes]]) -> Iterator[Finding]:
        for level, position, found in computed if not self._differ else ():
            stored = self._stored.setdefault(level, self._ledger.level(level, 0))
            if next(stored, None) != (position, found):
                yield self._finding(level, position)
                return

    def end(self) -> Iterator[Finding]:
        """What is stored and belongs to no entry."""
        above = len(self._stored)
        for level, stored in [*self._stored.items(), (above, self._ledger.level(above, 0))]:
            if not self._differ and (left := next(stored, None)) is not None:
                yield self._finding(level, left[0])

    def _finding(self, level: int, position: int) -> Finding:
        self._differ = True
        return Finding(object=f"ledger tree, level {level}, position {position}", ok=False,
                       message="not what the entries give")


class _Notes:
    """The stored checkpoints, one for each number of entries, beside the tree."""

    def __init__(self, ledger: Ledger, keyring: Keyring) -> None:
        self._notes, self._keyring, self._expected = ledger.checkpoints(), keyring, 0
        self._next = next(self._notes, None)
        self._origins: set[str] = set()

    def at(self, tree: Growing) -> Iterator[Finding]:
        """Those over no more entries than the tree has."""
        while self._next is not None and self._next[0] <= tree.size:
            size, note = self._next
            checkpoint, problem = _opened(note, self._keyring)
            if checkpoint is not None:
                self._origins.add(checkpoint.origin)
                if checkpoint.size != size:
                    problem = f"it is signed over {checkpoint.size} entries"
                elif size == tree.size and checkpoint.root != tree.root.hex():
                    problem = _OTHER_ROOT
            yield self._finding(size, problem)

    def end(self, tree: Growing) -> Iterator[Finding]:
        """Those over more entries than there are, and what is lacking."""
        while self._next is not None:
            size, _ = self._next
            yield self._finding(size, f"it is over {size} entries, there are {tree.size}")
        if self._expected != tree.size + 1:
            yield Finding(object="ledger", ok=False, message=f"{tree.size} entries, and the newest checkpoint is over "
                                                             f"{self._expected - 1}")
        if len(self._origins) > 1:
            yield Finding(object="ledger", ok=False, message="its checkpoints are of more than one log")

    def _finding(self, size: int, problem: str) -> Finding:
        if not problem and size != self._expected:
            problem = f"checkpoint {self._expected} is missing"
        self._expected, self._next = size + 1, next(self._notes, None)
        return Finding(object=f"ledger checkpoint {size}", ok=not problem, message=problem)
