"""A stretch of the ledger, looked at entry by entry: what is stored beside the entries has to be what they give.

A stretch is a subtree of its own, so it needs to know nothing of the others but the edge of the tree before it, and any
process can look at it. ``verify_ledger`` puts the stretches together.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from expunge.digests import sha256_bytes
from expunge.errors import DoesNotVerify
from expunge.evidence.checkpoints import open_checkpoint, read_checkpoint
from expunge.evidence.database import Database
from expunge.evidence.findings import Finding
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Entry
from expunge.evidence.said import Said
from expunge.evidence.stretches import MISSING, Edge, Stretch, read
from expunge.evidence.tree import Growing, leaf_hash, root_of_edge
from expunge.settings import Workspace

NAMED = 100  # what is wrong in a stretch is named one by one up to here; more is counted

OTHER_ROOT = "its root is not that of the entries"


@dataclass(frozen=True)
class Looked:
    """What a stretch came to."""

    wrong: list[Finding]
    right: int  # entries and checkpoints with which nothing is wrong
    began: Edge  # of the tree before it, as it was taken to be
    edges: dict[int, Edge]  # of the tree over the stretch's own entries alone: at the end, and where somebody asks
    subtree: tuple[int, int] | None  # the first that is not what the entries give: level and position
    origins: set[str]
    said: Said  # what its statements come to


@dataclass
class _Wrong:
    start: int
    end: int
    named: list[Finding] = field(default_factory=list)
    more: int = 0

    def add(self, name: str, message: str) -> None:
        if len(self.named) < NAMED:
            self.named.append(Finding(object=name, ok=False, message=message))
        else:
            self.more += 1

    def all(self) -> list[Finding]:
        rest = Finding(object=f"ledger entries {self.start} to {self.end - 1}", ok=False, count=max(self.more, 1),
                       message=f"{self.more} more of them, or of the checkpoints over them, do not verify")
        return [*self.named, rest] if self.more else self.named


def look(workspace: Workspace, keyring: Keyring, start: int, end: int, *, edge: Edge | None = None,
         asked: Iterable[int] = (), signatures: bool = True) -> Looked:
    """Looks at the entries from `start`, a multiple of `STRETCH`, to before `end`, and at what is stored of them.

    `edge` is that of the tree over all before it; what is stored as such if it is not known yet. `asked` are sizes at
    which somebody wants to know the edge. Without `signatures` no envelope is opened.

    Raises:
        ExpungeError: the database cannot be read.
    """
    stored = read(Database(workspace), start, end)
    began = stored.edge if edge is None else edge
    wrong, right, said, origins = _Wrong(start, end), 0, Said(), set[str]()
    subtree, edges, wanted = None, dict[int, Edge](), {end, *asked}
    tree = Growing()
    for position in range(start, end):
        envelope = stored.entries.get(position, (MISSING, b""))[1]
        leaf = leaf_hash(envelope) if position in stored.entries else MISSING
        problem = _wrong_entry(stored, position, leaf)
        if signatures and problem != _GONE:
            problem = said.take(Entry(position, envelope), keyring) or problem or _wrong_about_keys(
                stored, position, said)
        if problem:
            wrong.add(f"ledger entry {position}", problem)
        for level, within, found in tree.add(leaf):
            place = level, (start >> level) + within
            if stored.subtrees.get(place) != found:
                subtree = subtree or place
        size = position + 1
        origin, amiss = wrong_note(stored.notes.get(size), size, (*began, *tree.edge), keyring if signatures else None)
        origins.add(origin)
        if amiss:
            wrong.add(f"ledger checkpoint {size}", amiss)
        right += (not problem) + (not amiss)
        if size in wanted:
            edges[size] = tree.edge
    return Looked(wrong.all(), right, began, edges, subtree, origins - {""}, said)


_GONE = "missing"


def _wrong_entry(stored: Stretch, position: int, leaf: bytes) -> str:
    if position not in stored.entries:
        return _GONE
    noted, envelope = stored.entries[position]
    if noted != leaf:
        return "its leaf is not what the entry gives"
    if stored.digests is not None and stored.digests.get(position) != bytes.fromhex(sha256_bytes(envelope)):
        return "its digest is not noted for it"
    return ""


def _wrong_about_keys(stored: Stretch, position: int, said: Said) -> str:
    """Whether what was said last changes the keyring is noted, so that others find it."""
    changes = bool(said.keys) and said.keys[-1].position == position
    if stored.keyring_changes is None or changes == (position in stored.keyring_changes):
        return ""
    if changes:
        return "it changes the keyring, and is not noted to"
    return "it is noted to change the keyring, and does not"


def wrong_note(note: bytes | None, size: int, edge: Edge, keyring: Keyring | None) -> tuple[str, str]:
    """The log that a checkpoint is of, and what is wrong with it; signatures only by a keyring."""
    if note is None:
        return "", _GONE
    try:
        checkpoint = read_checkpoint(note)[0] if keyring is None else open_checkpoint(note, keyring)[0]
    except DoesNotVerify as error:
        return "", error.problem
    if checkpoint.size != size:
        return checkpoint.origin, f"it is signed over {checkpoint.size} entries"
    return checkpoint.origin, "" if checkpoint.root == root_of_edge(edge).hex() else OTHER_ROOT
