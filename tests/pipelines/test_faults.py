"""Services that fail while a request is carried out by the command itself: each ends in one release, or says where it stands.

docs/faults.md lists every fault, and the test in which it is made.
"""

import json
import shutil
import subprocess
import threading
import time
import urllib.request

import pytest
from s3_server import between, bucket, environment, s3_server  # noqa: F401 - fixtures
from tests_support import EXPUNGE, bare_environment, call, mlflow_server

from expunge.configuration import CONFIG_FILE
from expunge.digests import sha256_bytes
from expunge.settings import Workspace
from expunge.stores.queue import Queue

pytestmark = pytest.mark.thorough
NOBODY = "http://127.0.0.1:9"  # a port on which nothing answers


def configure(folder, **settings):
    """Names services in the workspace's configuration."""
    lines = "".join(f"{name}: {value}\n" for name, value in settings.items())
    (folder / ".expunge" / CONFIG_FILE).write_text(f"schema: expunge/config/v1\n{lines}")


def approve(folder):
    done = call(folder, "approve", "forget-8", "--as", "grace", "--reason", "it is gone")
    assert done.code == 0, done.err


def state_of(folder):
    """What `status` says of the run: its state, and why."""
    shown = call(folder, "status", "forget-8", "--json")
    assert shown.code == 0, shown.err
    return shown.json["state"], shown.json["reason"]


def candidates(folder):
    return {json.loads(record.read_text())["weights"]["sha256"]
            for record in folder.glob(".expunge/results/unlearn-*/candidate/record.json")}


def released_once(folder):
    """One release was made in this workspace, of the one candidate, and the ledger is whole."""
    assert state_of(folder) == ("released", None)
    made, = folder.glob(".expunge/releases/digits/[0-9]*/release.json")
    assert {json.loads(made.read_text())["weights"]["sha256"]} == candidates(folder)
    verified = call(folder, "audit", "verify", "--json")
    assert verified.code == 0, verified.out


def served_once(folder, s3):
    """The same, served from S3: one folder beside `current`, which names it, and no part of an upload."""
    released_once(folder)
    found = {held.key.split("/")[2] for held in s3.objects.filter(Prefix="served/digits/")}
    current = json.loads(s3.Object("served/digits/current").get()["Body"].read())
    assert found == {"current", current["folder"]}
    weights = s3.Object(f"served/digits/{current['folder']}/model.safetensors").get()["Body"].read()
    assert {sha256_bytes(weights)} == candidates(folder)
    assert not list(s3.multipart_uploads.all())


def every_second(what):
    """Trouble with one request of two."""
    fails = iter([what, None] * 100_000)
    return lambda *_: next(fails)


def slowly(*_):
    time.sleep(0.7)


@pytest.mark.parametrize("trouble", [every_second("busy"), every_second("cut"), every_second("lost"), slowly],
                         ids=["busy", "cut", "lost", "slow"])
def test_a_release_gets_through_to_a_bad_s3_while_mlflow_and_the_pushgateway_are_dead(
        waiting, bucket, between, trouble):  # noqa: F811
    configure(waiting, releases="s3://models/served", pushgateway=NOBODY)
    approve(waiting)
    between.trouble = trouble
    done = call(waiting, "release", "forget-8", MLFLOW_TRACKING_URI=NOBODY)
    between.trouble = lambda *_: None
    assert done.code == 0, done.err
    events, = waiting.glob(".expunge/runs/*/events.jsonl")
    assert all(note in events.read_text() for note in ("monitoring: ", "MLflow was not told")), "both are noted"
    served_once(waiting, bucket)


def test_a_release_for_which_s3_went_away_says_so_and_is_made_once_it_is_back(waiting, bucket, between):  # noqa: F811
    configure(waiting, releases="s3://models/served")
    approve(waiting)
    uploaded = threading.Event()

    def gone_after_the_weights(method, path, headers):
        if uploaded.is_set():
            return "refused"
        if method == "PUT" and path.endswith("/model.safetensors"):
            uploaded.set()
        return None

    between.trouble = gone_after_the_weights
    assert call(waiting, "release", "forget-8").code == 1
    assert uploaded.is_set()
    state, reason = state_of(waiting)
    assert (state, "the S3 server cannot be reached" in reason) == ("failed", True), (state, reason)
    between.trouble = lambda *_: None
    assert call(waiting, "release", "forget-8").code == 0
    served_once(waiting, bucket)


