"""One database: older ones are taken over whole, newer ones refused, and PostgreSQL holds the same as SQLite."""

import json
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from expunge import patience
from expunge.configuration import CONFIG_FILE
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, WorkspaceBusy
from expunge.evidence import database as databases
from expunge.evidence import states
from expunge.evidence.checkpoints import Checkpoint, open_checkpoint, sign_checkpoint
from expunge.evidence.database import VERSION, Database
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.tree import (
    leaf_hash,
    levels_of,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from expunge.evidence.verify_ledger import verify_ledger
from expunge.runs import Run

ENTRIES = [b"entry %d" % number for number in range(11)]

# As ledgers were made before there were migrations.
FIRST_SCHEMA = """
CREATE TABLE entries (position INTEGER PRIMARY KEY, leaf BLOB NOT NULL UNIQUE, envelope BLOB NOT NULL) STRICT;
CREATE TABLE nodes (level INTEGER, position INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, position))
    STRICT, WITHOUT ROWID;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, note BLOB NOT NULL) STRICT;
""" + "".join(
    f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, 'append only'); END;\n"
    for table in ("entries", "nodes", "checkpoints") for verb in ("update", "delete"))
STATE = {
    "schema": "expunge/run/v1", "run": "forget-8.1", "request_id": "forget-8", "request_sha256": "0" * 64, "attempt": 1,
    "state": "awaiting_approval", "reason": "", "remedy": "", "error": None, "rooms": {}, "seconds": 12.5,
    "started_at": "2026-01-02T03:04:05.000+00:00", "mlflow_run": None}


@pytest.fixture
def first(workspace):
    """The workspace, with a ledger and a run as the first version wrote them."""
    workspace.ledger.unlink()
    leaves = [leaf_hash(entry) for entry in ENTRIES]
    key = SigningKey.load(workspace, OPERATOR)
    with closing(sqlite3.connect(workspace.ledger)) as database:
        database.executescript(FIRST_SCHEMA)
        database.executemany("INSERT INTO entries VALUES (?, ?, ?)", zip(range(11), leaves, ENTRIES, strict=True))
        database.executemany("INSERT INTO nodes VALUES (?, ?, ?)", (
            (level, position, found) for level, hashes in enumerate(levels_of(leaves))
            for position, found in enumerate(hashes)))
        for size in range(12):
            head = Checkpoint(origin="urn:expunge:ledger:0", size=size, root=root_of(leaves[:size]).hex())
            database.execute("INSERT INTO checkpoints VALUES (?, ?)", (size, sign_checkpoint(head, key)))
        database.commit()
    folder = workspace.runs / STATE["run"]
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps(STATE))
    return workspace


def contents(workspace):
    with closing(sqlite3.connect(workspace.ledger)) as database:
        return {table: database.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
                for table in ("entries", "nodes", "checkpoints")}


def test_a_ledger_from_before_there_were_migrations_is_taken_over_whole(first):
    before = contents(first)
    ledger = Ledger.open(first)
    assert contents(first) == before
    assert Database(first).version() == VERSION
    assert [ledger.position_of(entry.sha256) for entry in ledger.entries()] == list(range(11))
    assert ledger.append(b"entry 3") == 3
    assert ledger.append(b"new") == 11
    for table in ("entries", "nodes", "checkpoints", "digests"):
        with closing(sqlite3.connect(first.ledger)) as database, pytest.raises(sqlite3.Error, match="append only"):
            database.execute(f"DELETE FROM {table}")


def test_where_runs_stood_in_their_folders_is_taken_over_once(first):
    state = Run.find(first, "forget-8").state()
    assert state.model_dump(mode="json", by_alias=True) == STATE
    assert not (first.runs / "forget-8.1" / "state.json").exists(), "there is one truth"
    assert Run(first, "forget-8.1").write(state.model_copy(update={"seconds": 13.0})).seconds == 13.0


def test_a_run_whose_state_cannot_be_read_leaves_the_ledger_as_it_was(first):
    (first.runs / "forget-8.1" / "state.json").write_text("{")
    before = first.ledger.read_bytes()
    with pytest.raises(DoesNotVerify, match=r"runs/forget-8\.1/state\.json"):
        Ledger.open(first)
    assert first.ledger.read_bytes() == before


def test_an_older_ledger_is_read_as_it_lies(first):
    before = first.ledger.read_bytes()
    ledger = Ledger.existing(first)
    assert [entry.envelope for entry in ledger.entries()] == ENTRIES
    assert ledger.size == 11
    with pytest.raises(BadInput, match="an older expunge"):
        ledger.position_of("0" * 64)
    assert first.ledger.read_bytes() == before


