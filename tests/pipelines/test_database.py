"""A run whose ledger has gone to PostgreSQL: verified, exported, disposed of, and the next one begun there."""

import subprocess
import sys

import pytest

from expunge.configuration import CONFIG_FILE
from expunge.evidence.standalone import verify


@pytest.fixture
def named(copy_of_demo, postgresql, request):
    """A copy of the finished demo, whose configuration has come to name an empty database."""
    address = postgresql(f"p{abs(hash(request.node.nodeid))}")
    (copy_of_demo / ".expunge" / CONFIG_FILE).write_text(f"schema: expunge/config/v1\ndatabase: {address}\n")
    return copy_of_demo


def strangers_word(bundle):
    return subprocess.run([sys.executable, "-I", verify.__file__, bundle], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_run_that_is_moved_verifies_is_exported_and_disposed_of(named, expunge, tmp_path):
    for verb in (["status"], ["audit", "verify"], ["audit", "log"], ["keys", "new", "eve", "--role", "reviewer"]):
        refused = expunge(named, *verb)
        assert refused.code == 2, refused.out
        assert "'expunge audit move' moves it there" in refused.err
    before = sorted(path for path in (named / ".expunge").glob("ledger*"))
    moved = expunge(named, "audit", "move", "--json")
    assert moved.code == 0, moved.err
    assert moved.json["runs"] == 1
    after = (named / ".expunge").glob("ledger*")
    assert [path.name for path in before] + [path.name for path in after] == ["ledger.sqlite", "ledger.sqlite.moved"]
    again = expunge(named, "audit", "move")
    assert (again.code, again.err) == (2, "expunge: ledger.sqlite: it was moved before: see 'expunge audit verify'\n")
    verified = expunge(named, "audit", "verify", "--json")
    assert verified.code == 0, verified.out + verified.err
    shown = expunge(named, "status", "forget-8", "--json")
    assert (shown.json["state"], shown.json["ledger"]) == (
        "released", {"size": moved.json["entries"], "root": moved.json["root"]})
    for bundle, disposes in (("before.zip", False), ("after.zip", True)):
        if disposes:
            disposed = expunge(named, "dispose", "forget-8", "--reason", "it is over", "--json")
            assert disposed.code == 0, disposed.err
            assert expunge(named, "audit", "verify").code == 0
        assert expunge(named, "audit", "export", "forget-8", tmp_path / bundle).code == 0
        said = strangers_word(tmp_path / bundle)
        assert said.returncode == 0, said.stdout + said.stderr
    assert expunge(named, "withdraw", "digits", "--as", "grace", "--reason", "a complaint").code == 0
    assert expunge(named, "status", "forget-8", "--json").json["state"] == "withdrawn"
    assert expunge(named, "gc").code == 0
    assert expunge(named, "doctor").code == 0


@pytest.mark.thorough
def test_a_request_is_carried_out_on_postgresql_from_the_beginning(demo, postgresql, expunge, tmp_path):
    (tmp_path / ".expunge").mkdir()
    (tmp_path / ".expunge" / CONFIG_FILE).write_text(
        f"schema: expunge/config/v1\ndatabase: {postgresql('from_the_beginning')}\n")
    (tmp_path / "request.yaml").write_bytes((demo[0] / "request.yaml").read_bytes())
    for code, *verb in ((0, "init"), (0, "keys", "new", "ada", "--role", "requester"),
                        (0, "keys", "new", "grace", "--role", "reviewer"), (10, "run", "request.yaml"),
                        (0, "approve", "forget-8", "--as", "grace", "--reason", "looked at it"), (0, "release", "forget-8"),
                        (0, "audit", "verify"), (0, "audit", "export", "forget-8", "bundle.zip"),
                        (0, "rollback", "digits", "--as", "grace", "--reason", "a complaint"), (0, "audit", "verify")):
        done = expunge(tmp_path, *verb)
        assert done.code == code, f"{verb}: {done.out}{done.err}"
    assert not list((tmp_path / ".expunge").glob("ledger*"))
    assert strangers_word(tmp_path / "bundle.zip").returncode == 0
