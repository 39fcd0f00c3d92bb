"""The walk through a whole ledger: every byte that the database keeps is looked at, in memory that stays flat."""

import os
import signal
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from tests_support import without_triggers

from expunge.evidence import stretches, walking
from expunge.evidence.checkpoints import Checkpoint, sign_checkpoint
from expunge.evidence.database import Database
from expunge.evidence.envelopes import seal
from expunge.evidence.findings import checked
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.said import Said
from expunge.evidence.statements import Statement, WithdrawalPredicate, sign_statement
from expunge.evidence.tree import Growing, leaf_hash, root_of
from expunge.evidence.verify import verify_workspace
from expunge.evidence.verify_ledger import verify_ledger
from expunge.evidence.walking import NAMED, look

ENTRIES = 11


def filled(workspace):
    ledger, key = Ledger.open(workspace), SigningKey.load(workspace, OPERATOR)
    for number in range(ENTRIES):
        said = WithdrawalPredicate(model="digits", from_sha256=None, request_id=None, by="grace", at="now",
                                   reason=f"complaint {number}")
        ledger.append(sign_statement(Statement.over({}, said), key))
    return ledger


@pytest.fixture
def ledger(workspace):
    return filled(workspace)


@pytest.fixture(params=[(64, 1), (4, 2), (4, 1)], ids=["one stretch", "two processes", "stretch after stretch"])
def found(request, workspace, monkeypatch):
    """What is wrong in the ledger, by name: as one stretch, as several in processes of their own, as several here."""
    stretch, processes = request.param
    monkeypatch.setattr(stretches, "STRETCH", stretch)

    def found(*outside, signatures=True):
        return {finding.object: finding.message for finding in verify_ledger(
            workspace, Keyring.load(workspace), outside, signatures=signatures, processes=processes) if not finding.ok}

    return found


def test_a_whole_ledger_has_nothing_wrong_and_all_of_it_was_looked_at(workspace, ledger, found):
    assert found() == found(ledger.checkpoint) == {}
    said = Said()
    findings = list(verify_ledger(workspace, Keyring.load(workspace), (), lambda part: iter(said.add(part) or ())))
    assert checked(findings) == 2 * ENTRIES + 3, "entries, checkpoints with the first, the file, and what is not shown"
    assert len(findings) <= ENTRIES // stretches.STRETCH + 5, "they do not pile up"
    assert said.served == {"digits": (ENTRIES - 1, None)}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=3), max_size=80))
def test_a_growing_tree_has_the_root_of_its_leaves(entries):
    tree, leaves = Growing(), [leaf_hash(entry) for entry in entries]
    for size, leaf in enumerate(leaves):
        assert tree.root == root_of(leaves[:size])
        tree.add(leaf)
    assert (tree.root, tree.size) == (root_of(leaves), len(leaves))


ROOTS = {f"ledger checkpoint {size}": "its root is not that of the entries" for size in range(6, ENTRIES + 1)}


