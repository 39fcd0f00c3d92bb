"""What a workspace keeps and why, what goes, and that the evidence still adds up afterwards."""

import fcntl
import json
import os
import shutil

import pytest
from tests_support import put

from expunge.auditing import show
from expunge.contracts import RECORD_FILE
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import RoomPredicate, Statement, open_statement, sign_statement
from expunge.evidence.verify import verify_workspace
from expunge.runs import Run
from expunge.settings import Workspace
from pipelines import keeping
from pipelines.summary import summarise


@pytest.fixture
def done(copy_of_demo):
    """A workspace whose run is released."""
    return Workspace(copy_of_demo / ".expunge")


def wrong(workspace):
    return [(found.object, found.message) for found in verify_workspace(workspace) if not found.ok]


def fates(workspace):
    return {item.path: item.fate for item in keeping.survey(workspace)}


def supersede(workspace, room="evaluate", recorded=True):
    """A second result of a room, as a changed step leaves it: signed, in the ledger, named by no run."""
    folder, = workspace.results.glob(f"{room}-*-1")
    other = folder.with_name(f"{room}-{'0' * 16}-1")
    shutil.copytree(folder, other)
    said, _ = open_statement((folder / "statement.json").read_bytes(), Keyring.load(workspace), RoomPredicate)
    moved = Statement.over({name.replace(folder.name, other.name): digest for name, digest in said.subjects.items()
                            if (workspace.root / name).exists()}, said.predicate)
    envelope = sign_statement(moved, SigningKey.load(workspace, OPERATOR))
    (other / "statement.json").write_bytes(envelope)
    if recorded:
        Ledger.open(workspace).append(envelope)
    return other


