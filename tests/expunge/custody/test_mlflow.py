"""What MLflow keeps elsewhere is looked through: on S3, behind a real server, as far as it can be reached."""

import tempfile
from pathlib import Path

import pytest
from planting import PLANTS, plant
from tests_support import mlflow_server

from expunge.custody.places import Artifacts, Folder, kept_by
from expunge.custody.searchers import searchers
from expunge.custody.sweeping import sweep
from expunge.errors import ExpungeError
from expunge.samples.encryption import RequestKey
from expunge.stores.addresses import scheme
from expunge.stores.tracking import Tracking

KNOWN = searchers(RequestKey("r", b"r" * 32))


@pytest.fixture
def elsewhere(tmp_path):
    """The address of an MLflow that is no workspace's own; it knows one run, which left nothing."""
    address = f"sqlite:///{tmp_path}/mlflow.db"
    assert Tracking(address, tmp_path).start_run("before", {}, {}).value  # lays the tables, which takes MLflow longer
    return address


def kept(tracking):
    stores = tracking.stores()
    assert stores.reason == ""
    return [place for store in stores.uris if (place := kept_by(tracking, store))]


def leave_in_runs(address, folder, location):
    """Logs what lies in a folder to a run, and to one that is deleted afterwards; names of what should be found."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(address)
    experiment = client.create_experiment("pictures", artifact_location=location)
    for number in range(2):
        run = client.create_run(experiment).info
        client.log_artifacts(run.run_id, str(folder), "old ones" if number else None)
        if number:
            client.delete_run(run.run_id)
    return {name for name, _ in PLANTS.values()}


def copies(found):
    return sorted(Path(one.path).name for one in found.found if one.copies)


def test_what_runs_and_deleted_runs_left_on_s3_is_found_and_nothing_stays_here(
        bucket, pixels, wanted, tmp_path, elsewhere, monkeypatch):
    plant(tmp_path / "here", pixels)
    names = leave_in_runs(elsewhere, tmp_path / "here", "s3://faces/mlflow")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    tracking = Tracking(elsewhere, None)
    place, = kept(tracking)
    assert isinstance(place, Artifacts)
    assert place.name == "MLflow: s3://faces/mlflow"
    assert copies(sweep([place], wanted, KNOWN)) == sorted([*names, *names])
    assert not list((tmp_path / "temporary").iterdir())


def test_a_store_that_does_not_answer_or_lies_on_another_machine_is_told(bucket, tmp_path, elsewhere):
    tracking = Tracking(elsewhere, None)
    with pytest.raises(ExpungeError, match="nothing is at s3://nowhere/mlflow in MLflow at sqlite:"):
        kept_by(tracking, "s3://nowhere/mlflow")
    lying, = Artifacts("x", tracking, "s3://nowhere/mlflow").files()
    assert lying.why.startswith("cannot be listed (nothing is at s3://nowhere/mlflow")
    with pytest.raises(ExpungeError, match="a folder of the server's own"):
        kept_by(Tracking("http://127.0.0.1:9", None), "file:///srv/mlruns/1")
    assert kept_by(tracking, f"{tmp_path}/never-written") is None
    stores = Tracking("http://ada:hidden@127.0.0.1:9", None).stores()
    assert stores.uris == ()
    assert "127.0.0.1" in stores.reason
    assert "hidden" not in stores.reason


def test_a_folder_that_mlflow_keeps_on_this_machine_is_a_folder(pixels, wanted, tmp_path, elsewhere):
    plant(tmp_path / "here", pixels)
    names = leave_in_runs(elsewhere, tmp_path / "here", (tmp_path / "mlruns").as_uri())
    place, = kept(Tracking(elsewhere, None))
    assert isinstance(place, Folder)
    assert copies(sweep([place], wanted, KNOWN)) == sorted([*names, *names])


@pytest.mark.slow
def test_what_a_server_hands_out_itself_is_found(pixels, wanted, tmp_path, elsewhere):
    plant(tmp_path / "here", pixels)
    with mlflow_server(tmp_path / "mlflow.db", str(tmp_path / "store"), tmp_path) as address:
        names = leave_in_runs(address, tmp_path / "here", None)
        tracking = Tracking(address, None)
        store, = (store for store in tracking.stores().uris if scheme(store) == "mlflow-artifacts")
        found = sweep([kept_by(tracking, store)], wanted, KNOWN)
    assert copies(found) == sorted([*names, *names])
    assert found.swept[0].place == "MLflow: mlflow-artifacts:/2"
    assert not [text for one in found.found for text in one.unread if "fetched" in text]