@pytest.mark.parametrize("number", ["4", "ae1027a6acf"])
def test_what_a_newer_expunge_has_written_is_refused_in_a_line(workspace, number):
    with closing(sqlite3.connect(workspace.ledger)) as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (number,))
        database.commit()
    for opens in (Ledger.open, Ledger.existing, Run.all):
        with pytest.raises(BadInput, match=r"ledger\.sqlite: a newer expunge has written it"):
            opens(workspace)


def test_the_newest_migration_is_the_version_that_the_code_knows():
    folder = databases._MIGRATIONS
    scripts = ScriptDirectory(str(folder), version_locations=[str(folder / "versions")])
    assert scripts.get_heads() == [str(VERSION)]


def test_what_needs_no_ledger_does_not_import_sqlalchemy():
    code = "import sys, pipelines.cli, expunge.room; print({'sqlalchemy', 'alembic', 'psycopg'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def shows_its_entries(workspace):
    ledger = Ledger.open(workspace)
    entries = list(ledger.entries())
    leaves = [leaf_hash(entry.envelope) for entry in entries]
    head = ledger.head
    root = bytes.fromhex(head.root)
    assert (head.size, root) == (len(entries), root_of(leaves))
    for entry in entries:
        assert verify_inclusion(leaf_hash(ledger.entry(entry.position).envelope), entry.position, head.size,
                                ledger.inclusion(entry.position), root)
        assert ledger.position_of(entry.sha256) == entry.position
    for size, note in ledger.checkpoints():
        older, _ = open_checkpoint(note, Keyring.load(workspace))
        assert verify_consistency(size, head.size, ledger.consistency(size), bytes.fromhex(older.root), root)
    assert [(level, position, found) for level, position, found in ledger.nodes()] == [
        (level, position, found) for level, hashes in enumerate(levels_of(leaves))
        for position, found in enumerate(hashes)]


def test_a_ledger_gives_proofs_of_what_is_in_it(workspace, monkeypatch):
    monkeypatch.setattr(databases, "PAGE", 3)  # so that reading goes over several pages
    ledger = Ledger.open(workspace)
    for entry in ENTRIES:
        ledger.append(entry)
    shows_its_entries(workspace)
    for beyond in (lambda: ledger.inclusion(11), lambda: ledger.consistency(12), lambda: ledger.entry(11)):
        with pytest.raises(DoesNotVerify, match="ledger: "):
            beyond()
    assert ledger.position_of("0" * 64) is None


def test_a_digest_noted_for_another_entry_does_not_verify(workspace):
    ledger = Ledger.open(workspace)
    ledger.append(b"a")
    ledger.append(b"b")
    with closing(sqlite3.connect(workspace.ledger)) as database:
        database.executescript("DROP TRIGGER digests_update; UPDATE digests SET position = position + 10;"
                               "UPDATE digests SET position = 11 - position;")
    with pytest.raises(DoesNotVerify, match="not the one"):
        ledger.position_of(ledger.entry(0).sha256)


def test_the_change_that_an_entry_records_is_there_with_it_or_neither(workspace):
    ledger = Ledger.open(workspace)

    def note(connection):
        connection.execute(text("CREATE TABLE noted (it INTEGER)"))

    def fail(connection):
        note(connection)
        raise BadInput("no")

    with pytest.raises(BadInput):
        ledger.append(b"a", with_change=fail)
    assert ledger.size == 0
    assert ledger.append(b"a", with_change=note) == 0
    with pytest.raises(ExpungeError):  # the table is there: the entry was told before that it keeps its place
        ledger.append(b"b", with_change=note)
    assert ledger.size == 1


# -------------------------------------------------------------------------------------------- PostgreSQL


