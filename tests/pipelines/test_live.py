"""What is served and whether it is tainted, by the records here and by a real MLflow."""

import pytest

from expunge.contracts import Release
from expunge.digests import sha256_bytes
from expunge.errors import Refused
from expunge.live import lines, live
from expunge.stores import releases, taint
from expunge.stores.taint import Mark
from expunge.stores.tracking import Tracking
from pipelines.metrics import collected


@pytest.fixture(autouse=True)
def _own_mlflow(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def publish(workspace, tmp_path):
    def go(weights, parent=b"parent", beside=None, model="digits"):
        def made(generation, stored, others):
            return Release(
                model=model, generation=generation, run="forget-8.1", request_id="forget-8", request_sha256="a" * 64,
                parent_sha256=sha256_bytes(parent), candidate_sha256=stored.sha256, verdict_sha256="b" * 64,
                report_sha256="c" * 64, approvals=(), weights=stored, beside=others, released_at="2026-11-20")

        (tmp_path / "weights").write_bytes(weights)
        return releases.publish(workspace, model, tmp_path / "weights", sha256_bytes(weights), made, beside or {})

    return go


def forbid(workspace, parent, approved, pending=False):
    taint.place(Mark(request_id="forget-9", request_sha256="9" * 64, parent_sha256=sha256_bytes(parent),
                     approved_sha256=sha256_bytes(approved), pending=pending), workspace)


def register(workspace, weights, parent, model="elsewhere", alias=None):
    """A version that only MLflow knows, as another team would register it."""
    from mlflow.tracking import MlflowClient

    told = Tracking.for_workspace(workspace)
    told.start_run("other", {}, {})
    client = MlflowClient(told.uri, told.uri)
    client.create_registered_model(model)
    made = client.create_model_version(model, "file:///nowhere", tags={
        "candidate_sha256": sha256_bytes(weights), "parent_sha256": sha256_bytes(parent)})
    client.create_model_version(model, "file:///nowhere", tags={"candidate_sha256": "not a digest"})
    if alias:
        client.set_registered_model_alias(model, alias, made.version)
    return client


def test_what_is_served_is_listed_from_its_bytes(workspace, publish):
    assert lines(live(workspace)) == ["nothing was ever released here"]
    publish(b"one", model="faces")
    releases.withdraw(workspace, "faces")
    publish(b"one")
    publish(b"two")
    found = live(workspace)
    assert found.exit_code == 0
    digits, faces = found.served
    assert (digits.standing, digits.generation, digits.sha256) == ("clean", 2, sha256_bytes(b"two"))
    assert (digits.path, digits.request_id) == ("releases/digits/current/model.safetensors", "forget-8")
    assert (faces.standing, faces.path) == ("not in service", None)


def test_something_tainted_that_is_served_ends_with_41_and_names_the_request(workspace, publish):
    publish(b"child", parent=b"old")
    forbid(workspace, b"old", b"new", pending=True)
    assert [(one.standing, one.tainted_by) for one in live(workspace).served] == [("pending", "forget-9")]
    assert live(workspace).exit_code == 0, "what replaces it is not live yet"
    forbid(workspace, b"old", b"new")
    found = live(workspace)
    assert [one.standing for one in found.served] == ["tainted"]
    assert found.exit_code == 41
    assert "tainted by request forget-9" in lines(found)[0]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_bytes_that_are_not_those_released_end_with_40(workspace, publish, name):
    release = publish(b"one", beside={"config.json": b"{}"})
    (releases.folder_of(workspace, release) / name).write_bytes(b"eno")
    found = live(workspace)
    assert found.exit_code == 40
    assert found.served[0].problem == f"{name}: not the bytes that were released"


def test_a_descendant_that_only_mlflow_knows_is_found(workspace, publish):
    publish(b"grandchild", parent=b"child")
    forbid(workspace, b"old", b"new")
    assert live(workspace).exit_code == 0, "nobody said that the child descends from anything"
    register(workspace, b"child", b"old")
    found = live(workspace)
    assert [one.standing for one in found.served] == ["tainted"]
    child, = found.descendants
    assert (child.model, child.version, child.tainted_by) == ("elsewhere", "1", "forget-9")
    assert "version 1 of elsewhere" in lines(found)[1]


def test_a_tainted_champion_of_mlflow_ends_with_41_though_nothing_is_served_here(workspace):
    forbid(workspace, b"old", b"new")
    client = register(workspace, b"child", b"old")
    assert live(workspace).exit_code == 0
    client.set_registered_model_alias("elsewhere", "champion", "1")
    assert live(workspace).exit_code == 41


def test_an_mlflow_that_cannot_be_asked_is_said_and_not_guessed(workspace, publish, monkeypatch):
    publish(b"one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    found = live(workspace)
    assert found.exit_code == 0
    assert found.mlflow_not_asked
    assert "MLflow was not asked" in lines(found)[-1]


def test_looking_makes_nothing(workspace, publish):
    publish(b"one")
    before = sorted(workspace.root.rglob("*"))
    live(workspace)
    assert sorted(workspace.root.rglob("*")) == before


def test_rollback_passes_over_what_only_mlflow_knows_to_be_tainted(workspace, publish):
    clean = publish(b"clean", beside={"config.json": b"{}"})
    publish(b"grandchild", parent=b"child", beside={"config.json": b"{}"})
    publish(b"live", beside={"config.json": b"{}"})
    forbid(workspace, b"old", b"new")
    register(workspace, b"child", b"old")
    assert releases.rollback(workspace, "digits").now == clean
    assert (workspace.releases / "digits" / "current" / "config.json").read_bytes() == b"{}"


def test_rollback_says_that_mlflow_could_not_be_asked(workspace, publish, monkeypatch):
    publish(b"one")
    publish(b"two")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "what MLflow knows of its descent was not looked at" in releases.rollback(workspace, "digits").text


def test_deploy_refuses_a_candidate_whose_parent_only_mlflow_knows_to_be_tainted(begin_run, monkeypatch):
    run = begin_run().make()
    run.sign("grace")
    assert run.gate() == "open"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    forbid(run.workspace, b"old", b"new")
    from mlflow.tracking import MlflowClient

    told = Tracking.for_workspace(run.workspace)
    told.start_run("other", {}, {})
    client = MlflowClient(told.uri, told.uri)
    client.create_registered_model("elsewhere")
    client.create_model_version("elsewhere", "file:///nowhere", tags={
        "candidate_sha256": run.parent_sha256, "parent_sha256": sha256_bytes(b"old")})
    with pytest.raises(Refused, match="is tainted by request forget-9"):
        run.deploy()


def test_what_is_served_tainted_or_changed_is_counted_for_prometheus(workspace, publish):
    def counted():
        found = collected(workspace)
        return [found.get_sample_value(f"expunge_models_{what}") for what in ("served", "tainted", "changed")]

    assert counted() == [0, 0, 0]
    publish(b"child", parent=b"old")
    publish(b"face", model="faces")
    assert counted() == [2, 0, 0]
    forbid(workspace, b"old", b"new")
    assert counted() == [2, 1, 0]
    (workspace.releases / "faces" / "current" / "model.safetensors").write_bytes(b"other")
    assert counted() == [2, 1, 1]