TAMPERED = [
    ("UPDATE entries SET leaf = zeroblob(32) WHERE position = 5",
     {"ledger entry 5": "its leaf is not what the entry gives"}),
    ("UPDATE entries SET envelope = CAST('{}' AS BLOB) WHERE position = 5",
     {"ledger entry 5": "not a signed envelope", "ledger tree, level 0, position 5": "not what the entries give", **ROOTS}),
    ("DELETE FROM entries WHERE position = 5",
     {"ledger entry 5": "missing", "ledger tree, level 0, position 5": "not what the entries give", **ROOTS}),
    ("UPDATE entries SET position = 1 << 60 WHERE position = 5",
     {"ledger entry 5": "missing", "ledger tree, level 0, position 5": "not what the entries give", **ROOTS,
      f"ledger entry {1 << 60}": f"it has no place: there are {ENTRIES} entries"}),
    ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 0 AND position = 3",
     {"ledger tree, level 0, position 3": "not what the entries give"}),
    ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 2 AND position = 1",
     {"ledger tree, level 2, position 1": "not what the entries give"}),
    ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 3 AND position = 0",
     {"ledger tree, level 3, position 0": "not what the entries give"}),
    ("DELETE FROM nodes WHERE level = 3", {"ledger tree, level 3, position 0": "not what the entries give"}),
    ("DELETE FROM nodes WHERE level = 1 AND position = 2",
     {"ledger tree, level 1, position 2": "not what the entries give"}),
    ("INSERT INTO nodes VALUES (1, 5, zeroblob(32))", {"ledger tree, level 1, position 5": "not what the entries give"}),
    ("INSERT INTO nodes VALUES (60, 0, zeroblob(32))",
     {"ledger tree, level 60, position 0": "not what the entries give"}),
    ("INSERT INTO nodes VALUES (0, -1, zeroblob(32))",
     {"ledger tree, level 0, position -1": "not what the entries give"}),
    ("UPDATE digests SET sha256 = zeroblob(32) WHERE position = 4", {"ledger entry 4": "its digest is not noted for it"}),
    ("DELETE FROM digests WHERE position = 4", {"ledger entry 4": "its digest is not noted for it"}),
    ("INSERT INTO digests VALUES (zeroblob(32), 70)",
     {"ledger entry 70": f"a digest is noted for it: there are {ENTRIES} entries"}),
    ("INSERT INTO keyring_changes VALUES (4)", {"ledger entry 4": "it is noted to change the keyring, and does not"}),
    ("INSERT INTO keyring_changes VALUES (70)",
     {"ledger entry 70": f"it is noted to change the keyring: there are {ENTRIES} entries"}),
    ("DELETE FROM checkpoints WHERE size = 9", {"ledger checkpoint 9": "missing"}),
    ("DELETE FROM checkpoints WHERE size = 0", {"ledger checkpoint 0": "missing"}),
    (f"DELETE FROM checkpoints WHERE size = {ENTRIES}",
     {f"ledger checkpoint {ENTRIES}": "missing",
      "ledger": f"{ENTRIES} entries, and the newest checkpoint is over {ENTRIES - 1}"}),
    ("UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 8) WHERE size = 9",
     {"ledger checkpoint 9": "it is signed over 8 entries"}),
]


def test_what_is_stored_beside_the_entries_has_to_be_what_they_give(workspace, ledger, found):
    """The same is named however the ledger is divided, and nothing else is."""
    whole = workspace.ledger.read_bytes()
    for command, named in TAMPERED:
        without_triggers(workspace, command)
        assert found() == named, command
        workspace.ledger.write_bytes(whole)


@pytest.mark.parametrize("instead", [f"{1 << 60}", "NULL", "'text'", "0.5"])
def test_what_is_no_bytes_is_named_as_well(workspace, ledger, found, instead):
    """The tables know their types; somebody who may write the file can make them anew without."""
    without_triggers(
        workspace, "ALTER TABLE entries RENAME TO typed",
        "CREATE TABLE entries (position INTEGER PRIMARY KEY, leaf UNIQUE, envelope)",
        f"INSERT INTO entries SELECT position, leaf, CASE position WHEN 5 THEN {instead} ELSE envelope END FROM typed")
    assert found()["ledger entry 5"] == "not a signed envelope"


def test_entries_that_are_missing_at_the_end_are_said(workspace, ledger, found):
    outside = ledger.checkpoint
    without_triggers(workspace, f"DELETE FROM entries WHERE position >= {ENTRIES - 2}")
    assert found(outside) == {
        **{f"ledger checkpoint {size}": f"it is over that many: there are {ENTRIES - 2} entries"
           for size in (ENTRIES - 1, ENTRIES)},
        **{f"ledger entry {position}": f"a digest is noted for it: there are {ENTRIES - 2} entries"
           for position in (ENTRIES - 2, ENTRIES - 1)},
        f"ledger tree, level 0, position {ENTRIES - 2}": "not what the entries give",
        "ledger": f"{ENTRIES - 2} entries, and the newest checkpoint is over {ENTRIES}",
        "outside checkpoint 0": f"it is over {ENTRIES} entries, there are {ENTRIES - 2}"}


def put_note(workspace, size, note):
    with closing(sqlite3.connect(workspace.ledger)) as database:
        database.execute("UPDATE checkpoints SET note = ? WHERE size = ?", (note, size))
        database.commit()


def test_a_signature_that_does_not_verify_is_named_by_its_position(workspace, ledger, found):
    notes = {size: note.rpartition(b" ") for size, note in ledger.checkpoints()}  # text and signature
    without_triggers(workspace, "SELECT 1")
    put_note(workspace, 3, notes[3][0] + b" " + notes[4][2])
    assert found() == {"ledger checkpoint 3": "the checkpoint's signature is not operator's over these bytes"}
    assert found(signatures=False) == {}
    put_note(workspace, ENTRIES, notes[ENTRIES][0] + b" " + notes[4][2])
    assert list(found(signatures=False)) == [f"ledger checkpoint {ENTRIES}"], "the newest one's is always verified"


