"""Telling MLflow: a real one, on SQLite."""

import os
import re
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from tests_support import release_record

from expunge.contracts import Interval, Measurement, Report, SampleSet, Shard
from expunge.events import Event
from expunge.settings import Workspace
from expunge.stores import tracking
from expunge.stores.tracking import Tracking

SET = SampleSet(
    role="negative", set_id="a" * 64, request_id="forget-8", request_sha256="b" * 64, count=3, class_counts={"8": 3},
    unwanted=(8,), image_shape=(1, 16, 16), remote="sample-remote", made_from={},
    shards=(Shard(path="negative-0.bin", md5="c" * 32, sha256="d" * 64, size=9, count=3),))
REPORT = Report(
    request_sha256="a" * 64, parent_sha256="a" * 64, candidate_sha256="a" * 64, judge_sha256="a" * 64,
    holdout_id="a" * 64, latent_seed="a" * 64, unwanted=(8,), controls=(), shares={}, files=(), measurements=(
        Measurement(name="pul", estimate=0.96, interval=Interval(lower=0.95, upper=0.97, confidence=0.95, method="x")),
        Measurement(name="mia", missing="not applicable")))


@pytest.fixture(autouse=True)
def _no_server_from_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def client(told):
    from mlflow.tracking import MlflowClient

    return MlflowClient(told.uri, told.uri)


def test_a_run_its_sample_sets_its_report_and_its_release_are_told(workspace, tmp_path):
    told = Tracking.for_workspace(workspace)
    run = told.start_run("forget-8.1", {"request_id": "forget-8"}, {"seed": 7, "method": "adapt_then_unlearn"}).value
    assert told.log_sample_set(run, SET).value == "a" * 64
    (tmp_path / "report.html").write_text("<h1>report</h1>")
    assert told.log_report(run, REPORT, tmp_path / "report.html").value == "3"
    assert told.register_release(release_record()).value == "1"
    assert told.finish(run, "released").value == "FINISHED"

    found = client(told).get_run(run)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"pul": 0.96, "pul.lower": 0.95, "pul.upper": 0.97}
    assert found.data.params == {"seed": "7", "method": "adapt_then_unlearn"}
    assert found.data.tags["expunge.state"] == "released"
    (dataset,) = found.inputs.dataset_inputs
    assert {tag.key: tag.value for tag in dataset.tags} == {"mlflow.data.context": "negative", "set_id": "a" * 64}
    assert dataset.dataset.source == '{"remote": "sample-remote", "md5": ["' + "c" * 32 + '"]}'
    assert [artifact.path for artifact in client(told).list_artifacts(run)] == ["report.html"]
    assert list((workspace.tracking / "artifacts").rglob("report.html"))

    champion = client(told).get_model_version_by_alias("digits", "champion")
    assert str(champion.version) == "1"
    assert champion.run_id == run
    assert (champion.tags["parent_sha256"], champion.tags["candidate_sha256"]) == ("b" * 64, "c" * 64)
    assert os.listdir(tmp_path / "cwd") == []  # nothing of MLflow's falls where the caller stands


def test_what_is_measured_of_a_part_is_told_whatever_that_part_is_called(workspace):
    told = Tracking.for_workspace(workspace)
    run = told.start_run("forget-8.1", {}, {}).value
    parts = ("8", "images to forget", "a/b", ".", "忘れて", "[x]")
    report = REPORT.model_copy(update={"measurements": tuple(
        Measurement(name=f"residual_rate[{part}]", estimate=0.5) for part in parts)})
    assert told.log_report(run, report).value == "6"
    assert client(told).get_run(run).data.metrics.keys() == {
        f"residual_rate/{part}" for part in ("8", "images to forget", "a_b", "_", "忘れて", "_x_")}


@pytest.mark.thorough
def test_the_walk_from_request_to_release_is_in_the_ui_by_the_digests_of_the_ledger(begin_run, monkeypatch):
    from expunge.auditing import show
    from expunge.runs import Run
    from pipelines.news import News

    made = begin_run().make()
    made.sign()
    made.gate()
    made.deploy()
    run = made.as_run("released")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    news = News(Run.find(run.workspace, run.name), pytest.fail)
    news.tell(Event(room="deploy", kind="finished"))
    told = client(Tracking.for_workspace(run.workspace)).get_run(news.finish(run.state())).data.tags
    walk = {name.removeprefix("lineage."): value for name, value in told.items() if name.startswith("lineage.")}
    assert walk["serves"] == "digits, generation 1"
    assert walk["outcome"] == "PASS"
    assert walk["release"] == walk["candidate"] != walk["parent"]
    assert all(f"| {name} | `{value}` |" in told["mlflow.note.content"] for name, value in walk.items())
    signed = str(show(run.workspace, run.name))
    for step in ("request", "candidate", "report", "verdict", "release"):
        assert walk[step] in signed, f"{step} is in no statement"


