"""Moving the ledger, and where runs stand, from the workspace's file to the database that ``config.yaml`` names.

All of it goes in one transaction of the other database, while nobody can write to the file. Before that transaction
ends, the entries are read back there, and their number and root compared with the file's last checkpoint. Then the file
refuses to be written to, and is kept under another name. Killed anywhere, the same command is given again: what had
arrived is recognised by that checkpoint, and nothing is moved twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.configuration import CONFIG_FILE, Configuration
from expunge.digests import flush
from expunge.errors import BadInput, DoesNotVerify
from expunge.evidence.checkpoints import Checkpoint, open_checkpoint
from expunge.evidence.database import PAGE, Database, moved_file
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import last_note
from expunge.evidence.tree import Growing, leaf_hash
from expunge.settings import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Connection

# Every table of the schema, and the columns by which its rows are in order.
TABLES = {"entries": ("position",), "nodes": ("level", "position"), "digests": ("position",),
          "keyring_changes": ("position",), "checkpoints": ("size",), "runs": ("run",)}
_WRITTEN_BY = {"entries": ("insert",), "runs": ("insert", "update")}  # whatever is written writes one of these


@dataclass(frozen=True)
class Moved:
    """What was moved, and where the file lies now."""

    entries: int
    root: str
    runs: int
    kept: Path


def move(workspace: Workspace) -> Moved:
    """Moves all that the workspace's file holds to the database of `config.yaml`.

    Raises:
        BadInput: no database is named, there is no file to move, or the database holds another ledger.
        WorkspaceBusy: a run works here, or somebody writes to the file or to the database.
        DoesNotVerify: what arrived is not what the file's last checkpoint signs. Nothing was moved.
    """
    from expunge.room import exclusive

    address, file, kept = Configuration.load(workspace).database, workspace.ledger, moved_file(workspace)
    if address is None:
        raise BadInput(f"database: {CONFIG_FILE} names none", "write 'database: postgresql://user@host/name' into it")
    if not file.exists():
        raise BadInput(f"{file.name}: " + ("it was moved before" if kept.exists() else "there is none to be moved"),
                       "see 'expunge audit verify'")
    if kept.exists():
        raise BadInput(f"{kept.name}: an earlier ledger lies there", "put it somewhere else")
    with exclusive(workspace.root / "supervisor.lock", f"workspace: a run works in {workspace.root}",
                   "wait for it, or stop it with 'expunge cancel'"):
        here, there = Database.at(workspace, None).ready(), Database.at(workspace, address)
        if not here.version():
            raise BadInput(f"{file.name}: there is no ledger in it", "remove it")
        there.version()  # so that a database that cannot be used is named before anything is locked
        with here.writing() as source, there.writing() as target:
            note = last_note(source)
            head, _ = open_checkpoint(note, Keyring.load(workspace))
            if there.begin_in(target, lambda connection: _copy(here, connection)):
                _require_arrived(target, head, note)
            else:
                _require_same(source, target, head, note)
            runs = source.exec_driver_sql("SELECT count(*) FROM runs").scalar_one()
            _seal(source)  # durable after what was moved: the other way round, a kill would leave a file of no use
        file.rename(kept)
        flush(workspace.root)
    return Moved(head.size, head.root, runs, kept)


def _copy(here: Database, target: "Connection") -> None:
    from sqlalchemy import text

    for table, key in TABLES.items():
        rows = here.rows(table, *key)
        while page := [dict(row) for row in islice(rows, PAGE)]:
            values = ", ".join(f":{column}" for column in page[0])
            target.execute(text(f"INSERT INTO {table} ({', '.join(page[0])}) VALUES ({values})"), page)


def _require_arrived(target: "Connection", head: Checkpoint, note: bytes) -> None:
    tree = Growing()
    for envelope in _envelopes(target):
        tree.add(leaf_hash(envelope))
    if (tree.size, tree.root.hex(), last_note(target)) != (head.size, head.root, note):
        raise DoesNotVerify("ledger: its entries are not what its last checkpoint signs",
                            "nothing was moved: run 'expunge audit verify' without 'database' in config.yaml")


def _envelopes(connection: "Connection") -> Iterator[bytes]:
    from sqlalchemy import text

    query = text("SELECT envelope FROM entries ORDER BY position").execution_options(yield_per=PAGE)
    for envelope, in connection.execute(query):
        yield bytes(envelope)


def _require_same(source: "Connection", target: "Connection", head: Checkpoint, note: bytes) -> None:
    """The other database holds this very ledger: it was moved, and a kill kept the file from being put aside."""
    from sqlalchemy import text

    found = target.execute(text("SELECT note FROM checkpoints WHERE size = :size"), {"size": head.size}).scalar()
    revisions = text("SELECT run, revision FROM runs")
    arrived = {run: revision for run, revision in target.execute(revisions)}
    older = [run for run, revision in source.execute(revisions) if arrived.get(run, 0) < revision]
    if found is None or bytes(found) != note or older:
        raise BadInput("database: it holds another ledger already", f"name an empty one in {CONFIG_FILE}")


def _seal(source: "Connection") -> None:
    """Has the file refuse whoever began before the database was named, and has waited to write since."""
    for table, verbs in _WRITTEN_BY.items():
        for verb in verbs:
            source.exec_driver_sql(f"CREATE TRIGGER IF NOT EXISTS {table}_{verb}_moved BEFORE {verb} ON {table} "
                                   "BEGIN SELECT RAISE(ABORT, 'it was moved to another database'); END")
