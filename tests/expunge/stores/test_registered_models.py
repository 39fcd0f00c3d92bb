"""Models from MLflow's registry: a real one, on SQLite, and as a server on loopback."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests_support import mlflow_server, release_record

from expunge.contracts import ParentSource
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, ExpungeError
from expunge.settings import ROOTS_VARIABLE
from expunge.stores import releases, sources
from expunge.stores.tracking import Told, Tracking

WEIGHTS = b"some weights"


@pytest.fixture(autouse=True)
def _no_server_from_outside(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    yield
    assert not list((tmp_path / "cwd").iterdir()), "MLflow made something in the current folder"


@pytest.fixture
def registry(workspace, tmp_path):
    """Registers versions of the model `faces` in the workspace's own MLflow; each call makes the next."""
    Tracking.for_workspace(workspace).start_run("run.1", {}, {})

    def register(source=None, files=("g.safetensors",), alias=None):
        from mlflow.tracking import MlflowClient

        uri = Tracking.for_workspace(workspace).uri
        client = MlflowClient(uri, uri)
        (run,) = client.search_runs([client.get_experiment_by_name("expunge").experiment_id])
        for name in files:
            file = tmp_path / "logged" / Path(name).name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(WEIGHTS)
            folder = Path("model", name).parent
            client.log_artifact(run.info.run_id, str(file), str(folder))
        if not client.search_registered_models("name = 'faces'"):
            client.create_registered_model("faces")
        made = client.create_model_version("faces", source or f"runs:/{run.info.run_id}/model", run.info.run_id)
        if alias:
            client.set_registered_model_alias("faces", alias, made.version)
        return f"runs:/{run.info.run_id}"

    return register


def fetch(workspace, uri="models:/faces/1", sha256=None):
    return sources.model_file("checkpoint", ParentSource(uri=uri, sha256=sha256), workspace)


def test_a_version_with_one_model_file_among_others_is_that_file(workspace, registry):
    registry(files=("MLmodel", "data/g.safetensors", "requirements.txt"))
    file = fetch(workspace)
    assert file == workspace.sources / sha256_bytes(WEIGHTS) / "g.safetensors"
    assert file.read_bytes() == WEIGHTS


def test_a_version_may_be_a_plain_file_and_have_an_alias(workspace, registry):
    run = registry(files=("g.pt",))
    registry(source=f"{run}/model/g.pt", alias="best")
    assert fetch(workspace, "models:/faces@best").name == "g.pt"


def test_what_is_pinned_and_there_needs_no_registry(workspace, registry, monkeypatch):
    registry()
    file = fetch(workspace)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert fetch(workspace, sha256=sha256_bytes(WEIGHTS)) == file


def test_several_model_files_are_listed(workspace, registry):
    registry(files=("g.safetensors", "ema.safetensors"))
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: .*holds 2 model files \(ema\.safetensors, g\.safetensors\)"):
        fetch(workspace)


def test_a_version_whose_files_are_gone_is_no_empty_model(workspace, registry):
    registry()
    shutil.rmtree(workspace.tracking / "artifacts")
    with pytest.raises(BadInput, match="no such file"):
        fetch(workspace)


def test_our_own_release_is_found_in_the_workspace(begin_run, monkeypatch):
    run = begin_run().release()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    release = releases.current(run.workspace, "digits")
    assert Tracking.for_workspace(run.workspace).register_release(release).value == "1"
    for uri in ("models:/digits/1", "models:/digits@champion"):
        assert fetch(run.workspace, uri).read_bytes() == run.weights
    shutil.rmtree(releases.folder_of(run.workspace, release))
    with pytest.raises(BadInput, match="MLflow has no copy of its weights"):
        fetch(run.workspace, "models:/digits/1")


