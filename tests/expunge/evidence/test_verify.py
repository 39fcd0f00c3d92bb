"""Verification of a workspace: a run that was released is flipped, shortened and swapped, and each is named."""

import os
import shutil
import sqlite3

import pytest
from finished_run import FinishedRun

from expunge.digests import sha256_bytes
from expunge.errors import DoesNotVerify
from expunge.evidence.keys import OPERATOR, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import DisposalPredicate, Statement, sign_statement
from expunge.evidence.verify import verify_workspace
from expunge.room import verify_result
from expunge.settings import RUN_VARIABLE, Workspace
from expunge.stores import releases


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One released run, made once; each test works on a copy of it."""
    from pipelines.workspace import initialise

    with pytest.MonkeyPatch.context() as patch:
        made = initialise(Workspace(tmp_path_factory.mktemp("verify") / ".expunge"))
        patch.setenv("EXPUNGE_WORKSPACE", str(made.root))
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv(RUN_VARIABLE, "forget-8.1")
        yield FinishedRun(made).release()


@pytest.fixture
def workspace(finished, tmp_path):
    shutil.copytree(finished.workspace.root, tmp_path / "ws", symlinks=True)
    shutil.copytree(finished.workspace.keys, tmp_path / "ws-keys")
    return Workspace(tmp_path / "ws")


def wrong(workspace, **more):
    return {finding.object: finding.message for finding in verify_workspace(workspace, **more) if not finding.ok}


def messages(workspace, **more):
    return [f"{finding.object}: {finding.message}" for finding in verify_workspace(workspace, **more)
            if finding.ok and finding.message]


def file_of(workspace, pattern):
    (found,) = workspace.root.glob(pattern)
    return found


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.unlink()
    file.write_bytes(data)


def without_triggers(workspace, *commands):
    with sqlite3.connect(workspace.ledger) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        for command in commands:
            database.execute(*command)


def test_a_released_run_verifies_and_says_what_is_not_shown(workspace):
    assert wrong(workspace) == {}
    assert messages(workspace) == ["ledger: append-only: not shown"]


FILES = [
    "results/unlearn-*/statement.json", "results/unlearn-*/candidate/record.json",
    "results/unlearn-*/candidate/model.safetensors", "results/evaluate-*/statement.json",
    "results/evaluate-*/report/record.json", "results/evaluate-*/report/scores.csv",
    "results/gate-*/statement.json", "results/gate-*/verdict/record.json", "results/gate-*/verdict/token.txt",
    "results/deploy-*/statement.json", "results/deploy-*/release/record.json",
    "approvals/forget-8.1/*.json", "approvals/forget-8.1/*.reason.txt", "runs/forget-8.1/request.json",
    "runs/forget-8.1/policy.yaml", "releases/digits/1-*/model.safetensors", "releases/digits/1-*/release.json",
    "taint/*.json"]


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("pattern", FILES)
def test_one_flipped_byte_in_a_file_is_named(workspace, pattern, place):
    file = file_of(workspace, pattern)
    size = file.stat().st_size
    flip(file, {"first": 0, "middle": size // 2, "last": size - 1}[place])
    assert file.relative_to(workspace.root).as_posix() in wrong(workspace)


@pytest.mark.parametrize("pattern", FILES)
def test_a_missing_file_is_named(workspace, pattern):
    file = file_of(workspace, pattern)
    file.unlink()
    assert "missing" in wrong(workspace)[file.relative_to(workspace.root).as_posix()]


@pytest.mark.parametrize("table", ["entries", "checkpoints"])
def test_one_flipped_byte_in_the_ledger_is_named(workspace, table):
    column, named = {"entries": ("envelope", "ledger entry"), "checkpoints": ("note", "ledger checkpoint")}[table]
    key = "position" if table == "entries" else "size"
    with sqlite3.connect(workspace.ledger) as database:
        rows = database.execute(f"SELECT {key}, {column} FROM {table}").fetchall()
    assert len(rows) > 4
    for number, (row, data) in enumerate(rows):
        flipped = bytearray(data)
        flipped[(number * 97 + 13) % len(data)] ^= 1
        without_triggers(workspace, (f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (bytes(flipped), row)))
        assert f"{named} {row}" in wrong(workspace)
        without_triggers(workspace, (f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (data, row)))
    assert wrong(workspace) == {}


def test_a_byte_flipped_in_the_ledgers_file_itself_is_named(workspace):
    with sqlite3.connect(workspace.ledger) as database:
        envelope, = database.execute("SELECT envelope FROM entries WHERE position = 2").fetchone()
    data = bytearray(workspace.ledger.read_bytes())
    data[data.index(envelope[:200]) + 100] ^= 1
    workspace.ledger.write_bytes(data)
    assert "ledger entry 2" in wrong(workspace)


def test_a_flipped_subtree_is_named(workspace):
    without_triggers(workspace, ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 1 AND position = 0",))
    assert "ledger tree, level 1, position 0" in wrong(workspace)


def test_an_entry_taken_from_the_tail_is_missed(workspace):
    without_triggers(workspace, ("DELETE FROM entries WHERE position = (SELECT max(position) FROM entries)",))
    assert any("ledger checkpoint" in name for name in wrong(workspace))


def test_a_ledger_shortened_with_its_checkpoints_is_missed_by_what_was_saved_outside(workspace):
    outside = Ledger.existing(workspace).checkpoint
    (number,) = [finding.message for finding in verify_workspace(workspace, outside=[outside])
                 if finding.object == "outside checkpoint 0"]
    assert number == f"append-only: shown since entry {Ledger.existing(workspace).size}"
    last = Ledger.existing(workspace).size
    nodes = "DELETE FROM nodes WHERE (position + 1) << level > ?"
    without_triggers(workspace, ("DELETE FROM entries WHERE position = ?", (last - 1,)), (nodes, (last - 1,)),
                     ("DELETE FROM checkpoints WHERE size = ?", (last,)),
                     ("DELETE FROM digests WHERE position = ?", (last - 1,)))
    assert wrong(workspace) == {}  # from inside, nothing shows it: this is what "not shown" means
    assert "outside checkpoint 0" in wrong(workspace, outside=[outside])


def test_two_swapped_entries_are_named(workspace):
    swap = "UPDATE entries SET position = ? WHERE position = ?"
    without_triggers(workspace, (swap, (-1, 0)), (swap, (0, 1)), (swap, (1, -1)))
    assert "ledger tree, level 0, position 0" in wrong(workspace)


def test_a_ledger_that_is_gone_is_named(workspace):
    workspace.ledger.unlink()
    assert wrong(workspace)["ledger.sqlite"] == "ledger: there is none"


def test_a_statement_moved_to_another_result_is_named(workspace):
    source, target = (file_of(workspace, f"results/{room}-*/statement.json") for room in ("unlearn", "evaluate"))
    target.unlink()
    target.write_bytes(source.read_bytes())
    assert target.relative_to(workspace.root).as_posix() in wrong(workspace)


def test_a_file_that_no_statement_speaks_of_is_named(workspace):
    stray = file_of(workspace, "results/evaluate-*/report") / "more.csv"
    stray.write_text("1")
    other = file_of(workspace, "releases/digits/1-*") / "adapter.bin"
    other.write_text("1")
    assert {path.relative_to(workspace.root).as_posix() for path in (stray, other)} <= wrong(workspace).keys()


def test_current_pointing_elsewhere_is_named(workspace):
    home = workspace.releases / "digits"
    shutil.copytree(home / "current", home / "2-planted")
    (home / "current").unlink()
    os.symlink("2-planted", home / "current")
    assert "serves releases/digits/2-planted" in wrong(workspace)["releases/digits/current"]


def test_a_model_taken_out_of_service_without_a_word_is_named(workspace):
    (workspace.releases / "digits" / "current").unlink()
    assert "serves nothing" in wrong(workspace)["releases/digits/current"]


def test_rollback_and_withdrawal_verify_because_they_are_signed(workspace):
    releases.withdraw(workspace, "digits", by="grace", reason="a complaint")
    assert wrong(workspace) == {}


def test_what_was_destroyed_on_purpose_is_said_to_be_and_is_not_missing(workspace):
    file = file_of(workspace, "results/evaluate-*/report/scores.csv")
    name = file.relative_to(workspace.root).as_posix()
    said = DisposalPredicate(request_id="forget-8", request_sha256="a" * 64, reason="retention ended",
                             by=OPERATOR, at="now")
    receipt = sign_statement(Statement.over({name: sha256_bytes(file.read_bytes())}, said),
                             SigningKey.load(workspace, OPERATOR))
    Ledger.open(workspace).append(receipt)
    assert wrong(workspace) == {name: "said to be destroyed (retention ended), and still there"}
    file.unlink()
    assert wrong(workspace) == {}
    assert f"{name}: destroyed: retention ended" in messages(workspace)


def test_a_result_under_another_results_statement_is_named(workspace):
    folder = file_of(workspace, "results/evaluate-*/report").parent
    shutil.copytree(folder, folder.with_name("evaluate-0000-1"))
    assert wrong(workspace) == {"results/evaluate-0000-1/statement.json": "it speaks of another result"}


def test_a_result_that_did_not_get_into_the_ledger_is_mentioned_and_checked_too(workspace, tmp_path, monkeypatch):
    from components.gate.step import gate

    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(workspace.root))
    monkeypatch.setenv(RUN_VARIABLE, "forget-8.2")
    run = FinishedRun(workspace, name="forget-8.2").make()
    kept = gate(**run.evidence, verdict=tmp_path / "verdict", statement=tmp_path / "statement.json")
    assert f"results/{kept.folder.name}/statement.json: not in the ledger" in messages(run.workspace)
    assert wrong(run.workspace) == {}
    flip(kept.folder / "verdict" / "record.json", 5)
    assert wrong(run.workspace) == {f"results/{kept.folder.name}/verdict/record.json": "not what was signed"}


def test_a_keyring_that_lost_the_operator_verifies_nothing(workspace):
    workspace.keyring.unlink()
    assert len(wrong(workspace)) > 5


def test_a_result_is_not_reused_under_another_results_statement(workspace):
    source, target = (file_of(workspace, f"results/{room}-*/statement.json").parent for room in ("unlearn", "evaluate"))
    verify_result(workspace, target)
    (target / "statement.json").unlink()
    (target / "statement.json").write_bytes((source / "statement.json").read_bytes())
    with pytest.raises(DoesNotVerify, match="speaks of other files"):
        verify_result(workspace, target)
