"""The walk through a whole ledger: every byte that the database keeps is looked at, in memory that stays flat."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_support import without_triggers

from expunge.errors import DoesNotVerify
from expunge.evidence import database as databases
from expunge.evidence import walking
from expunge.evidence.envelopes import seal
from expunge.evidence.keys import OPERATOR, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.tree import Growing, leaf_hash, root_of, root_of_edge
from expunge.evidence.walking import walk, wrong

ENTRIES = 11


@pytest.fixture(params=[100, 3])
def stretch(request):
    return request.param


@pytest.fixture
def ledger(workspace, monkeypatch, stretch):
    monkeypatch.setattr(databases, "PAGE", 4)
    monkeypatch.setattr(walking, "STRETCH", stretch)
    ledger, key = Ledger.open(workspace), SigningKey.load(workspace, OPERATOR)
    for number in range(ENTRIES):
        ledger.append(seal(b"entry %d" % number, "text/plain", key))
    return ledger


def test_a_whole_ledger_has_nothing_wrong_and_its_root(workspace, ledger):
    assert list(wrong(workspace, processes=2)) == []
    steps = list(walk(ledger))
    assert [step.position for step in steps] == list(range(ENTRIES))
    assert root_of_edge(steps[-1].edge).hex() == ledger.root
    assert steps[-1].note == ledger.checkpoint
    assert not any(step.problem for step in steps)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=3), max_size=80))
def test_a_growing_tree_has_the_root_of_its_leaves(entries):
    tree, leaves = Growing(), [leaf_hash(entry) for entry in entries]
    for size, leaf in enumerate(leaves):
        assert tree.root == root_of(leaves[:size])
        tree.add(leaf)
    assert (tree.root, tree.size) == (root_of(leaves), len(leaves))


@pytest.mark.parametrize(("command", "position", "said"), [
    ("UPDATE entries SET leaf = zeroblob(32) WHERE position = 5", 5, "leaf"),
    ("UPDATE entries SET envelope = CAST('{}' AS BLOB) WHERE position = 5", 5, "leaf"),
    ("DELETE FROM entries WHERE position = 5", 6, "entry 5 is missing"),
    ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 0 AND position = 3", 3, "level 0, position 3"),
    ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 2 AND position = 1", 7, "level 2, position 1"),
    ("DELETE FROM nodes WHERE level = 1 AND position = 2", 5, "level 1, position 2"),
    ("UPDATE digests SET sha256 = zeroblob(32) WHERE position = 4", 4, "digest"),
    ("DELETE FROM digests WHERE position = 4", 4, "digest"),
    ("DELETE FROM checkpoints WHERE size = 9", 8, "checkpoint 9"),
    ("UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE size = 8) WHERE size = 9", 8, "checkpoint 9"),
])
def test_what_is_stored_beside_the_entries_has_to_be_what_they_give(workspace, ledger, command, position, said):
    without_triggers(workspace, command)
    found = dict(reversed(list(wrong(workspace, signatures=False, processes=2))))
    assert said in found[position]
    assert min(found) == position


def test_entries_that_are_missing_at_the_end_are_said(workspace, ledger):
    without_triggers(workspace, f"DELETE FROM entries WHERE position = {ENTRIES - 1}")
    with pytest.raises(DoesNotVerify, match=f"fewer entries than the {ENTRIES}"):
        list(walk(ledger))


def test_a_signature_that_does_not_verify_is_named_by_its_position(workspace, ledger):
    with closing(sqlite3.connect(workspace.ledger)) as database:
        (note,) = database.execute("SELECT note FROM checkpoints WHERE size = 3").fetchone()
        (envelope,) = database.execute("SELECT envelope FROM entries WHERE position = 7").fetchone()
    cut = note.index(b"=\n\n")  # keeps the text, and takes another's signature
    other = bytes(note[:cut + 3]) + bytes(ledger.checkpoint[ledger.checkpoint.index(b"=\n\n") + 3:])
    without_triggers(workspace)
    with closing(sqlite3.connect(workspace.ledger)) as database:
        database.execute("UPDATE checkpoints SET note = ? WHERE size = 3", (other,))
        database.execute("UPDATE entries SET envelope = ? WHERE position = 7", (envelope.replace(b"sig", b"gis"),))
        database.commit()
    assert [position for position, _ in wrong(workspace, processes=2)][:2] == [2, 7]
    assert next(wrong(workspace, signatures=False, processes=2))[0] == 7


def test_what_is_appended_meanwhile_waits_for_the_next_walk(ledger):
    steps = walk(ledger)
    next(steps)
    ledger.append(b"meanwhile")
    assert len(list(steps)) == ENTRIES - 1


def test_subtrees_that_were_changed_together_are_found_where_a_stretch_begins(workspace, ledger, stretch):
    """What a stretch begins with is only what was stored: the one before it has to come to the same."""
    without_triggers(workspace, "UPDATE nodes SET hash = zeroblob(32) WHERE level = 1 AND position = 0",
                     "UPDATE checkpoints SET note = CAST('x' AS BLOB) WHERE size BETWEEN 4 AND 6")
    found = dict(reversed(list(wrong(workspace, signatures=False, processes=2))))
    assert min(found) == 1
    assert "level 1, position 0" in found[1]
    assert ("the subtrees stored over all before it" in found[3]) == (stretch == 3)
