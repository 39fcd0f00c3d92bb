"""Runs that were cut off, results that were tampered with, workspaces that are busy."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests_support import EXPUNGE, bare_environment

REQUEST = "request.yaml"


@pytest.fixture
def fresh(demo, tmp_path, expunge):
    """A workspace in which nothing has run yet, and the demo's request."""
    shutil.copyfile(demo[0] / REQUEST, tmp_path / REQUEST)
    assert expunge(tmp_path, "init").code == 0
    return tmp_path


def start(folder):
    return subprocess.Popen([str(EXPUNGE), "run", REQUEST], cwd=folder, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=bare_environment())


def wait_for(folder, room, kind):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for log in folder.glob(".expunge/runs/*/events.jsonl"):
            for line in log.read_text().splitlines():
                event = json.loads(line)
                if (event["room"], event["kind"]) == (room, kind):
                    return
        time.sleep(0.02)
    raise AssertionError(f"{room} never {kind}")


def processes_of(folder):
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "environ").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


def reused_in(folder):
    lines = "".join(log.read_text() for log in folder.glob(".expunge/runs/*/events.jsonl")).splitlines()
    return {event["room"] for event in map(json.loads, lines) if event["kind"] == "finished" and event.get("reused")}


def candidate_of(folder):
    record, = folder.glob(".expunge/results/unlearn-*/candidate/record.json")
    return json.loads(record.read_text())["weights"]["sha256"]


@pytest.mark.parametrize(("room", "kind"), [("curate_forget_set", "started"), ("unlearn", "progress"), ("evaluate", "started")])
def test_a_killed_run_leaves_no_process_and_goes_on_to_the_same_candidate(fresh, demo, expunge, room, kind):
    run = start(fresh)
    wait_for(fresh, room, kind)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 10
    while processes_of(fresh):
        assert time.monotonic() < deadline, "a step outlived the supervisor"
        time.sleep(0.05)
    again = expunge(fresh, "run", REQUEST, "--json")
    assert again.code == 10, again.err
    assert candidate_of(fresh) == candidate_of(demo[0])
    order = ["fetch_checkpoint", "curate_forget_set", "adapt", "unlearn", "evaluate"]
    assert reused_in(fresh) == set(order[: order.index(room)])
    assert None not in again.json["seconds"].values(), "this very run did it, before it was cut"
    assert expunge(fresh, "audit", "verify").code == 0
    assert not list(fresh.glob(".expunge/results/.*scratch"))


def test_a_stopped_run_is_recorded_as_cancelled_and_can_go_on(fresh, expunge):
    run = start(fresh)
    wait_for(fresh, "curate_forget_set", "started")
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 31
    assert not processes_of(fresh)
    assert expunge(fresh, "status", "forget-8", "--json").json["state"] == "cancelled"
    assert expunge(fresh, "run", REQUEST).code == 10


def test_a_second_run_in_a_busy_workspace_is_told_at_once(fresh, expunge):
    with (fresh / ".expunge" / "supervisor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        busy = expunge(fresh, "run", REQUEST)
    assert busy.code == 75
    assert busy.err.startswith("expunge: workspace: another run works in")


def test_a_tampered_result_is_named_and_made_again(waiting, expunge):
    record, = waiting.glob(".expunge/results/evaluate-*/report/scores.parquet")
    data = bytearray(record.read_bytes())
    data[40] ^= 1
    record.write_bytes(data)
    verified = expunge(waiting, "audit", "verify", "--json")
    assert verified.code == 40
    assert any(str(record.relative_to(waiting / ".expunge")) == wrong["object"] for wrong in verified.json["wrong"])
    again = expunge(waiting, "run", REQUEST, "--again", "--json")
    assert again.code == 10, again.err
    assert again.json["attempt"] == 2
    # The adapted model was destroyed after the first attempt, so what follows from it is made again too.
    assert {name for name, spent in again.json["seconds"].items() if spent is None} == {
        "fetch_checkpoint", "curate_forget_set"}
    assert len(list(waiting.glob(".expunge/results/evaluate-*/report"))) == 2


def test_a_run_completes_without_mlflow_and_says_so(waiting, expunge):
    expunge(waiting, "approve", "forget-8", "--as", "grace", "--reason", "fine")
    released = expunge(waiting, "release", "forget-8", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert released.code == 0, released.err
    assert "MLflow" in released.out
    assert (waiting / ".expunge" / "releases" / "digits" / "current").exists()
