"""The audit trail: an append-only Merkle tree over envelopes, with a signed checkpoint per entry.

One writer. An append is one transaction of the database: the entry, the subtrees that it completes, the new
checkpoint and the change of a run's state that it records become durable together or not at all. The database refuses
updates and deletions by triggers; somebody who can write it can lift those, which is what the checkpoints are for.
"""

import functools
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.configuration import CONFIG_FILE, Configuration
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, DoesNotVerify
from expunge.evidence.checkpoints import Checkpoint, open_checkpoint, sign_checkpoint
from expunge.evidence.database import Database
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.statements import KeyringPredicate, predicate_type_of
from expunge.evidence.tree import (
    EMPTY_ROOT,
    Lookup,
    Proof,
    consistency_proof,
    edge_of,
    grown,
    inclusion_proof,
    leaf_hash,
    root_of_edge,
)
from expunge.settings import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Connection, TextClause

_LOG = logging.getLogger(__name__)
_NOT_SIGNED = ("ledger: its tree is not what its last checkpoint signs", "run 'expunge audit verify'")


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
        self._database = Database(workspace)

    @classmethod
    def open(cls, workspace: Workspace) -> "Ledger":
        """The workspace's ledger, begun if there is none yet.

        Raises:
            BadInput: there is none and no operator key to begin it with, or a newer expunge has written it.
            WorkspaceBusy: somebody else holds it.
        """
        ledger = cls(workspace)
        if ledger._database.version() == 0:
            ledger._begin()
        ledger._database.ready()
        return ledger

    @classmethod
    def existing(cls, workspace: Workspace) -> "Ledger":
        """The workspace's ledger as it lies there, for reading; DoesNotVerify if there is none."""
        ledger = cls(workspace)
        if ledger._database.version() == 0:
            raise DoesNotVerify("ledger: there is none")
        return ledger

    def append(self, envelope: bytes, with_change: "Callable[[Connection], object] | None" = None,
               head_signer: SigningKey | None = None) -> int:
        """Adds an envelope and returns its position; one that is there already keeps its place.

        `with_change` is made in the same transaction, after the entry: both are there in the end, or neither. It may be
        made twice, as `Database.write` says.
        `head_signer` signs the new head in the operator's place: the key that this very entry makes the operator's.

        Raises:
            DoesNotVerify: the tree is not what its last checkpoint signs; nothing is signed on top of that. Or it was
                appended, and a checkpoint that is kept outside shows that the ledger is not what it was.
            WorkspaceBusy: somebody else holds the ledger.
        """
        def append(connection: "Connection") -> int:
            position = self._append(envelope, connection, head_signer)
            if with_change is not None:
                with_change(connection)
            return position

        position = self._database.write(append)
        self._copy_out()
        return position

    def _copy_out(self) -> None:
        if Configuration.load(self._workspace).checkpoints:
            from expunge.evidence import copies

            for sent in copies.send(self._workspace):
                if sent.problem:
                    _LOG.warning("the checkpoint was not copied to %s: %s", sent.place, sent.problem)

    def _append(self, envelope: bytes, connection: "Connection", head_signer: SigningKey | None) -> int:
        from sqlalchemy import text

        leaf = leaf_hash(envelope)
        found = connection.execute(text("SELECT position FROM entries WHERE leaf = :leaf"), {"leaf": leaf}).scalar()
        if found is not None:
            return int(found)
        last, _ = open_checkpoint(last_note(connection), Keyring.load(self._workspace))
        edge = _edge(connection, last.size)
        if root_of_edge(edge).hex() != last.root:
            raise DoesNotVerify(*_NOT_SIGNED)
        connection.execute(text("INSERT INTO entries (position, leaf, envelope) VALUES (:position, :leaf, :envelope)"),
                           {"position": last.size, "leaf": leaf, "envelope": envelope})
        connection.execute(text("INSERT INTO nodes (level, position, hash) VALUES (:level, :position, :hash)"),
                           [{"level": level, "position": position, "hash": found}
                            for level, position, found in grown(last.size, edge, leaf)])
        connection.execute(text("INSERT INTO digests (sha256, position) VALUES (:sha256, :position)"),
                           {"sha256": bytes.fromhex(sha256_bytes(envelope)), "position": last.size})
        if predicate_type_of(envelope) == KeyringPredicate.TYPE:
            connection.execute(text("INSERT INTO keyring_changes (position) VALUES (:position)"),
                               {"position": last.size})
        size = last.size + 1
        head = Checkpoint(origin=last.origin, size=size, root=root_of_edge(_edge(connection, size)).hex())
        _keep(connection, size, sign_checkpoint(head, head_signer or SigningKey.load(self._workspace, OPERATOR)))
        return last.size

    def entries(self, start: int = 0) -> Iterator[Entry]:
        """Every entry in order, read page by page; from a position on."""
        for row in self._database.rows("entries", "position", start=(start,)):
            yield Entry(row["position"], row["envelope"])

    def entry(self, position: int) -> Entry:
        """The entry at a position; DoesNotVerify if there is none."""
        from sqlalchemy import text

        query = text("SELECT envelope FROM entries WHERE position = :position")
        found = self._database.read(lambda connection: connection.execute(query, {"position": position}).scalar())
        if found is None:
            raise DoesNotVerify(f"ledger: it has no entry {position}")
        return Entry(position, bytes(found))

    def entries_at(self, positions: Sequence[int]) -> list[Entry]:
        """The entries at these positions, in this order; DoesNotVerify if one is not there."""
        from sqlalchemy import bindparam, text

        query = text("SELECT position, envelope FROM entries WHERE position IN :positions").bindparams(
            bindparam("positions", expanding=True))
        found = self._database.read(lambda connection: {
            position: bytes(envelope)
            for position, envelope in connection.execute(query, {"positions": list(positions)})})
        if missing := [position for position in positions if position not in found]:
            raise DoesNotVerify(f"ledger: it has no entry {missing[0]}")
        return [Entry(position, found[position]) for position in positions]

    def position_of(self, sha256: str) -> int | None:
        """Where the envelope of that digest lies; None if it was not entered.

        Raises:
            DoesNotVerify: the entry there has another digest.
            BadInput: an older expunge has written the ledger, and nothing has been appended since.
        """
        from sqlalchemy import text

        if self._database.version() < 2:
            raise BadInput("ledger: an older expunge has written it", "any command that appends to it brings it up")
        query, given = text("SELECT position FROM digests WHERE sha256 = :sha256"), {"sha256": bytes.fromhex(sha256)}
        found = self._database.read(lambda connection: connection.execute(query, given).scalar())
        if found is not None and self.entry(found).sha256 != sha256:
            raise DoesNotVerify(f"ledger entry {found}: not the one that its digest is noted for")
        return None if found is None else int(found)

    def keyring_changes(self) -> tuple[Entry, ...]:
        """Every entry that changes the keyring, or was meant to, in order."""
        from sqlalchemy import text

        # In the order of the few: in that of the entries SQLite would go through all of them.
        query = text("SELECT entries.position, envelope FROM keyring_changes "
                     "JOIN entries ON entries.position = keyring_changes.position ORDER BY keyring_changes.position")
        return self._database.read(lambda connection: tuple(
            Entry(position, bytes(envelope)) for position, envelope in connection.execute(query)))

    def checkpoints(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Every checkpoint ever signed, as (size, note), oldest first; from a size on."""
        for row in self._database.rows("checkpoints", "size", start=(start,)):
            yield row["size"], row["note"]

    def nodes(self) -> Iterator[tuple[int, int, bytes]]:
        """Every stored subtree as (level, position, hash)."""
        for row in self._database.rows("nodes", "level", "position"):
            yield row["level"], row["position"], row["hash"]

    @property
    def keyring(self) -> Keyring:
        """Of its workspace."""
        return Keyring.load(self._workspace)

    def inclusion(self, position: int, size: int | None = None) -> Proof:
        """What shows that an entry is in the tree of `size` entries, by default of the newest checkpoint.

        Raises:
            DoesNotVerify: there is no such entry, or a subtree is missing.
        """
        return self._proof(inclusion_proof, position, size)

    def consistency(self, first: int, size: int | None = None) -> Proof:
        """What shows that the tree of `size` entries, by default of the newest checkpoint, begins with `first` of them.

        Raises:
            DoesNotVerify: there are fewer entries than that, or a subtree is missing.
        """
        return self._proof(consistency_proof, first, size)

    def inclusions(self, positions: Sequence[int], size: int) -> list[Proof]:
        """The same for several entries at once: what their ways up share is looked up once."""
        def prove(connection: "Connection") -> list[Proof]:
            lookup = functools.cache(lambda level, position: _node(connection, level, position))
            return [inclusion_proof(position, size, lookup) for position in positions]

        try:
            return self._database.read(prove)
        except ValueError as error:
            raise DoesNotVerify(f"ledger: {error}") from None

    def _proof(self, of: Callable[[int, int, Lookup], Proof], number: int, size: int | None) -> Proof:
        size = self.size if size is None else size
        try:
            return self._database.read(lambda connection: of(
                number, size, lambda level, position: _node(connection, level, position)))
        except ValueError as error:
            raise DoesNotVerify(f"ledger: {error}") from None

    @property
    def checkpoint(self) -> bytes:
        """The newest signed checkpoint, as a C2SP note."""
        return self._database.read(last_note)

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
        """What the database itself finds wrong with its file; empty if nothing."""
        return self._database.damage()

    def _begin(self) -> None:
        signed = _signed_before(self._workspace)
        if signed is not None and not self._database.version():  # nobody else has begun it meanwhile
            raise BadInput(f"{self._database.name}: it is empty, and {signed} is of a ledger that was not",
                           f"see 'database' in {CONFIG_FILE}, or restore the ledger from a backup")
        key = SigningKey.load(self._workspace, OPERATOR)
        origin = f"urn:expunge:ledger:{secrets.token_hex(8)}"
        empty = Checkpoint(origin=origin, size=0, root=EMPTY_ROOT.hex())
        self._database.begin(lambda connection: _keep(connection, 0, sign_checkpoint(empty, key)))


def _signed_before(workspace: Workspace) -> str | None:
    """What shows that there was a ledger here already: a new one must not silently take its place."""
    if any(entry.valid_from or entry.valid_until for entry in Keyring.load(workspace).entries):
        return workspace.keyring.name
    signed = (file for pattern in ("results/*/statement.json", "approvals/*/*.json")
              for file in workspace.root.glob(pattern))
    found = next(signed, None)
    return None if found is None else found.relative_to(workspace.root).as_posix()


def _keep(connection: "Connection", size: int, note: bytes) -> None:
    from sqlalchemy import text

    connection.execute(text("INSERT INTO checkpoints (size, note) VALUES (:size, :note)"), {"size": size, "note": note})


def last_note(connection: "Connection") -> bytes:
    """The newest signed checkpoint; DoesNotVerify if there is none."""
    from sqlalchemy import text

    found = connection.execute(text("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1")).scalar()
    if found is None:
        raise DoesNotVerify("ledger: it has no checkpoint")
    return bytes(found)


def _edge(connection: "Connection", size: int) -> list[bytes]:
    return [_node(connection, level, position) for level, position in edge_of(size)]


@functools.cache  # a page's proofs ask it a thousand times
def _hash_of_node() -> "TextClause":
    from sqlalchemy import text

    return text("SELECT hash FROM nodes WHERE level = :level AND position = :position")


def _node(connection: "Connection", level: int, position: int) -> bytes:
    found = connection.execute(_hash_of_node(), {"level": level, "position": position}).scalar()
    if found is None:
        raise DoesNotVerify(*_NOT_SIGNED)
    return bytes(found)
