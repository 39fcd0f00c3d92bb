"""`doctor` on sound workspaces and on broken ones: what it finds, what it advises, and what it never says."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tests_support import put

from expunge.evidence import policies
from expunge.evidence.keys import create_key
from expunge.measure.policy import preset_bytes
from expunge.runs import Run
from expunge.settings import Workspace
from pipelines.doctor import examine


@pytest.fixture
def closed_port():
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def of(checks, name):
    return [check for check in checks if check.name == name]


def only(checks, name):
    found, = of(checks, name)
    return found


def hash_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_fresh_workspace_is_healthy_and_every_line_says_what_was_found(workspace):
    checks = examine(workspace)
    assert {check.level for check in checks} <= {"ok", "warn"}
    assert all(check.found for check in checks)
    assert all(check.remedy for check in checks if check.level != "ok")
    assert only(checks, "reviewers").remedy == "expunge keys new NAME --role reviewer"
    assert "no DVC repository yet" in only(checks, "sample sets").found
    assert "no database yet" in only(checks, "MLflow").found


@pytest.mark.parametrize(("library", "extra"), [("transformers", "transformers"), ("diffusers", "image-to-image")])
def test_libraries_of_models_are_named_with_their_version_or_with_what_brings_them(library, extra, workspace, monkeypatch):
    from importlib import metadata

    known = metadata.version

    def only_others(version):
        def answer(name):
            if name == library and version is None:
                raise metadata.PackageNotFoundError(name)
            return version if name == library else known(name)
        monkeypatch.setattr(metadata, "version", answer)
        return only(examine(workspace), library)

    assert only_others("0.1").level == "warn"
    assert only_others("0.1").remedy == f"pip install 'expunge[{extra}]'"
    gone = only_others(None)
    assert (gone.level, gone.found) == (
        "ok", f"not installed: its models do not open; pip install 'expunge[{extra}]' brings it")
    monkeypatch.setattr(metadata, "version", known)
    there = only(examine(workspace), library)
    assert (there.level, there.found) == ("ok", known(library))


def test_looking_changes_nothing(workspace):
    before = hash_of(workspace.root)
    examine(workspace)
    assert hash_of(workspace.root) == before


def test_the_command_ends_well_and_speaks_json(expunge, tmp_path):
    assert expunge(tmp_path, "init").code == 0
    done = expunge(tmp_path, "doctor", "--json")
    assert done.code == 0, done.out
    assert done.json["healthy"] is True
    assert {"name", "level", "found", "remedy"} == set(done.json["checks"][0])


def test_outside_of_a_workspace_that_is_one_warning_with_its_remedy(expunge, tmp_path):
    done = expunge(tmp_path, "doctor")
    assert done.code == 0, done.err
    warnings = [line for line in done.out.splitlines() if line.startswith("!")]
    assert len(warnings) == 1
    assert "expunge init" in warnings[0]
    assert not list(tmp_path.iterdir())


def test_a_broken_workspace_ends_with_one(expunge, tmp_path):
    expunge(tmp_path, "init")
    (tmp_path / ".expunge" / "keyring.json").write_text("{")
    done = expunge(tmp_path, "doctor")
    assert done.code == 1
    assert "Traceback" not in done.out + done.err


def test_a_workspace_of_another_version_is_named(workspace):
    (workspace.root / "workspace.json").write_text(json.dumps({"version": 99}))
    found = only(examine(workspace), "workspace")
    assert (found.level, "version 99" in found.found) == ("fail", True)


def test_a_key_that_others_can_read_fails_with_the_command_that_mends_it(workspace):
    file = workspace.keys / "people" / "operator.pem"
    file.chmod(0o644)
    found = only(examine(workspace), "private keys")
    assert (found.level, found.remedy) == ("fail", f"chmod 600 {file}")
    subprocess.run(found.remedy.split(), check=True)
    assert only(examine(workspace), "private keys").level == "ok"


def test_no_key_material_and_no_password_is_ever_printed(workspace, monkeypatch, closed_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:hunter2@127.0.0.1:{closed_port}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDSECRET")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://x:pass2@127.0.0.1:{closed_port}")
    said = "".join(check.model_dump_json() for check in examine(workspace))
    for secret in ("hunter2", "verysecret", "AKIDSECRET", "pass2", "PRIVATE KEY"):
        assert secret not in said


@pytest.mark.parametrize(("spoil", "name"), [
    (lambda workspace: (workspace.keys / "people" / "operator.pem").unlink(), "operator's key"),
    (lambda workspace: (workspace.keys / "people" / "operator.pem").write_text("no key"), "operator's key"),
    (lambda workspace: workspace.keyring.write_text("{"), "keyring"),
    (lambda workspace: (workspace.policies / "standard.yaml").write_text("rules: [}"), "policies"),
    (lambda workspace: workspace.ledger.unlink(), "ledger"),
    (lambda workspace: workspace.ledger.write_bytes(b"SQLite format 3\0 and then nothing"), "ledger"),
])
def test_what_is_broken_is_a_failing_line_and_the_others_are_still_made(workspace, spoil, name):
    spoil(workspace)
    checks = examine(workspace)
    assert "fail" in {check.level for check in of(checks, name)}
    assert of(checks, "at work")


def test_an_mlflow_that_does_not_answer_is_a_warning_soon(workspace, monkeypatch, closed_port):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port}")
    found = only(examine(workspace), "MLflow")
    assert found.level == "warn"
    assert "does not answer" in found.found


def test_an_mlflow_that_answers_is_well(workspace, monkeypatch):
    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        assert only(examine(workspace), "MLflow").level == "ok"
    finally:
        server.shutdown()
        server.server_close()


def test_an_s3_that_does_not_answer_is_a_warning_and_without_settings_it_is_not_asked(
        workspace, monkeypatch, closed_port):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    assert not of(examine(workspace), "S3")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{closed_port}")
    assert only(examine(workspace), "S3").level == "warn"


def test_allowed_folders_must_be_there(workspace, monkeypatch, tmp_path):
    monkeypatch.setenv("EXPUNGE_ROOTS", os.pathsep.join([str(tmp_path), str(tmp_path / "gone")]))
    assert [check.level for check in of(examine(workspace), "allowed folders")] == ["ok", "warn"]
    monkeypatch.setenv("EXPUNGE_ROOTS", "somewhere")
    assert only(examine(workspace), "allowed folders").level == "fail"


def test_a_package_that_is_missing_is_a_failing_line(tmp_path):
    """Another interpreter is told that torch is not there: no traceback, and the rest is still looked at."""
    said = subprocess.run([sys.executable, "-c", (
        "import sys, pathlib; sys.modules['torch'] = None\n"
        "from expunge.settings import Workspace\n"
        "from pipelines.doctor import examine\n"
        f"print([c.level for c in examine(Workspace(pathlib.Path({str(tmp_path / 'none')!r}))) if c.name == 'GPU'])")],
        capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "['fail']"


def test_without_git_it_says_what_git_is_for(workspace, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = only(examine(workspace), "git")
    assert (found.level, found.remedy) == ("fail", "install it: sample sets are versioned with it")


def test_an_image_that_is_no_digest_is_a_warning(workspace, monkeypatch):
    monkeypatch.setenv("EXPUNGE_IMAGE_DIGEST", "latest")
    assert only(examine(workspace), "image").level == "warn"


def test_a_finished_workspace_is_healthy_and_knows_what_a_run_takes(demo):
    checks = examine(Workspace(demo[0] / ".expunge"))
    assert {check.level for check in checks} == {"ok"}
    assert "the largest run here took" in only(checks, "disk").found
    assert "1 of 1" in only(checks, "request keys").found
    assert "3 objects" in only(checks, "sample sets").found


def test_a_policy_of_ones_own_that_no_admin_has_signed_is_a_warning(workspace):
    file = workspace.policies / "mild.yaml"
    file.write_bytes(preset_bytes("standard").replace(b"name: standard", b"name: mild"))
    unsigned, sound = of(examine(workspace), "policies")
    assert (unsigned.level, unsigned.remedy) == ("warn", "expunge policies sign mild --as ADMIN")
    assert unsigned.found == "mild does not ship with expunge, and no admin has signed it: no run can be judged by it"
    assert sound.found == "debug, standard, strict"

    create_key(workspace, "olga", ["admin"])
    policies.sign(workspace, "mild", "olga")
    assert only(examine(workspace), "policies").found == "debug, mild, standard, strict"

    file.write_bytes(file.read_bytes() + b"# milder still\n")
    changed = of(examine(workspace), "policies")[0]
    assert changed.level == "warn"
    assert "has a signature that does not verify (the policy is not the one that was signed)" in changed.found


def test_a_lost_request_key_and_a_run_that_was_cut_off_are_named(waiting):
    workspace = Workspace(waiting / ".expunge")
    (workspace.keys / "requests" / "forget-8.key").unlink()
    run = Run.find(workspace, "forget-8")
    put(run, state="running")
    checks = examine(workspace)
    assert only(checks, "request keys").level == "warn"
    assert "nobody works on it" in only(checks, "cut off").found
    with (workspace.root / "supervisor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        busy = examine(workspace)
    assert only(busy, "at work").found == "a run works here now"
    assert not of(busy, "cut off")