def test_what_nobody_knows_how_to_read_is_wrong_however_well_it_is_signed(workspace, ledger, found):
    key = SigningKey.load(workspace, OPERATOR)
    ledger.append(seal(b'{"_type":"https://in-toto.io/Statement/v1","predicate":{},"predicateType":"urn:of-tomorrow",'
                       b'"subject":[]}', "application/vnd.in-toto+json", key))
    ledger.append(seal(b"text", "text/plain", key))
    assert found() == {f"ledger entry {ENTRIES}": "the statement says urn:of-tomorrow, unknown here",
                       f"ledger entry {ENTRIES + 1}": "the envelope holds text/plain, not application/vnd.in-toto+json"}


def test_checkpoints_of_another_log_are_named(workspace, ledger, found):
    head = ledger.head.model_copy(update={"origin": "urn:expunge:ledger:other"})
    note = sign_checkpoint(Checkpoint(**head.model_dump()), SigningKey.load(workspace, OPERATOR))
    without_triggers(workspace, "SELECT 1")
    put_note(workspace, ENTRIES, note)
    assert found() == {"ledger": "its checkpoints are of more than one log"}


def test_outside_checkpoints_are_held_against_the_entries_and_not_against_what_is_stored(workspace, ledger, found):
    """Subtrees and checkpoints that somebody changed together with an entry do not make it what it was."""
    kept = dict(ledger.checkpoints())
    assert found(*kept.values()) == {}
    without_triggers(workspace, "UPDATE entries SET envelope = CAST('{}' AS BLOB) WHERE position = 2")
    named = found(*kept.values())
    assert [name for name in named if name.startswith("outside")] == [
        f"outside checkpoint {size}" for size in kept if size > 2]


def test_what_is_appended_meanwhile_waits_for_the_next_time(workspace, ledger):
    findings = verify_ledger(workspace, Keyring.load(workspace))
    next(findings)
    ledger.append(b"meanwhile")
    assert [finding for finding in findings if not finding.ok] == []
    assert [finding.object for finding in verify_ledger(workspace, Keyring.load(workspace)) if not finding.ok] == [
        f"ledger entry {ENTRIES}"]


def test_a_ledger_on_postgresql_is_looked_at_by_several_processes_as_well(on_postgresql, monkeypatch):
    monkeypatch.setattr(stretches, "STRETCH", 4)
    ledger = filled(on_postgresql)
    findings = list(verify_ledger(on_postgresql, ledger.keyring, (ledger.checkpoint,), processes=2))
    assert [finding for finding in findings if not finding.ok] == []
    assert checked(findings) == 2 * ENTRIES + 3
    with Database(on_postgresql).writing() as connection:
        for command in ("ALTER TABLE nodes DISABLE TRIGGER USER",
                        "UPDATE nodes SET hash = decode('00', 'hex') WHERE level = 3"):
            connection.execute(text(command))
    assert {finding.object for finding in verify_ledger(on_postgresql, ledger.keyring, processes=2)
            if not finding.ok} == {"ledger tree, level 3, position 0"}


def test_more_than_can_be_read_is_counted(workspace, ledger):
    without_triggers(workspace, "DELETE FROM checkpoints")
    with closing(sqlite3.connect(workspace.ledger)) as database:
        database.executemany("INSERT INTO entries VALUES (?, ?, ?)", [
            (number, leaf_hash(b"%d" % number), b"%d" % number) for number in range(ENTRIES, 2 * NAMED)])
        database.commit()
    looked = look(workspace, Keyring.load(workspace), 0, 2 * NAMED)
    assert len(looked.wrong) == NAMED + 1
    assert (looked.wrong[-1].object, looked.wrong[-1].count) == (f"ledger entries 0 to {2 * NAMED - 1}",
                                                                 4 * NAMED - ENTRIES - NAMED)
    assert looked.right + checked(looked.wrong) == 4 * NAMED


def test_a_process_that_is_ended_ends_the_verification_in_one_line(workspace, ledger, monkeypatch):
    here, read = os.getpid(), walking.read
    monkeypatch.setattr(stretches, "STRETCH", 4)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(walking, "read", lambda *given: os.kill(os.getpid(), signal.SIGKILL) if os.getpid() != here
                        else read(*given))
    (wrong,) = [finding for finding in verify_workspace(workspace) if finding.object == "ledger.sqlite"]
    assert wrong.message == "ledger: a process that looked at it was ended from outside"
