"""Does the ledger still hold together? From its first entry to its last, on all cores, in memory that does not grow.

The ledger is looked at in stretches (``walking``), several at a time where there are many. Each begins with the edge
of the tree as it is stored; what the stretches before it come to has to be that edge, or it is looked at again.

What is kept beside the entries has to be what they give: leaves, digests, subtrees, and the checkpoint signed over each
number of entries. So have checkpoints that were saved elsewhere.
"""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from expunge.errors import ExpungeError
from expunge.evidence import stretches
from expunge.evidence.checkpoints import Checkpoint, open_checkpoint
from expunge.evidence.database import Database
from expunge.evidence.findings import Finding
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Ledger
from expunge.evidence.said import Said
from expunge.evidence.stretches import Extent
from expunge.evidence.tree import EMPTY_ROOT, Growing, root_of_edge
from expunge.evidence.walking import NAMED, OTHER_ROOT, Looked, look, wrong_note
from expunge.settings import Workspace

if TYPE_CHECKING:
    from concurrent.futures import Future

Take = Callable[[Said], Iterator[Finding]]
Place = tuple[int, int]  # of a subtree: level and position


def verify_ledger(workspace: Workspace, keyring: Keyring, outside: tuple[bytes, ...] = (),
                  take: Take = lambda said: iter(()), *, signatures: bool = True, processes: int | None = None
                  ) -> Iterator[Finding]:
    """Checks a ledger against itself and against checkpoints from outside, by default on as many cores as there are.

    `take` is given what the statements of each stretch say, in order. Without `signatures` that is nothing, and of all
    signatures only the newest checkpoint's is verified, which is over every byte of every entry. What is appended
    meanwhile waits for the next time.

    Raises:
        ExpungeError: there is no ledger, or its database cannot be read.
    """
    ledger, database = Ledger.existing(workspace), Database(workspace)
    there = stretches.measure(database, NAMED)
    aside = [_opened(note, keyring) for note in outside]
    first, problem = wrong_note(stretches.read_note(database, 0), 0, (), keyring)
    yield Finding(object="ledger checkpoint 0", ok=not problem, message=problem)
    walk = _Walk(workspace, keyring, there.entries, {checkpoint.size for checkpoint, _ in aside if checkpoint},
                 signatures, processes or os.cpu_count() or 1)
    origins, differing = {first} - {""}, None
    for looked, higher in walk.on():
        yield from looked.wrong
        if looked.right:
            yield Finding(object="ledger", ok=True, count=looked.right)
        origins |= looked.origins
        differing = differing or looked.subtree or higher
        yield from take(looked.said)
    yield Finding(object="ledger.sqlite", ok=not walk.damage, message=walk.damage)
    if differing := differing or there.subtree:
        yield Finding(object=f"ledger tree, level {differing[0]}, position {differing[1]}", ok=False,
                      message="not what the entries give")
    if not signatures and (problem := _opened(ledger.checkpoint, keyring)[1]):
        yield Finding(object=f"ledger checkpoint {there.newest}", ok=False, message=problem)
    yield from _astray(there)
    if len(origins) > 1:
        yield Finding(object="ledger", ok=False, message="its checkpoints are of more than one log")
    if not outside:
        yield Finding(object="ledger", ok=True, message="append-only: not shown")
    for number, (checkpoint, problem) in enumerate(aside):
        yield _held_against(f"outside checkpoint {number}", checkpoint, problem, walk.roots, there.entries)


def _astray(there: Extent) -> Iterator[Finding]:
    """What is stored and belongs to no entry, and what is lacking at the end."""
    said = {"entries": ("entry", "it has no place"), "digests": ("entry", "a digest is noted for it"),
            "keyring_changes": ("entry", "it is noted to change the keyring"),
            "checkpoints": ("checkpoint", "it is over that many")}
    for table, key in there.astray:
        name, amiss = said[table]
        yield Finding(object=f"ledger {name} {key}", ok=False, message=f"{amiss}: there are {there.entries} entries")
    if there.newest != there.entries:
        yield Finding(object="ledger", ok=False,
                      message=f"{there.entries} entries, and the newest checkpoint is over {there.newest}")


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
        return Finding(object=name, ok=False, message=OTHER_ROOT)
    return Finding(object=name, ok=True, message=f"append-only: shown since entry {checkpoint.size}")


class _Walk:
    """The stretches one after the other, each beside the tree over all before it."""

    def __init__(self, workspace: Workspace, keyring: Keyring, entries: int, asked: set[int], signatures: bool,
                 processes: int) -> None:
        self._workspace, self._database, self._entries = workspace, Database(workspace), entries
        self._processes, self._asked = processes, asked
        self._look = partial(look, workspace, keyring, asked=asked, signatures=signatures)
        self._above = Growing()  # the stretches are its leaves
        self.roots = {0: EMPTY_ROOT}  # over so many entries, where somebody asks
        self.damage = ""  # known when the walk is over

    def on(self) -> Iterator[tuple[Looked, Place | None]]:
        """What each came to; and the first subtree over several of them that is not what the entries give."""
        for start, end, looked in self._here() if self._alone else self._in_processes():
            self.roots |= {size: root_of_edge((*self._above.edge, *edge)) for size, edge in looked.edges.items()
                           if size in self._asked}
            higher = self._higher(looked.edges[end][0]) if end - start == stretches.STRETCH else ()
            yield looked, next((place for place, found in higher
                                if stretches.read_subtree(self._database, *place) != found), None)

    def _higher(self, subtree: bytes) -> list[tuple[Place, bytes]]:
        """The subtrees that a whole stretch completes."""
        height = stretches.STRETCH.bit_length() - 1
        return [((height + level, position), found) for level, position, found in self._above.add(subtree)[1:]]

    @property
    def _alone(self) -> bool:
        """Whether this process does all of it: others are of no help, or would take longer to begin than to finish."""
        return self._processes == 1 or self._entries <= stretches.STRETCH

    def _parts(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self._entries, stretches.STRETCH):
            yield start, min(start + stretches.STRETCH, self._entries)

    def _here(self) -> Iterator[tuple[int, int, Looked]]:
        self.damage = _damage(self._workspace)
        for start, end in self._parts():
            yield start, end, self._look(start, end, edge=self._above.edge)

    def _in_processes(self) -> Iterator[tuple[int, int, Looked]]:
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        parts = self._parts()
        waiting: deque[tuple[int, int, Future[Looked]]] = deque()
        try:
            processes = min(self._processes, self._entries // stretches.STRETCH + 1)
            with ProcessPoolExecutor(  # an interrupt is for this process, which then waits for what has begun
                    processes, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
                damage = pool.submit(_damage, self._workspace)

                def begin(more: int) -> None:
                    for start, end in islice(parts, more):
                        waiting.append((start, end, pool.submit(self._look, start, end)))

                begin(2 * self._processes)
                while waiting:
                    start, end, looking = waiting.popleft()
                    looked = looking.result()
                    begin(1)  # so that what was found does not pile up
                    if looked.began != self._above.edge:
                        looked = pool.submit(self._look, start, end, edge=self._above.edge).result()
                    yield start, end, looked
                self.damage = damage.result()
        except BrokenProcessPool:
            raise ExpungeError("ledger: a process that looked at it was ended from outside",
                               "see whether there is enough memory") from None


def _damage(workspace: Workspace) -> str:
    return Ledger.existing(workspace).damage()