def test_a_database_that_is_restarted_in_the_middle_of_a_release_ends_in_one(waiting, postgresql):
    configure(waiting, database=postgresql("restarted"))
    assert call(waiting, "audit", "move").code == 0
    approve(waiting)
    log, = waiting.glob(".expunge/runs/*/events.jsonl")
    before, until = len(log.read_text().splitlines()), time.monotonic() + 120
    releasing = subprocess.Popen([str(EXPUNGE), "release", "forget-8"], cwd=waiting, env=bare_environment(), text=True,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while len(log.read_text().splitlines()) == before:  # until a room has begun
        assert time.monotonic() < until
        time.sleep(0.02)
    postgresql.restart()
    said = releasing.communicate()[1]
    if releasing.returncode != 0:
        assert (releasing.returncode, len(said.splitlines())) == (1, 1), said
        state, reason = state_of(waiting)
        assert reason if state == "failed" else state in ("approved", "releasing"), state
        done = call(waiting, "release", "forget-8")
        assert done.code == 0, done.err
    released_once(waiting)


def test_a_run_comes_through_a_database_that_is_restarted_every_four_seconds(fresh, expunge, postgresql, tmp_path):
    """The ledger's and MLflow's, from the first room to the release: each command works at the first go."""
    told = postgresql("told").replace("postgresql:", "postgresql+psycopg:")
    with mlflow_server(told, str(tmp_path / "artifacts"), tmp_path) as mlflow:
        shutil.rmtree(fresh / ".expunge")
        (fresh / ".expunge").mkdir()
        configure(fresh, database=postgresql("again_and_again"))
        over, restarts = threading.Event(), []

        def restart():
            while not over.wait(4):
                postgresql.restart()
                restarts.append(time.monotonic())

        restarting = threading.Thread(target=restart)
        restarting.start()
        try:
            for code, *verb in ((0, "init"), (0, "keys", "new", "ada", "--role", "requester"),
                                (0, "keys", "new", "grace", "--role", "reviewer"), (10, "run", "request.yaml"),
                                (0, "approve", "forget-8", "--as", "grace", "--reason", "it is gone"),
                                (0, "release", "forget-8")):
                done = call(fresh, *verb, MLFLOW_TRACKING_URI=mlflow)
                assert done.code == code, f"{verb}: {done.out}{done.err}"
        finally:
            over.set()
            restarting.join()
        assert len(restarts) >= 5
        released_once(fresh)
        events, = fresh.glob(".expunge/runs/*/events.jsonl")
        assert "MLflow was not told" not in events.read_text()
        query = f"{mlflow}/api/2.0/mlflow/registered-models/get?name=digits"
        version, = json.loads(urllib.request.urlopen(query, timeout=30).read())["registered_model"]["latest_versions"]
        assert {tag["value"] for tag in version["tags"]} & candidates(fresh), "what is registered is the candidate"


def test_of_two_schedulers_that_fire_at_once_one_runs_and_one_releases(fresh, expunge):
    for person, role in (("ada", "requester"), ("grace", "reviewer")):
        assert expunge(fresh, "keys", "new", person, "--role", role).code == 0
    assert expunge(fresh, "queue", "file", "request.yaml").code == 0

    def both_fire():
        two = [subprocess.Popen([str(EXPUNGE), "queue", "work"], cwd=fresh, env=bare_environment(), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
        said = [(*one.communicate(), one.returncode) for one in two]
        assert sorted(code for *_, code in said) in ([0, 0], [0, 75]), said
        seen, = Queue.of(Workspace(fresh / ".expunge")).all()
        return seen.ticket.stage, seen.ticket.run

    assert both_fire() == ("waiting", "forget-8.1")
    assert [folder.name for folder in fresh.glob(".expunge/runs/*")] == ["forget-8.1"]
    approve(fresh)
    assert both_fire() == ("released", "forget-8.1")
    released_once(fresh)
