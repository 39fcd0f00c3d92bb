"""The Merkle tree against published vectors and against itself; the ledger that grows it."""

import hashlib
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests_support import without_triggers

from expunge.errors import BadInput, DoesNotVerify, WorkspaceBusy
from expunge.evidence import database as databases
from expunge.evidence.checkpoints import open_checkpoint
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Ledger
from expunge.evidence.tree import edge_of, grown, leaf_hash, levels_of, node_hash, root_of, root_of_edge
from expunge.settings import Workspace

# The RFC 6962 reference vectors of Certificate Transparency, as published in
# https://github.com/transparency-dev/merkle, testonly/constants.go (Apache-2.0).
LEAVES = [bytes.fromhex(leaf) for leaf in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"]


def grow(leaves):
    """The root by appending one leaf after the other, as the ledger does."""
    nodes = {}
    for size, leaf in enumerate(leaves):
        edge = [nodes[place] for place in edge_of(size)]
        nodes |= {(level, position): found for level, position, found in grown(size, edge, leaf)}
    return nodes, root_of_edge([nodes[place] for place in edge_of(len(leaves))])


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_published_vectors(size):
    leaves = [leaf_hash(leaf) for leaf in LEAVES[:size]]
    assert root_of(leaves).hex() == ROOTS[size]
    assert grow(leaves)[1].hex() == ROOTS[size]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 260))
def test_growing_and_computing_from_scratch_agree_on_root_and_subtrees(size):
    leaves = [leaf_hash(number.to_bytes(2)) for number in range(size)]
    nodes, root = grow(leaves)
    assert root == root_of(leaves)
    assert nodes == {(level, position): found for level, hashes in enumerate(levels_of(leaves))
                     for position, found in enumerate(hashes)}


def test_a_leaf_does_not_pass_for_a_node():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right) == hashlib.sha256(b"\x01" + left + right).digest()


def test_every_append_signs_a_checkpoint_over_all_entries(workspace):
    ledger = Ledger.open(workspace)
    before = ledger.size
    for number in range(20):
        assert ledger.append(b"entry %d" % number) == before + number
        head, _ = open_checkpoint(ledger.checkpoint, Keyring.load(workspace))
        entries = [entry.envelope for entry in ledger.entries()]
        assert head.size == len(entries) == ledger.size
        assert head.root == root_of([leaf_hash(entry) for entry in entries]).hex() == ledger.root
    assert ledger.append(b"entry 3") == before + 3
    assert ledger.size == before + 20
    assert len({open_checkpoint(note, Keyring.load(workspace))[0].origin for _, note in ledger.checkpoints()}) == 1


def test_opening_again_finds_the_same_ledger(workspace):
    Ledger.open(workspace).append(b"a")
    assert [entry.envelope for entry in Ledger.open(workspace).entries()] == [b"a"]


@pytest.mark.parametrize("command", [
    "DELETE FROM entries", "UPDATE entries SET envelope = x'00'", "DELETE FROM checkpoints",
    "UPDATE checkpoints SET note = x'00'", "DELETE FROM nodes", "UPDATE nodes SET hash = x'00'"])
def test_the_database_refuses_to_change_or_remove(workspace, command):
    Ledger.open(workspace).append(b"a")
    with sqlite3.connect(workspace.ledger) as database, pytest.raises(sqlite3.Error, match="append only"):
        database.execute(command)


@pytest.mark.parametrize("command", [
    "UPDATE nodes SET hash = zeroblob(32) WHERE level = 0 AND position = 2", "DELETE FROM nodes",
    "DELETE FROM checkpoints WHERE size > 1", "UPDATE checkpoints SET note = x'00'", "DELETE FROM checkpoints"])
def test_nothing_is_signed_on_top_of_a_ledger_that_was_tampered_with(workspace, command):
    ledger = Ledger.open(workspace)
    for entry in (b"a", b"b", b"c"):
        ledger.append(entry)
    without_triggers(workspace, command)
    with pytest.raises(DoesNotVerify):
        ledger.append(b"d")
    assert b"d" not in [entry.envelope for entry in ledger.entries()]


def test_an_append_that_dies_half_way_leaves_nothing(workspace):
    Ledger.open(workspace).append(b"a")
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(f"""
        import os
        from pathlib import Path
        from expunge.evidence import ledger
        from expunge.settings import Workspace
        ledger.sign_checkpoint = lambda *_: os._exit(9)
        ledger.Ledger.open(Workspace(Path({str(workspace.root)!r}))).append(b"b")
        """)], check=False)
    assert died.returncode == 9
    assert [entry.envelope for entry in Ledger.open(workspace).entries()] == [b"a"]
    assert Ledger.open(workspace).append(b"b") == 1


def test_writers_at_the_same_time_lose_and_double_nothing(workspace):
    Ledger.open(workspace)
    code = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from expunge.evidence.ledger import Ledger
        from expunge.settings import Workspace
        ledger = Ledger.open(Workspace(Path({str(workspace.root)!r})))
        for number in range(10):
            ledger.append(f"{{sys.argv[1]}} {{number}}".encode())
            ledger.append(f"shared {{number}}".encode())
        """)
    writers = [subprocess.Popen([sys.executable, "-c", code, str(writer)]) for writer in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    ledger = Ledger.open(workspace)
    entries = [entry.envelope for entry in ledger.entries()]
    assert len(entries) == len(set(entries)) == ledger.size == 40
    assert root_of([leaf_hash(entry) for entry in entries]).hex() == ledger.root


def test_a_ledger_that_somebody_holds_is_said_to_be_busy(workspace, monkeypatch):
    ledger = Ledger.open(workspace)
    monkeypatch.setattr(databases, "WAIT_SECONDS", 0.1)
    with sqlite3.connect(workspace.ledger, isolation_level=None) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(WorkspaceBusy):
            ledger.append(b"a")
        database.execute("ROLLBACK")


def test_a_file_that_is_no_ledger_does_not_verify(workspace):
    workspace.ledger.write_bytes(b"not a database, but long enough to look at" * 10)
    with pytest.raises(DoesNotVerify, match=r"ledger\.sqlite"):
        Ledger.open(workspace)


def test_no_ledger_begins_without_the_operators_key(tmp_path):
    with pytest.raises(BadInput, match="expunge init"):
        Ledger.open(Workspace(tmp_path / "empty"))


KILLED_WRITER = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
database.execute("BEGIN IMMEDIATE")
for position in range(500):
    database.execute("INSERT INTO nodes VALUES (99, ?, ?)", (position, os.urandom(500)))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_began_is_taken_back(workspace):
    ledger = Ledger.open(workspace)
    ledger.append(b"before")
    subprocess.run([sys.executable, "-c", KILLED_WRITER, workspace.ledger], check=False)
    assert workspace.ledger.with_name("ledger.sqlite-journal").exists()
    assert Ledger.open(workspace).append(b"after") == 1
    assert not any(level == 99 for level, _, _ in ledger.nodes())
    assert ledger.damage() == ""
