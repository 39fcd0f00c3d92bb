"""A workspace that began with a file of its own goes on with a database: all of it, once, whatever kills the move."""

import os
import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import Engine, event, inspect, text

from expunge.configuration import CONFIG_FILE
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, DoesNotVerify, WorkspaceBusy
from expunge.evidence import database as databases
from expunge.evidence import moving, states
from expunge.evidence.database import Database
from expunge.evidence.ledger import Ledger
from expunge.evidence.moving import TABLES, move
from expunge.evidence.verify import verify_workspace
from expunge.room import exclusive


def name_database(workspace, address):
    (workspace.root / CONFIG_FILE).write_text(f"schema: expunge/config/v1\ndatabase: {address}\n")


@pytest.fixture
def filled(begin_run, monkeypatch):
    """A workspace with a release in its file, and two runs that stand somewhere."""
    monkeypatch.setattr(databases, "PAGE", 3)  # so that it goes over several pages
    monkeypatch.setattr(moving, "PAGE", 3)
    done = begin_run().release()
    with Database(done.workspace).writing() as connection:
        states.begin(connection, "forget-7.1", '{"as": "it is"}')
        states.begin(connection, "forget-8.1", "{}")
        states.change(connection, "forget-8.1", 1, ["failed"], '{"why": "\u00e4\u20ac"}')
    return done.workspace


@pytest.fixture
def begun(filled, postgresql, request):
    """The same, after `config.yaml` has come to name an empty database."""
    address = postgresql(f"m{abs(hash(request.node.nodeid))}")
    before = contents(Database(filled))
    name_database(filled, address)
    return filled, address, before


def contents(database):
    return {table: [{name: bytes(value) if isinstance(value, memoryview) else value for name, value in row.items()}
                    for row in database.rows(table, *key)] for table, key in TABLES.items()}


def is_moved(workspace, before):
    assert contents(Database(workspace)) == before
    assert not workspace.ledger.exists()
    assert databases.moved_file(workspace).exists()
    assert [found for found in verify_workspace(workspace) if not found.ok] == []


def test_all_of_it_goes_to_the_database_and_goes_on_there(begun):
    workspace, _, before = begun
    moved = move(workspace)
    assert (moved.entries, moved.runs) == (len(before["entries"]), 2)
    assert moved.root == Ledger.open(workspace).root
    is_moved(workspace, before)
    assert Ledger.open(workspace).append(b"more") == moved.entries
    with Database(workspace).writing() as connection:
        assert states.change(connection, "forget-8.1", 2, ["running"], "{}").revision == 3
    with pytest.raises(BadInput, match=r"ledger\.sqlite: it was moved before"):
        move(workspace)


def test_every_table_is_moved(filled):
    with Database(filled).reading() as connection:
        assert set(inspect(connection).get_table_names()) == {*TABLES, "alembic_version"}


def test_a_database_is_never_begun_beside_a_ledger_that_there_was(begun):
    """Named too early, or taken out too late: an error that says what to do, and nothing is written."""
    workspace, address, before = begun
    with pytest.raises(BadInput, match=r"config\.yaml names another, and .* has been begun: 'expunge audit move' moves it"):
        Ledger.open(workspace)
    (workspace.root / CONFIG_FILE).unlink()
    with pytest.raises(BadInput, match=r"config\.yaml names none: write 'database: "):
        move(workspace)
    name_database(workspace, address)
    move(workspace)
    (workspace.root / CONFIG_FILE).unlink()
    with pytest.raises(BadInput, match="names none, and the ledger was moved to one: name it there again"):
        Ledger.open(workspace)
    databases.moved_file(workspace).unlink()
    with pytest.raises(BadInput, match=r"ledger\.sqlite: it is empty, and keyring\.json is of a ledger that was not"):
        Ledger.open(workspace)
    assert not workspace.ledger.exists()
    name_database(workspace, address)
    assert contents(Database(workspace)) == before


def test_an_empty_database_is_not_begun_where_something_was_signed(begun):
    workspace, _, _ = begun
    workspace.ledger.rename(workspace.root.parent / "elsewhere")
    with pytest.raises(BadInput, match=r"database: it is empty, and keyring\.json is of a ledger that was not"):
        Ledger.open(workspace)
    assert Database(workspace).version() == 0


def test_another_ledger_is_never_written_over(begun, postgresql, request):
    workspace, address, before = begun
    ledger = workspace.ledger.read_bytes()
    with Database.at(workspace, address).writing() as connection:
        assert Database.at(workspace, address).begin_in(connection, lambda connection: connection.execute(
            text("INSERT INTO checkpoints VALUES (0, 'another')")))
    with pytest.raises(BadInput, match="it holds another ledger already: name an empty one"):
        move(workspace)
    assert workspace.ledger.read_bytes() == ledger
    (workspace.root / CONFIG_FILE).unlink()
    assert contents(Database(workspace)) == before


