"""The audit trail: an append-only Merkle tree over envelopes, in SQLite, with a signed checkpoint per entry.

One writer. An append is one transaction: the entry, the subtrees that it completes and the new checkpoint
become durable together (``synchronous=FULL``) or not at all. The database refuses updates and deletions by
triggers; somebody who can write the file can lift those, which is what the checkpoints are for.
"""

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from expunge.digests import sha256_bytes
from expunge.errors import DoesNotVerify, NoSpace, WorkspaceBusy, out_of_space
from expunge.evidence.checkpoints import Checkpoint, open_checkpoint, sign_checkpoint
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.tree import EMPTY_ROOT, edge_of, grown, leaf_hash, root_of_edge
from expunge.settings import Workspace

_NOT_SIGNED = ("ledger: its tree is not what its last checkpoint signs", "run 'expunge audit verify'")
WAIT_SECONDS = 10.0  # an append takes milliseconds; longer means that somebody holds the ledger

_SCHEMA = """
CREATE TABLE entries (position INTEGER PRIMARY KEY, leaf BLOB NOT NULL UNIQUE, envelope BLOB NOT NULL) STRICT;
CREATE TABLE nodes (level INTEGER, position INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, position))
    STRICT, WITHOUT ROWID;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
""" + "".join(
    f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, 'append only'); END;\n"
    for table in ("entries", "nodes", "checkpoints") for verb in ("update", "delete"))


@dataclass(frozen=True)
class Entry:
    """One envelope and its place in the ledger."""

    position: int
    envelope: bytes

    @property
    def sha256(self) -> str:
        """Digest of the envelope's bytes."""
        return sha256_bytes(self.envelope)


