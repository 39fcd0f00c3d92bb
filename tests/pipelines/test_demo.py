"""The main job, as a new user sees it."""

import hashlib
import sqlite3
from pathlib import Path

from expunge.contracts import Release, read_record

NUMBERS = {"estimate", "lower", "upper", "n"}


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_demo_prints_one_object_with_all_that_was_promised(demo):
    found = demo[1].json
    assert found["verdict"] == "PASS"
    assert found["state"] == "released"
    assert found["forgotten"] == [8]
    assert found["pul"].keys() >= NUMBERS
    assert found["residual_rate"].keys() >= NUMBERS
    assert found["fid"].keys() == {"before", "after", "floor", "extractor_sha256"}
    assert found["kid"].keys() == {"before", "after", "difference"}
    assert set(found["seconds"]) == {"fetch_checkpoint", "curate_forget_set", "adapt", "unlearn", "evaluate", "gate",
                                     "deploy", "total"}
    assert found["samples"].keys() == {"remote", "md5", "forget_count"}
    assert found["mlflow"].keys() == {"tracking_uri", "run_id", "model_version"}
    assert all(found["mlflow"].values())
    assert 0 < found["overhead_seconds"] < found["seconds"]["total"]
    assert 0 <= found["residual_rate"]["lower"] <= found["residual_rate"]["estimate"] <= found["residual_rate"]["upper"] < 1


def test_the_released_file_is_the_approved_candidate_and_not_the_parent(demo):
    done = demo[1]
    release = done.json["release"]
    assert sha256(release["path"]) == release["sha256"] != release["parent_sha256"]
    record = read_record(Release, Path(release["path"]).parent / "release.json")
    assert record.candidate_sha256 == release["sha256"]
    assert done.json["approval"]["by"] == "grace"
    assert done.json["approval"]["requester"] == "ada"


def test_the_requester_was_refused_and_a_second_person_signed(demo):
    assert "ada tries to approve: approve: ada made this request: somebody else must sign" in demo[1].err
    assert "grace has looked at the report and signs" in demo[1].err


def test_every_room_has_its_line(demo):
    for title in ("fetch checkpoint", "curate forget set", "adapt", "unlearn", "evaluate", "gate", "deploy"):
        assert f"✓ {title}" in demo[1].err


def test_the_audit_trail_verifies_and_the_ledger_has_the_size_that_was_printed(demo, expunge):
    folder, done = demo
    verified = expunge(folder, "audit", "verify", "--json")
    assert verified.code == 0, verified.out
    assert verified.json["wrong"] == []
    size = done.json["ledger"]["size"]
    assert verified.json["checked"] > 2 * size, "every entry and every checkpoint, and the files besides"
    assert len(expunge(folder, "audit", "log", "--json").json) == size


def test_mlflow_knows_the_lineage_and_serves_the_champion(demo):
    import mlflow

    found = demo[1].json
    client = mlflow.MlflowClient(found["mlflow"]["tracking_uri"], found["mlflow"]["tracking_uri"])
    version = client.get_model_version_by_alias("digits", "champion")
    assert str(version.version) == found["mlflow"]["model_version"]
    assert version.tags["candidate_sha256"] == found["release"]["sha256"]
    assert version.tags["parent_sha256"] == found["release"]["parent_sha256"]
    run = client.get_run(found["mlflow"]["run_id"])
    inputs = {tag.value for used in run.inputs.dataset_inputs for tag in used.tags if tag.key == "mlflow.data.context"}
    assert inputs == {"negative", "positive", "holdout"}
    assert run.data.metrics["residual_rate"] == found["residual_rate"]["estimate"]


def test_no_adapted_model_and_no_resumable_state_outlives_the_run(demo):
    folder = demo[0]
    assert not list(folder.rglob("tensors.sealed"))
    assert not list(folder.rglob("*.resume"))
    assert not list(folder.glob(".expunge/runs/*/kfp"))


def test_nothing_of_the_forgotten_lies_in_the_open(demo):
    """No image, plain digest of one, or name of a sample in logs, MLflow, the ledger or the statements."""
    workspace = demo[0] / ".expunge"
    remote = workspace / "sample-remote"
    for file in [file for file in remote.rglob("*") if file.is_file()]:
        assert file.read_bytes()[:7] == b"EXPUNGE"
    for place in ("runs", "mlflow"):
        for file in (workspace / place).rglob("*"):
            if file.is_file() and file.suffix != ".html":
                assert b"\x89PNG" not in file.read_bytes(), file
                assert b"PAR1" not in file.read_bytes(), file
    with sqlite3.connect(workspace / "ledger.sqlite") as ledger:
        assert b"PNG" not in b"".join(row[0] for row in ledger.execute("select envelope from entries"))


def test_the_report_is_one_page_that_needs_no_network(demo):
    page = Path(demo[1].json["report"]).read_text()
    assert "PASS" in page
    assert "<script" not in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert len(page) < 3_000_000


def test_a_folder_that_holds_something_is_left_alone(expunge, tmp_path):
    (tmp_path / "mine").write_text("precious")
    done = expunge(tmp_path, "demo", "--folder", tmp_path)
    assert done.code == 2
    assert done.err.startswith("expunge: folder:")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