def tree(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_finished_workspace_has_nothing_to_remove_but_superseded_results(done):
    gone = {item.path for item in keeping.survey(done) if item.fate != "kept"}
    assert not gone
    assert {item.kind for item in keeping.survey(done)} >= {"result", "run", "release", "approval", "ledger", "samples"}


def test_looking_changes_nothing(done, expunge):
    supersede(done)
    before = tree(done.root)
    found = expunge(done.root.parent, "gc", "--json")
    assert found.code == 0, found.err
    assert found.json["bytes"]["removable"] > 0
    assert tree(done.root) == before


def test_every_kept_result_says_which_run_needs_it(done):
    for item in keeping.survey(done):
        if item.kind == "result":
            assert item.why in ("needed by forget-8.1", "needed by the trail of forget-8.1")


def test_a_superseded_result_goes_and_is_accounted_for(done, expunge):
    other = supersede(done)
    assert wrong(done) == []
    assert fates(done)[f"results/{other.name}"] == "removable"
    removed = expunge(done.root.parent, "gc", "--remove", "--json")
    assert removed.code == 0, removed.err
    assert f"results/{other.name}" in {item["path"] for item in removed.json["items"]}
    assert {path.name for path in other.rglob("*") if path.is_file()} == {"statement.json", RECORD_FILE}
    assert wrong(done) == []
    notes = [found.message for found in verify_workspace(done) if other.name in found.object]
    assert any("destroyed: no run needs it" in note for note in notes)


def test_status_trail_and_report_still_work_afterwards(done):
    run = Run.find(done, "forget-8")
    before = summarise(run)
    supersede(done)
    keeping.remove(done)
    after = summarise(run)
    assert {**after, "ledger": None} == {**before, "ledger": None}
    assert len(show(done, "forget-8")["entries"]) >= 7
    assert run.page.exists()


def test_a_second_removal_finds_nothing(done):
    supersede(done)
    keeping.remove(done)
    size = Ledger.open(done).size
    assert keeping.remove(done) == ()
    assert Ledger.open(done).size == size


def test_a_result_that_the_ledger_does_not_know_goes_as_a_whole(done):
    other = supersede(done, recorded=False)
    keeping.remove(done)
    assert not other.exists()
    assert wrong(done) == []


def test_what_was_cut_off_between_signing_and_removing_is_finished_the_next_time(done, monkeypatch):
    other = supersede(done)
    unlink = type(other).unlink

    def cut_off(path, *arguments, **named):
        if other in path.parents:
            raise KeyboardInterrupt
        return unlink(path, *arguments, **named)

    monkeypatch.setattr(type(other), "unlink", cut_off)
    with pytest.raises(KeyboardInterrupt):
        keeping.remove(done)
    monkeypatch.undo()
    assert any("said to be destroyed" in message for _, message in wrong(done))
    size = Ledger.open(done).size
    keeping.remove(done)
    assert wrong(done) == []
    assert Ledger.open(done).size == size, "it is not signed twice"


def test_evidence_of_tampering_stays_until_it_is_asked_for_by_name(done):
    other = supersede(done)
    file = other / "report" / "scores.parquet"
    file.write_bytes(file.read_bytes() + b"x")
    assert fates(done)[f"results/{other.name}"] == "evidence"
    keeping.remove(done)
    assert file.exists()
    keeping.remove(done, tampered=True)
    assert not file.exists()
    assert wrong(done) == []


def test_a_tampered_statement_is_put_back_from_the_ledger_when_the_evidence_goes(done):
    other = supersede(done)
    statement = (other / "statement.json").read_bytes()
    (other / "statement.json").write_bytes(b"{}")
    assert fates(done)[f"results/{other.name}"] == "evidence"
    keeping.remove(done, tampered=True)
    assert (other / "statement.json").read_bytes() == statement
    assert wrong(done) == []


def test_the_flag_for_evidence_alone_removes_nothing(done, expunge):
    refused = expunge(done.root.parent, "gc", "--tampered")
    assert refused.code == 2
    assert refused.err.startswith("expunge: --tampered:")


def test_leftovers_of_killed_processes_go(done):
    scratch = done.results / ".evaluate-abc-1.scratch"
    kfp = done.runs / "forget-8.1" / "kfp"
    resume = done.runs / "forget-8.1" / "unlearn-0123456789abcdef.resume"
    half = done.policies / ".standard.yaml.k2j3h4.half"
    for folder in (scratch, kfp):
        folder.mkdir()
        (folder / "part").write_bytes(b"half")
    resume.write_bytes(b"sealed")
    half.write_bytes(b"half")
    names = {path.relative_to(done.root).as_posix() for path in (scratch, kfp, resume, half)}
    assert {path for path, fate in fates(done).items() if fate == "removable"} == names
    assert {item.path for item in keeping.remove(done)} == names
    assert not any(path.exists() for path in (scratch, kfp, resume, half))
    assert wrong(done) == []


def test_what_an_unfinished_run_may_go_on_from_stays(waiting):
    workspace = Workspace(waiting / ".expunge")
    run = Run.find(workspace, "forget-8")
    state = run.state()
    rooms = {name: done for name, done in state.rooms.items() if name not in ("evaluate", "gate")}
    put(run, state="cancelled", rooms=rooms)
    resume = run.folder / "unlearn-0123456789abcdef.resume"
    resume.write_bytes(b"sealed")
    digest = run.request().checkpoint.sha256
    for name in (digest, "0" * 64):
        (workspace.sources / name).mkdir(parents=True)
        (workspace.sources / name / "model.pt").write_bytes(b"fetched")
    found = fates(workspace)
    evaluated, = workspace.results.glob("evaluate-*-1")
    assert found[f"results/{evaluated.name}"] == "kept"
    assert found[resume.relative_to(workspace.root).as_posix()] == "kept"
    assert found[f"sources/{digest}"] == "kept"
    assert found[f"sources/{'0' * 64}"] == "removable"
    keeping.remove(workspace)
    assert resume.exists()
    assert evaluated.exists()
    assert (workspace.sources / digest).exists()
    assert not (workspace.sources / ("0" * 64)).exists()


def test_sample_sets_that_no_run_needs_go_from_the_remote_and_the_cache(done):
    kept = {path for path in done.sample_remote.rglob("*") if path.is_file()}
    for home in (done.sample_remote, done.samples / ".dvc" / "cache"):
        stray = home / "files" / "md5" / "ab" / ("c" * 30)
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_bytes(b"EXPUNGE")
    assert sum(fate == "removable" for fate in fates(done).values()) == 2
    keeping.remove(done)
    assert {path for path in done.sample_remote.rglob("*") if path.is_file()} == kept


def test_nothing_is_removed_while_a_run_works(done, expunge):
    other = supersede(done)
    with (done.root / "supervisor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        busy = expunge(done.root.parent, "gc", "--remove", "--json")
        assert expunge(done.root.parent, "gc").code == 0, "looking waits for nobody"
    assert busy.code == 75
    assert json.loads(busy.out)["error"] == "WorkspaceBusy"
    assert (other / "report").exists()


def test_releases_decisions_keys_and_the_folders_of_runs_are_left_alone(done):
    supersede(done)
    places = [done.releases, done.approvals, done.keys, done.runs, done.keyring.parent / "taint", done.policies]
    before = [tree(place) for place in places]
    keeping.remove(done)
    assert [tree(place) for place in places] == before
    assert os.readlink(done.releases / "digits" / "current")