def test_postgresql_holds_the_same(on_postgresql):
    ledger = Ledger.open(on_postgresql)
    for entry in ENTRIES:
        ledger.append(entry)
    assert ledger.append(b"entry 3") == 3
    shows_its_entries(on_postgresql)
    assert not on_postgresql.ledger.exists()
    for table in ("entries", "nodes", "checkpoints", "digests"):
        for verb in (f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(ExpungeError, match="append only"), Database(on_postgresql).writing() as connection:
                connection.execute(text(verb))


def test_a_postgresql_that_somebody_holds_is_said_to_be_busy(on_postgresql, monkeypatch):
    ledger = Ledger.open(on_postgresql)
    with Database(on_postgresql).writing():
        monkeypatch.setattr(databases, "WAIT_SECONDS", 0.1)
        with pytest.raises(WorkspaceBusy):
            ledger.append(b"a")
    assert ledger.append(b"a") == 0


def test_of_eight_who_saw_the_same_run_on_postgresql_one_changes_it(on_postgresql):
    database = Database(on_postgresql)
    with database.writing() as connection:
        states.begin(connection, "forget-8.1", "{}")

    def try_it(number):
        try:
            with database.writing() as connection:
                return states.change(connection, "forget-8.1", 1, ["failed"], f'{{"by": {number}}}')
        except WorkspaceBusy:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [found for found in pool.map(try_it, range(8)) if found]
    with database.reading() as connection:
        assert [states.find(connection, "forget-8.1")] == won
    assert (won[0].state, won[0].revision) == ("failed", 2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_change_that_a_crash_took_along_is_made_once(on_postgresql, postgresql, when):
    """The server is killed before it has committed, or after: whoever wrote is told the same."""
    ledger, times = Ledger.open(on_postgresql), []

    def change(connection):
        began = states.begin(connection, "forget-8.1", "{}", at)
        if not times:
            if when == "at the end":
                connection.commit()
            postgresql.restart()
        times.append(began)

    at = states.now()
    assert ledger.append(b"a", with_change=change) == 0
    assert len(times) == 2, "it was made again"
    assert times[0] == times[1]
    assert ledger.size == 1
    assert Database(on_postgresql).read(states.every) == times[:1]


def test_a_server_that_is_away_is_waited_for_and_one_that_refuses_is_not(on_postgresql, postgresql, monkeypatch):
    waits = []
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    config = on_postgresql.root / CONFIG_FILE
    config.write_text(f"{config.read_text()}database_wait: 0.2\n")
    ledger = Ledger.open(on_postgresql)
    with postgresql.away(), pytest.raises(ExpungeError, match=r"waited for 0\.2 s") as refused:
        ledger.append(b"a")
    assert (len(str(refused.value).splitlines()), bool(waits)) == (1, True)
    assert ledger.append(b"a") == 0
    waits.clear()
    config.write_text(config.read_text().replace("expunge@", "nobody@"))
    with pytest.raises(ExpungeError, match='role "nobody" does not exist'):
        Ledger.open(on_postgresql)
    assert not waits


WRITER = """
import sys, time
from pathlib import Path
from expunge.errors import WorkspaceBusy
from expunge.evidence import database
from expunge.evidence.ledger import Ledger
from expunge.settings import Workspace
database.WAIT_SECONDS = 60.0
ledger, until, number = Ledger.open(Workspace(Path(sys.argv[1]))), time.monotonic() + float(sys.argv[3]), 0
while time.monotonic() < until:
    ledger.append(f"{sys.argv[2]} {number}".encode())
    ledger.append(f"shared {number}".encode())
    number += 1
print(number)
"""


def write_at_once(workspace, writers, seconds):
    """Has writers append at the same time, each its own and what all have in common; none may be lost or doubled."""
    Ledger.open(workspace)
    running = [subprocess.Popen([sys.executable, "-c", WRITER, workspace.root, str(writer), str(seconds)],
                                stdout=subprocess.PIPE, text=True) for writer in range(writers)]
    counts = [int(writer.communicate(timeout=seconds + 240)[0]) for writer in running]
    assert [writer.returncode for writer in running] == [0] * writers
    entries = [entry.envelope.decode() for entry in Ledger.open(workspace).entries()]
    wanted = {f"{writer} {number}" for writer, count in enumerate(counts) for number in range(count)}
    assert len(entries) == len(set(entries)), "none is there twice"
    assert set(entries) == wanted | {f"shared {number}" for number in range(max(counts))}, "none is lost"
    assert min(counts) > 0
    found = verify_ledger(workspace, Keyring.load(workspace), signatures=False)
    assert [finding for finding in found if not finding.ok] == [], "the tree is that of the entries"


def test_eight_writers_on_postgresql_lose_and_double_nothing(on_postgresql):
    write_at_once(on_postgresql, 8, 2)


@pytest.mark.thorough
def test_fifty_writers_on_postgresql_for_a_minute_lose_and_double_nothing(on_postgresql):
    began = time.monotonic()
    write_at_once(on_postgresql, 50, 60)
    assert time.monotonic() - began >= 60


@pytest.mark.parametrize(("address", "said"), [
    ("postgresql://expunge@127.0.0.1:9/none", "connection"), ("mysql://x@y/z", "'mysql' is not supported"),
    ("no address", "not an address")])
def test_a_database_that_cannot_be_used_is_named_in_a_line(workspace, address, said):
    workspace.ledger.unlink()
    (workspace.root / CONFIG_FILE).write_text(
        f"schema: expunge/config/v1\ndatabase: '{address}'\ndatabase_wait: 0.1\n")
    with pytest.raises(ExpungeError, match=said) as refused:
        Ledger.open(workspace)
    assert "database" in refused.value.problem
    assert len(str(refused.value).splitlines()) == 1


def test_a_second_database_does_not_silently_take_the_place_of_the_first(workspace):
    Ledger.open(workspace).append(b"a")
    (workspace.root / CONFIG_FILE).write_text("schema: expunge/config/v1\ndatabase: postgresql://x@127.0.0.1:9/y\n")
    with pytest.raises(BadInput, match="has been begun"):
        Ledger.open(workspace)
