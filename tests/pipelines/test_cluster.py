"""The digits request as a cluster carries it out: rooms in containers, every service a real one, to a release on S3.

Where an image of a service cannot be pulled there are Debian's and PyPI's own, on loopback. `make test-cluster`.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from docker_engine import containers_of, write_request
from prometheus_servers import prometheus, pushgateway_server  # noqa: F401 - a fixture
from s3_server import SECRET, s3_server  # noqa: F401 - a fixture
from tests_support import EXPUNGE, bare_environment, call, mlflow_server, two_people

from expunge.configuration import CONFIG_FILE
from expunge.digests import sha256_bytes
from expunge.events import TITLES
from expunge.evidence.keys import Keyring
from expunge.evidence.standalone import verify
from expunge.evidence.statements import RoomPredicate, open_statement
from expunge.room import STATEMENT_FILE
from expunge.settings import Workspace
from pipelines.containers import IMAGE

pytestmark = pytest.mark.cluster
CONSOLE = IMAGE.replace(":cpu", ":console")
BASE = "python:3.11-slim-bookworm"
NOT_IN_THE_CONSOLE = ("torch", "kfp", "mlflow", "dvc", "scipy", "pip")


@dataclass
class Cluster:
    """The services, and the workspace of the run that used them."""

    folder: Path
    mlflow: str
    gateway: str
    s3: Any
    released: Any  # what `expunge release` said

    def expunge(self, *words):
        """The command, told of MLflow as a step is."""
        return call(self.folder, *words, MLFLOW_TRACKING_URI=self.mlflow)


@pytest.fixture(scope="module")
def cluster(engine, image, s3_server, postgresql, pushgateway_server, tmp_path_factory):  # noqa: F811
    """The request of the demo, carried out in containers, approved by a second person, and released."""
    import boto3

    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as services:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in (("AWS_ENDPOINT_URL", s3_server), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_REGION", "us-east-1"),
                            ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_EC2_METADATA_DISABLED", "true")):
            patch.setenv(name, value)
        s3 = boto3.Session().resource("s3", region_name="us-east-1")
        for bucket in ("served", "mlflow"):
            s3.Bucket(bucket).create()
        backend = postgresql("mlflow").replace("postgresql:", "postgresql+psycopg:")
        mlflow = services.enter_context(mlflow_server(backend, "s3://mlflow", tmp_path_factory.mktemp("mlflow")))
        (folder / ".expunge").mkdir()
        (folder / ".expunge" / CONFIG_FILE).write_text(
            f"schema: expunge/config/v1\ndatabase: {postgresql('cluster')}\nreleases: s3://served/models\n"
            f"pushgateway: {pushgateway_server}\n")
        write_request(folder)
        two_people(folder)
        made = Cluster(folder, mlflow, pushgateway_server, s3, None)
        ran = made.expunge("run", "request.yaml", "--runner", "docker", "--json")
        assert ran.code == 10, ran.err + "".join(log.read_text()[-4000:] for log in folder.glob(".expunge/runs/*/engine.log"))
        alone = made.expunge("approve", "forget-8", "--as", "ada", "--reason", "mine")
        assert (alone.code, "somebody else must sign" in alone.err) == (41, True)
        assert made.expunge("release", "forget-8", "--runner", "docker").code == 10, "nobody has approved it"
        assert made.expunge("approve", "forget-8", "--as", "grace", "--reason", "no eights").code == 0
        done = made.expunge("release", "forget-8", "--runner", "docker", "--json")
        assert done.code == 0, done.err
        made.released = done.json
        events, = folder.glob(".expunge/runs/*/events.jsonl")
        assert "not told" not in events.read_text(), "every service took what it was told"
        yield made


def test_the_candidate_is_that_of_processes_and_every_room_was_in_a_container(cluster, demo, engine, image):
    def candidates(folder):
        return {json.loads(record.read_text())["weights"]["sha256"]
                for record in folder.glob(".expunge/results/unlearn-*/candidate/record.json")}

    assert candidates(cluster.folder) == candidates(demo[0])
    keyring = Keyring.load(Workspace(cluster.folder / ".expunge"))
    rooms = [open_statement(file.read_bytes(), keyring, RoomPredicate)[0].predicate
             for file in cluster.folder.glob(f".expunge/results/*/{STATEMENT_FILE}")]
    assert {(room.room, room.image) for room in rooms} == {(room, image) for room in TITLES}
    assert not containers_of(engine, cluster.folder)
    assert {path.stat().st_uid for path in (cluster.folder / ".expunge").rglob("*")} == {os.getuid()}


def test_s3_serves_what_was_approved_and_holds_nothing_half_uploaded(cluster):
    bucket = cluster.s3.Bucket("served")
    current = json.loads(bucket.Object("models/digits/current").get()["Body"].read())
    served = bucket.Object(f"models/digits/{current['folder']}/model.safetensors").get()["Body"].read()
    assert cluster.released["approval"].items() >= {"by": "grace", "requester": "ada"}.items()
    assert sha256_bytes(served) == cluster.released["release"]["sha256"]
    assert not list(bucket.multipart_uploads.all())
    assert cluster.expunge("audit", "live").code == 0


def test_the_ledger_on_postgresql_verifies_and_so_does_its_bundle_for_a_stranger(cluster):
    verified = cluster.expunge("audit", "verify", "--json")
    assert verified.code == 0, verified.out
    assert not list(cluster.folder.glob(".expunge/ledger*")), "there is no other"
    assert cluster.expunge("audit", "export", "forget-8", "bundle.zip").code == 0
    said = subprocess.run([sys.executable, "-I", verify.__file__, cluster.folder / "bundle.zip"], capture_output=True,
                          text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_prometheus_has_the_numbers_of_every_room_and_of_the_installation(cluster, tmp_path):
    with subprocess.Popen([EXPUNGE, "metrics", "--serve", "127.0.0.1:0"], cwd=cluster.folder, stdout=subprocess.PIPE,
                          text=True, env=bare_environment(MLFLOW_TRACKING_URI=cluster.mlflow)) as exporter:
        try:
            with prometheus(tmp_path, cluster.gateway, exporter.stdout.readline().strip()) as ask:
                rooms = {found["metric"]["component"] for found in ask("expunge_step_last_success_timestamp_seconds")}
                outcomes = {found["metric"]["outcome"] for found in ask("expunge_gate_verdict == 1")}
                served, = ask("expunge_models_served - expunge_models_tainted - expunge_models_changed")
                released, = ask('expunge_runs{state="released"}')
        finally:
            exporter.terminate()
    assert rooms == set(TITLES)
    assert outcomes == {"PASS"}, "of both plans' gates"
    assert (served["value"][1], released["value"][1]) == ("1", "1")


def test_mlflow_shows_the_lineage_that_the_ledger_signs(cluster):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(cluster.mlflow, cluster.mlflow)
    version = client.get_model_version_by_alias("digits", "champion")
    tags = client.get_run(version.run_id).data.tags
    walk = {name.removeprefix("lineage."): value for name, value in tags.items() if name.startswith("lineage.")}
    assert version.tags["candidate_sha256"] == walk["candidate"] == walk["release"] != walk["parent"]
    signed = cluster.expunge("audit", "show", "forget-8", "--json").out
    for step in ("request", "parent", "candidate", "report", "verdict", "release"):
        assert walk[step] in signed, f"{step} is in no statement"
    kept = [found.key for found in cluster.s3.Bucket("mlflow").objects.all()]
    assert [key for key in kept if key.endswith("/report.html")], "its artifacts are on S3"


@contextmanager
def console(engine, folder):
    """The console in its own image, over the workspace in a folder; its container and what it printed."""
    at_work = engine.containers.run(
        CONSOLE, ["expunge", "console", "--port", "0", "--json"], detach=True, network_mode="host", read_only=True,
        tmpfs={"/tmp": "mode=1777"}, cap_drop=["ALL"], security_opt=["no-new-privileges"], working_dir=str(folder),
        user=f"{os.getuid()}:{os.getgid()}", volumes={str(folder): {"bind": str(folder), "mode": "rw"}},
        environment={name: value for name, value in os.environ.items() if name.startswith("AWS_")})
    try:
        until = time.monotonic() + 60
        while not at_work.logs(stderr=False).endswith(b"\n"):
            at_work.reload()
            assert at_work.status in ("created", "running"), at_work.logs().decode()
            assert time.monotonic() < until
            time.sleep(0.1)
        yield at_work, json.loads(at_work.logs(stderr=False))
    finally:
        at_work.remove(force=True)


def test_the_consoles_image_shows_the_run_and_knows_nothing_of_torch(cluster, engine):
    with console(engine, cluster.folder) as (at_work, said):
        assert requests.get(f"{said['address']}/healthz", timeout=60).status_code == 200
        visitor = requests.Session()
        visitor.headers["Origin"] = said["address"]
        visitor.get(said["link"], timeout=60)
        pages = {path: visitor.get(said["address"] + path, timeout=60)
                 for path in ("/", "/runs/forget-8.1", "/audit", "/live", "/metrics", "/api/v1/runs/forget-8.1/bundle")}
        assert {path: page.status_code for path, page in pages.items()} == dict.fromkeys(pages, 200), at_work.logs().decode()
        assert cluster.released["release"]["sha256"] in pages["/runs/forget-8.1"].text
        assert 'expunge_runs{state="released"} 1' in pages["/metrics"].text
        assert "clean" in pages["/live"].text
        code, found = at_work.exec_run(["python", "-c", (
            "import importlib.util\n"
            f"print([name for name in {NOT_IN_THE_CONSOLE!r} if importlib.util.find_spec(name) is not None])")])
        assert (code, found) == (0, b"[]\n")


@pytest.mark.parametrize(("name", "limit"), [(IMAGE, 1.6e9), (CONSOLE, 400e6)])
def test_an_image_is_small_holds_no_tool_for_building_and_runs_as_nobody_in_particular(engine, image, name, limit):
    base, ours = (engine.images.get(one).attrs for one in (BASE, name))
    assert ours["Size"] - base["Size"] <= limit
    assert ours["Config"]["User"] == "10001:10001"
    assert ours["Config"]["Labels"] == engine.images.get(image).labels
    script = "id -u; ! which gcc make; ! ls /opt/expunge/bin/pip /src; ! touch /there; expunge --version"
    said = engine.containers.run(name, ["sh", "-ec", script], read_only=True, tmpfs={"/tmp": ""}, network_mode="none",
                                 cap_drop=["ALL"], remove=True)
    assert said.decode().split()[:2] == ["10001", "expunge"]