@pytest.mark.parametrize(("uri", "said"), [
    ("models:/faces/9", "no version 9 of a model 'faces'"), ("models:/hands/1", "no version 1 of a model 'hands'"),
    ("models:/faces@best", "no alias 'best' of a model 'faces'"), ("models:/hands@best", "no alias 'best' of a model 'hands'"),
])
def test_what_is_not_registered_is_named(workspace, registry, uri, said):
    registry()
    with pytest.raises(BadInput, match=rf"^checkpoint\.uri: {said} is registered in MLflow at sqlite:"):
        fetch(workspace, uri)


@pytest.mark.parametrize("uri", ["models:/", "models:/faces", "models:/faces/latest", "models:/faces/1/2", "models://faces/1",
                                 "models:/m-1234567890", "models:/faces@"])
def test_what_names_no_version_is_turned_away_unasked(workspace, uri):
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: .*names no registered version: write models:/name/1"):
        fetch(workspace, uri)
    assert not workspace.tracking.exists()


def test_the_registry_is_no_way_around_the_allowed_folders(workspace, registry, monkeypatch, tmp_path):
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    registry(source=(tmp_path / "secret.safetensors").as_uri())
    registry()
    assert fetch(workspace).read_bytes() == b"secret"
    monkeypatch.setenv(ROOTS_VARIABLE, str(tmp_path / "models"))
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: .*secret\.safetensors: is outside of the allowed folders"):
        fetch(workspace)
    assert fetch(workspace, "models:/faces/2").read_bytes() == WEIGHTS


def test_a_server_that_does_not_answer_is_no_fault_of_the_request_and_its_password_is_not_shown(workspace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:hidden@127.0.0.1:9")
    with pytest.raises(ExpungeError, match=r"no usable answer in MLflow at http://127\.0\.0\.1:9 .*: check MLFLOW") as caught:
        fetch(workspace)
    assert caught.value.exit_code == 1
    assert "hidden" not in str(caught.value)
    assert "hidden" not in Tracking.for_workspace(workspace).start_run("run.1", {}, {}).reason


def test_a_server_that_wants_to_know_who_asks_says_so(workspace, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asked = subprocess.Popen([sys.executable, "-c", f"""
import http.server, socket
class Door(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(401)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Door, bind_and_activate=False)
server.socket = socket.socket(fileno={listening.fileno()})
server.serve_forever()
"""], pass_fds=[listening.fileno()])
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.getsockname()[1]}")
        try:
            with pytest.raises(BadInput, match=r"access denied in MLflow at .*: set MLFLOW_TRACKING_USERNAME"):
                fetch(workspace)
        finally:
            asked.kill()
            asked.wait()


@pytest.mark.slow
def test_a_real_server_hands_out_what_it_holds_takes_a_release_and_says_nothing_on_our_output(
        workspace, registry, monkeypatch, tmp_path, capsys):
    registry(files=("data/g.safetensors",))
    with mlflow_server(workspace.tracking / "mlflow.db", str(tmp_path / "artifacts"), tmp_path) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        # What the server itself keeps is fetched over HTTP, not from its disk.
        from mlflow.tracking import MlflowClient

        client = MlflowClient(address)
        run = client.create_run(client.create_experiment("elsewhere"))
        (tmp_path / "h.safetensors").write_bytes(WEIGHTS * 2)
        client.log_artifact(run.info.run_id, str(tmp_path / "h.safetensors"), "model")
        client.create_registered_model("hands")
        client.create_model_version("hands", f"{run.info.artifact_uri}/model", run.info.run_id)
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
        assert fetch(workspace, "models:/hands/1").read_bytes() == WEIGHTS * 2
        assert fetch(workspace).read_bytes() == WEIGHTS
        with pytest.raises(BadInput, match="no version 9"):
            fetch(workspace, "models:/hands/9")
        told = Tracking.for_workspace(workspace)
        release = release_record()
        started = told.start_run(release.run, {}, {})
        assert [told.register_release(release) for _ in range(2)] == [Told("1")] * 2
        assert told.finish(started.value, "released") == Told("FINISHED")
        assert client.get_model_version_by_alias("digits", "champion").run_id == started.value
        assert capsys.readouterr().out == "", "standard output is ours"
