"""The whole ledger, looked at from its first entry to its last, in memory that does not grow with it.

Each entry is taken into a tree, and what the database keeps beside it (its leaf, its digest, the subtrees that it
completes, the checkpoint signed over it) has to be what the tree gives. Signatures, which take most of the time, are
looked at in processes of their own.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice

from expunge.digests import sha256_bytes
from expunge.errors import DoesNotVerify
from expunge.evidence.checkpoints import Checkpoint, open_checkpoint
from expunge.evidence.envelopes import open_envelope, payload_type_of
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Ledger
from expunge.evidence.tree import Growing, leaf_hash

_BATCH = 500  # entries that go to a process at once


@dataclass(frozen=True)
class Step:
    """An entry on the way through the ledger."""

    position: int
    envelope: bytes
    note: bytes  # the checkpoint signed over it and all before it; empty if that is missing
    root: bytes  # over the same
    problem: str  # what beside the entry is not what it gives; empty if all is


def walk(ledger: Ledger) -> Iterator[Step]:
    """Every entry in order, beside what the tree over the entries so far gives. Signatures are not looked at.

    Nothing that was appended after the walk began is looked at.

    Raises:
        DoesNotVerify: there is no first checkpoint, or nothing follows where the newest one says that there is more.
    """
    size = ledger.size
    tree, nodes = Growing(), dict[int, Iterator[tuple[int, bytes]]]()
    notes, digests = ledger.checkpoints(), ledger.digests()
    origin = open_checkpoint(next(notes, (0, b""))[1], ledger.keyring)[0].origin
    for entry, leaf in islice(ledger.leaves(), size):
        computed, problem = leaf_hash(entry.envelope), ""
        if entry.position != tree.size:
            problem = f"entry {tree.size} is missing"
        elif leaf != computed:
            problem = "its leaf is not what the entry gives"
        elif next(digests, None) != (entry.position, bytes.fromhex(sha256_bytes(entry.envelope))):
            problem = "its digest is not noted for it"
        for level, position, found in tree.add(computed):
            if level not in nodes:
                nodes[level] = ledger.level(level)
            if next(nodes[level], None) != (position, found):
                problem = problem or f"the subtree at level {level}, position {position} is not what the entries give"
        noted, note = next(notes, (0, b""))
        body = Checkpoint(origin=origin, size=tree.size, root=tree.root.hex()).body().encode()
        if noted != tree.size or not note.startswith(body):
            problem = problem or f"checkpoint {tree.size} is not over the entries so far"
        yield Step(entry.position, entry.envelope, note, tree.root, problem)
    if tree.size < size:
        raise DoesNotVerify(f"ledger: the newest checkpoint is over {size} entries, and there are {tree.size}")


def wrong_signatures(steps: Iterable[Step], keyring: Keyring, processes: int | None = None
                     ) -> Iterator[tuple[int, str]]:
    """The positions at which an envelope or a checkpoint does not verify, and why; in as many processes as cores."""
    processes = processes or os.cpu_count() or 1
    waiting: deque[Future[list[tuple[int, str]]]] = deque()
    with ProcessPoolExecutor(processes) as pool:
        source = iter(steps)
        while batch := list(islice(source, _BATCH)):
            waiting.append(pool.submit(_wrong_of, batch, keyring))
            if len(waiting) > 2 * processes:  # so that what has been read does not pile up
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _wrong_of(steps: list[Step], keyring: Keyring) -> list[tuple[int, str]]:
    found = []
    for step in steps:
        try:
            open_envelope(step.envelope, payload_type_of(step.envelope), keyring.at(step.position))
            open_checkpoint(step.note, keyring)
        except DoesNotVerify as error:
            found.append((step.position, error.problem))
    return found