class Ledger:
    """A ledger, open for reading and appending."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    @classmethod
    def open(cls, workspace: Workspace) -> "Ledger":
        """The workspace's ledger, begun if there is none yet.

        Raises:
            BadInput: there is none and no operator key to begin it with.
            WorkspaceBusy: somebody else holds it.
        """
        ledger = cls(workspace)
        if not workspace.ledger.exists() or not ledger._tables():
            ledger._begin()
        return ledger

    @classmethod
    def existing(cls, workspace: Workspace) -> "Ledger":
        """The workspace's ledger as it lies there, for reading; DoesNotVerify if there is none."""
        ledger = cls(workspace)
        if not workspace.ledger.exists() or not ledger._tables():
            raise DoesNotVerify("ledger: there is none")
        return ledger

    def append(self, envelope: bytes) -> int:
        """Adds an envelope and returns its position; one that is there already keeps its place.

        Raises:
            DoesNotVerify: the tree is not what its last checkpoint signs; nothing is signed on top of that.
            WorkspaceBusy: somebody else holds the ledger.
        """
        leaf = leaf_hash(envelope)
        with self._transaction() as database:
            found = database.execute("SELECT position FROM entries WHERE leaf = ?", (leaf,)).fetchone()
            if found:
                return int(found[0])
            keyring = Keyring.load(self._workspace)
            last, _ = open_checkpoint(_last_note(database), keyring)
            edge = _edge(database, last.size)
            if root_of_edge(edge).hex() != last.root:
                raise DoesNotVerify(*_NOT_SIGNED)
            database.execute("INSERT INTO entries VALUES (?, ?, ?)", (last.size, leaf, envelope))
            database.executemany("INSERT INTO nodes VALUES (?, ?, ?)", grown(last.size, edge, leaf))
            size = last.size + 1
            head = Checkpoint(origin=last.origin, size=size, root=root_of_edge(_edge(database, size)).hex())
            note = sign_checkpoint(head, SigningKey.load(self._workspace, OPERATOR))
            database.execute("INSERT INTO checkpoints VALUES (?, ?)", (size, note))
            return last.size

    def entries(self) -> Iterator[Entry]:
        """Every entry in order, read one by one."""
        query = "SELECT position, envelope FROM entries ORDER BY position"
        with self._reading() as database:
            for position, envelope in database.execute(query):
                yield Entry(position, envelope)

    def checkpoints(self) -> Iterator[tuple[int, bytes]]:
        """Every checkpoint ever signed, as (size, note), oldest first."""
        with self._reading() as database:
            yield from database.execute("SELECT size, note FROM checkpoints ORDER BY size")

    def nodes(self) -> Iterator[tuple[int, int, bytes]]:
        """Every stored subtree as (level, position, hash)."""
        with self._reading() as database:
            yield from database.execute("SELECT level, position, hash FROM nodes ORDER BY level, position")

    @property
    def checkpoint(self) -> bytes:
        """The newest signed checkpoint, as a C2SP note."""
        with self._reading() as database:
            return _last_note(database)

    @property
    def head(self) -> Checkpoint:
        """The newest checkpoint, its signature verified."""
        return open_checkpoint(self.checkpoint, Keyring.load(self._workspace))[0]

    @property
    def size(self) -> int:
        """How many entries the newest checkpoint covers."""
        return self.head.size

    @property
    def root(self) -> str:
        """The root over them, as 64 hex digits."""
        return self.head.root

    def damage(self) -> str:
        """What SQLite itself finds wrong with the file; empty if nothing."""
        with self._reading() as database:
            (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        return "" if found == "ok" else str(found).splitlines()[-1]

    def _begin(self) -> None:
        key = SigningKey.load(self._workspace, OPERATOR)
        origin = f"urn:expunge:ledger:{secrets.token_hex(8)}"
        empty = Checkpoint(origin=origin, size=0, root=EMPTY_ROOT.hex())
        self._workspace.ledger.parent.mkdir(parents=True, exist_ok=True)
        with self._transaction() as database:
            if not self._tables(database):  # somebody else may have begun it meanwhile
                for command in _SCHEMA.split(";\n"):
                    database.execute(command)
                database.execute("INSERT INTO checkpoints VALUES (0, ?)", (sign_checkpoint(empty, key),))

    def _tables(self, database: sqlite3.Connection | None = None) -> bool:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'checkpoints'"
        if database is not None:
            return bool(database.execute(query).fetchone()[0])
        with self._reading() as opened:
            return bool(opened.execute(query).fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _complaints(self._workspace.ledger), closing(self._connect("rwc")) as database:
            database.execute("PRAGMA synchronous = FULL")
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.rollback()
                raise
            database.commit()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        # What a killed writer left in the journal can only be taken back by somebody who may write.
        mode = "rw" if self._workspace.ledger.with_name(f"{self._workspace.ledger.name}-journal").exists() else "ro"
        with _complaints(self._workspace.ledger), closing(self._connect(mode)) as database:
            yield database

    def _connect(self, mode: str) -> sqlite3.Connection:
        place = f"{self._workspace.ledger.as_uri()}?mode={mode}"
        return sqlite3.connect(place, uri=True, timeout=WAIT_SECONDS, isolation_level=None)


@contextmanager
def _complaints(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if out_of_space(error):
            raise NoSpace.on(file.parent) from None
        if "locked" in str(error):
            raise WorkspaceBusy("ledger: another process writes it", "try again") from None
        raise DoesNotVerify(f"{file.name}: {error}") from None
    except sqlite3.DatabaseError as error:
        raise DoesNotVerify(f"{file.name}: {error}") from None


def _last_note(database: sqlite3.Connection) -> bytes:
    found = database.execute("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    if found is None:
        raise DoesNotVerify("ledger: it has no checkpoint")
    return bytes(found[0])


def _edge(database: sqlite3.Connection, size: int) -> list[bytes]:
    edge = [database.execute("SELECT hash FROM nodes WHERE level = ? AND position = ?", place).fetchone()
            for place in edge_of(size)]
    if None in edge:
        raise DoesNotVerify(*_NOT_SIGNED)
    return [bytes(found[0]) for found in edge]