def test_a_run_at_work_and_a_writer_at_work_are_waited_for(begun, monkeypatch):
    workspace, _, before = begun
    with exclusive(workspace.root / "supervisor.lock", "", ""), pytest.raises(WorkspaceBusy, match="a run works in"):
        move(workspace)
    monkeypatch.setattr(databases, "WAIT_SECONDS", 0.1)
    databases._sqlite.cache_clear()
    with Database.at(workspace, None).writing(), pytest.raises(WorkspaceBusy, match="another process writes it"):
        move(workspace)
    monkeypatch.undo()
    databases._sqlite.cache_clear()
    move(workspace)
    is_moved(workspace, before)


def test_whoever_had_begun_before_cannot_write_to_the_file_that_is_kept(begun):
    workspace, _, _ = begun
    move(workspace)
    with closing(sqlite3.connect(databases.moved_file(workspace))) as late:
        for command in ("INSERT INTO entries VALUES (99, x'00', x'00')", "UPDATE runs SET revision = 9",
                        "INSERT INTO runs VALUES ('x', 'running', 1, '', '')"):
            with pytest.raises(sqlite3.Error, match="it was moved to another database"):
                late.execute(command)


def test_what_does_not_add_up_is_not_moved(begun):
    workspace, address, _ = begun
    with closing(sqlite3.connect(workspace.ledger)) as database:
        database.executescript("DROP TRIGGER entries_update; UPDATE entries SET envelope = x'00' WHERE position = 1")
    with pytest.raises(DoesNotVerify, match="its entries are not what its last checkpoint signs: nothing was moved"):
        move(workspace)
    assert Database.at(workspace, address).version() == 0
    assert workspace.ledger.exists()


def test_a_file_that_holds_nothing_and_one_in_the_way_are_named(begun):
    workspace, _, _ = begun
    databases.moved_file(workspace).touch()
    with pytest.raises(BadInput, match=r"ledger\.sqlite\.moved: an earlier ledger lies there"):
        move(workspace)
    databases.moved_file(workspace).unlink()
    workspace.ledger.write_bytes(b"")
    with pytest.raises(BadInput, match=r"ledger\.sqlite: there is no ledger in it"):
        move(workspace)
    workspace.ledger.unlink()
    with pytest.raises(BadInput, match=r"ledger\.sqlite: there is none to be moved"):
        move(workspace)


def counted(what, kind, at=0, then=None):
    """How often something happens while `what` is done; at one time, `then`."""
    count = 0

    def look(*_):
        nonlocal count
        count += 1
        if count == at:
            then()

    event.listen(Engine, kind, look)
    try:
        what()
    finally:
        event.remove(Engine, kind, look)
    return count


def killed(do):
    """Whether a process of its own that does something was killed; it may end in no other way but well."""
    child = os.fork()
    if not child:
        try:
            do()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def test_killed_anywhere_it_is_done_again_by_the_same_command(begun, postgresql, monkeypatch):
    workspace, _, before = begun
    original, named = workspace.ledger.read_bytes(), sha256_bytes(str(workspace.root).encode())[:12]

    def die():
        os._exit(9)

    def again(number):
        """As it was, with another empty database."""
        databases.moved_file(workspace).unlink(missing_ok=True)
        workspace.ledger.write_bytes(original)
        name_database(workspace, postgresql(f"k{number}x{named}"))

    statements = counted(lambda: move(workspace), "before_cursor_execute")
    again("c")
    commits = counted(lambda: move(workspace), "commit")
    places = [("before_cursor_execute", number) for number in range(2, statements, statements // 7)] + [
        ("commit", commits - 1), ("commit", commits)]  # the database's, after which it has all, and the file's
    for number, (kind, at) in enumerate(places):
        again(number)
        assert killed(lambda kind=kind, at=at: counted(lambda: move(workspace), kind, at, die))
        there = Database.at(workspace, moving.Configuration.load(workspace).database)
        assert there.version() == (databases.VERSION if (kind, at) == ("commit", commits) else 0)
        with pytest.raises(BadInput, match="'expunge audit move' moves it there"):
            Ledger.open(workspace)
        move(workspace)
        is_moved(workspace, before)
    again("r")
    monkeypatch.setattr(moving.Path, "rename", lambda *_: die())
    assert killed(lambda: move(workspace))
    monkeypatch.undo()
    move(workspace)
    is_moved(workspace, before)


def test_what_was_written_to_the_file_after_the_rest_had_arrived_is_not_lost_in_silence(filled, postgresql, request):
    """A kill between the two ends, and somebody who knew of no database: then the file has more."""
    file, arrived = filled.ledger, filled.ledger.read_bytes()
    Ledger.open(filled).append(b"more")
    one_entry_more = file.read_bytes()
    file.write_bytes(arrived)
    with Database(filled).writing() as connection:
        states.change(connection, "forget-8.1", 2, ["running"], "{}")
    one_change_more = file.read_bytes()
    name_database(filled, postgresql(f"m{abs(hash(request.node.nodeid))}"))
    file.write_bytes(arrived)
    move(filled)
    for more in (one_entry_more, one_change_more):
        databases.moved_file(filled).rename(filled.root.parent / "kept")
        file.write_bytes(more)
        with pytest.raises(BadInput, match="it holds another ledger already"):
            move(filled)
        assert file.read_bytes() == more
        (filled.root.parent / "kept").rename(databases.moved_file(filled))
