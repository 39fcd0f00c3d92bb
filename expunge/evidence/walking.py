"""The whole ledger, looked at from its first entry to its last, in memory that does not grow with it.

Each entry is taken into a tree, and what the database keeps beside it (its leaf, its digest, the subtrees that it
completes, the checkpoint signed over it) has to be what the tree gives. To use all cores the ledger is walked in
stretches, each in a process: it begins with the subtrees as they are stored, and what the stretch before comes to has
to be those.
"""

import os
from collections import deque
from collections.abc import Iterator
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
from expunge.settings import Workspace

STRETCH = 5_000  # entries that a process looks at before it says what it found


Edge = tuple[bytes, ...]  # the complete subtrees that make up a tree
Wrong = tuple[int, str]  # a position, and what is wrong there


@dataclass(frozen=True)
class Step:
    """An entry on the way through the ledger."""

    position: int
    envelope: bytes
    note: bytes  # the checkpoint signed over it and all before it; empty if that is missing
    edge: Edge  # of the tree over the same
    problem: str  # what beside the entry is not what it gives; empty if all is


def walk(ledger: Ledger, start: int = 0, end: int | None = None) -> Iterator[Step]:
    """Every entry of a stretch, by default of all, beside what the tree over the entries so far gives.

    Signatures are not looked at, nor what is appended after the walk began.

    Raises:
        DoesNotVerify: there is no first checkpoint, a subtree to begin with is missing, or there are fewer entries.
    """
    end = ledger.size if end is None else end
    tree, nodes = Growing(start, ledger.edge(start)), dict[int, Iterator[tuple[int, bytes]]]()
    origin = open_checkpoint(next(ledger.checkpoints(), (0, b""))[1], ledger.keyring)[0].origin
    notes, digests = ledger.checkpoints(start + 1), ledger.digests(start)
    for entry, leaf in islice(ledger.leaves(start), end - start):
        computed, problem = leaf_hash(entry.envelope), ""
        if entry.position != tree.size:
            problem = f"entry {tree.size} is missing"
        elif leaf != computed:
            problem = "its leaf is not what the entry gives"
        elif next(digests, None) != (entry.position, bytes.fromhex(sha256_bytes(entry.envelope))):
            problem = "its digest is not noted for it"
        for level, position, found in tree.add(computed):
            if level not in nodes:
                nodes[level] = ledger.level(level, position)
            if next(nodes[level], None) != (position, found):
                problem = problem or f"the subtree at level {level}, position {position} is not what the entries give"
        noted, note = next(notes, (0, b""))
        body = Checkpoint(origin=origin, size=tree.size, root=tree.root.hex()).body().encode()
        if noted != tree.size or not note.startswith(body):
            problem = problem or f"checkpoint {tree.size} is not over the entries so far"
        yield Step(entry.position, entry.envelope, note, tree.edge, problem)
    if tree.size < end:
        raise DoesNotVerify(f"ledger: there are fewer entries than the {end} that there should be")


def wrong(workspace: Workspace, end: int | None = None, *, signatures: bool = True, processes: int | None = None
          ) -> Iterator[Wrong]:
    """What is wrong in the ledger, or before its position `end`: by as many processes as there are cores.

    Without `signatures` only that of the newest checkpoint is verified, which is over every byte of every entry;
    with them also each envelope's and each checkpoint's own.
    """
    size = Ledger.existing(workspace).size if end is None else end
    before: Edge = ()
    processes = processes or os.cpu_count() or 1
    stretches = ((start, min(start + STRETCH, size)) for start in range(0, size, STRETCH))
    waiting: deque[tuple[int, Future[_Looked]]] = deque()
    with ProcessPoolExecutor(processes) as pool:
        for start, end in islice(stretches, 2 * processes):
            waiting.append((start, pool.submit(_look, workspace, start, end, signatures)))
        while waiting:
            start, looking = waiting.popleft()
            looked = looking.result()
            for following in islice(stretches, 1):  # so that what was found does not pile up
                waiting.append((following[0], pool.submit(_look, workspace, *following, signatures)))
            if looked.began != before:
                yield start, "the subtrees stored over all before it are not what the entries give"
            yield from looked.wrong
            before = looked.ended


@dataclass(frozen=True)
class _Looked:
    """What a process found in a stretch, and the edge of the tree before and after it."""

    wrong: list[Wrong]
    began: Edge
    ended: Edge


def _look(workspace: Workspace, start: int, end: int, signatures: bool) -> _Looked:
    ledger = Ledger.existing(workspace)
    found: list[Wrong] = []
    began: Edge = ()
    ended, keyring, place = began, ledger.keyring, start
    try:
        began = ended = ledger.edge(start)
        for step in walk(ledger, start, end):
            problem = step.problem or (_wrong_signature(step, keyring) if signatures else "")
            if problem:
                found.append((step.position, problem))
            ended, place = step.edge, step.position + 1
    except DoesNotVerify as error:
        found.append((place, error.problem))
    return _Looked(found, began, ended)


def _wrong_signature(step: Step, keyring: Keyring) -> str:
    try:
        open_envelope(step.envelope, payload_type_of(step.envelope), keyring.at(step.position))
        open_checkpoint(step.note, keyring)
    except DoesNotVerify as error:
        return error.problem
    return ""