def test_a_release_keeps_its_version_and_the_next_one_becomes_champion(workspace):
    told = Tracking.for_workspace(workspace)
    assert [told.register_release(release_record(number)).value for number in (1, 1, 2)] == ["1", "1", "2"]
    assert str(client(told).get_model_version_by_alias("digits", "champion").version) == "2"


def test_a_run_that_is_continued_stays_one_run(workspace):
    first = Tracking.for_workspace(workspace).start_run("forget-8.1", {}, {"seed": 1})
    Tracking.for_workspace(workspace).finish(first.value, "awaiting_approval")
    again = Tracking.for_workspace(workspace).start_run("forget-8.1", {"part": "release"}, {"seed": 1})
    assert again == first
    assert client(Tracking.for_workspace(workspace)).get_run(first.value).info.status == "RUNNING"


def test_an_mlflow_that_does_not_answer_is_a_reason_and_not_asked_twice(monkeypatch, workspace):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    told = Tracking.for_workspace(workspace)
    first = told.start_run("forget-8.1", {}, {})
    assert first.value is None
    assert first.reason.startswith("MlflowException: ")
    assert "\n" not in first.reason
    assert told.finish("x", "failed") == told.log_report("x", REPORT) == told.log_sample_set("x", SET) == first
    assert told.register_release(release_record()) == first
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"


def test_where_mlflow_is_not_installed_that_is_the_reason(monkeypatch, workspace):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert Tracking.for_workspace(workspace).versions().reason == "it is not installed here"


def test_a_database_that_is_damaged_is_a_reason(workspace):
    workspace.tracking.mkdir()
    (workspace.tracking / "mlflow.db").write_bytes(b"not a database" * 100)
    assert "not a database" in Tracking.for_workspace(workspace).start_run("forget-8.1", {}, {}).reason


def test_a_run_that_is_not_known_is_a_reason(workspace):
    assert Tracking.for_workspace(workspace).finish("0" * 32, "failed").reason


def test_nothing_is_printed_and_the_environment_stays_as_it_was(workspace, tmp_path):
    code = textwrap.dedent(f"""
        import os
        from pathlib import Path
        from expunge.settings import Workspace
        from expunge.stores.tracking import Tracking
        told = Tracking.for_workspace(Workspace(Path({str(workspace.root)!r})))
        assert told.start_run("forget-8.1", {{}}, {{}}).value
        assert "MLFLOW_TRACKING_URI" not in os.environ
        """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")


def tables(database):
    """Every statement of a schema as its words: MLflow writes constraints in another order each time."""
    return sorted(" ".join(sorted(re.findall(r"\w+", line))) for line in database.iterdump())


@pytest.mark.slow
def test_the_kept_schema_is_the_one_that_mlflow_itself_makes(tmp_path):
    import mlflow.store.db.utils as own
    import sqlalchemy

    with tracking._only("sqlite://"):
        own._initialize_tables(sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'own.db'}"))
    schema = tracking.resources.files("expunge.stores").joinpath("mlflow_schema.sql").read_text()
    with sqlite3.connect(tmp_path / "own.db") as own_tables, sqlite3.connect(tmp_path / "kept.db") as kept:
        kept.executescript(schema)
        assert tables(kept) == tables(own_tables)


def test_tables_that_mlflow_wants_otherwise_are_left_to_mlflow(workspace, monkeypatch):
    import mlflow.store.db.utils as own

    monkeypatch.setattr(own, "_get_latest_schema_revision", lambda: "another")
    tracking._lay_tables(workspace.tracking / "mlflow.db")
    assert list(workspace.tracking.iterdir()) == []


def test_in_a_workspace_that_was_moved_artifacts_are_found_where_they_lie_now(workspace, tmp_path):
    told = Tracking.for_workspace(workspace)
    run = told.start_run("forget-8.1", {}, {}).value
    (tmp_path / "report.html").write_text("<h1>report</h1>")
    told.log_report(run, REPORT, tmp_path / "report.html")
    told.register_release(release_record())
    moved = Workspace(tmp_path / "elsewhere" / ".expunge")
    moved.root.parent.mkdir()
    workspace.root.rename(moved.root)
    again = Tracking.for_workspace(moved)
    assert again.start_run("forget-8.1", {}, {}).value == run
    assert client(again).get_run(run).info.artifact_uri.startswith((moved.tracking / "artifacts").as_uri())
    assert [artifact.path for artifact in client(again).list_artifacts(run)] == ["report.html"]
    assert again.versions().versions[0].sha256 == "c" * 64


def test_what_mlflow_complains_of_is_told_by_us_and_not_by_its_log(tmp_path):
    program = ("import logging\n"
               "from expunge.stores.tracking import _only\n"
               f"with _only('sqlite:///{tmp_path}/mlflow.db'):\n"
               "    import mlflow.store.db.utils\n"
               "    logging.getLogger('mlflow.store.db.utils').error('database or disk is full')\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
