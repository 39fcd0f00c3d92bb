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
from tests_support import EXPUNGE, bare_environment, policy_that_is_met_already

import expunge as expunge_package
from components.fetch_checkpoint.step import fetch_checkpoint
from expunge import assets
from expunge.settings import WORKSPACE_VARIABLE, Workspace

REQUEST = "request.yaml"


def start(folder, **environment):
    return subprocess.Popen([str(EXPUNGE), "run", REQUEST], cwd=folder, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=bare_environment(**environment))


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


def candidates_of(folder):
    return {json.loads(record.read_text())["weights"]["sha256"]
            for record in folder.glob(".expunge/results/unlearn-*/candidate/record.json")}


@pytest.mark.slow
@pytest.mark.parametrize(("room", "kind"), [
    pytest.param("curate_forget_set", "started", marks=pytest.mark.thorough), ("unlearn", "progress"),
    pytest.param("evaluate", "started", marks=pytest.mark.thorough)])
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
    assert candidates_of(fresh) == candidates_of(demo[0])
    order = ["fetch_checkpoint", "curate_forget_set", "adapt", "unlearn", "evaluate"]
    assert reused_in(fresh) == set(order[: order.index(room)])
    assert None not in again.json["seconds"].values(), "this very run did it, before it was cut"
    assert expunge(fresh, "audit", "verify").code == 0
    assert not list(fresh.glob(".expunge/results/.*scratch"))


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_of_two_runs_at_once_the_second_is_told_at_once(fresh, expunge):
    run = start(fresh)
    wait_for(fresh, "fetch_checkpoint", "started")
    busy = expunge(fresh, "run", REQUEST, "--json")
    assert busy.code == 75
    assert "another run works in" in busy.json["problem"]
    assert run.poll() is None, "the first goes on"
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 31


def made_again_in(folder, expunge):
    """Makes another attempt; returns the rooms that it entered anew."""
    again = expunge(folder, "run", REQUEST, "--again", "--json")
    assert again.code == 10, again.err
    assert again.json["attempt"] == 2
    return {name for name, spent in again.json["seconds"].items() if spent is not None} - {"total"}


def flip_a_bit_of(file):
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


OF_FIRST = "results/fetch_checkpoint-*/checkpoint/model.safetensors"


def tampered_and_named(folder, expunge, pattern):
    """Flips a bit of a result's file, which `audit verify` then names."""
    file, = folder.glob(f".expunge/{pattern}")
    flip_a_bit_of(file)
    verified = expunge(folder, "audit", "verify", "--json")
    assert verified.code == 40
    assert any(str(file.relative_to(folder / ".expunge")) == wrong["object"] for wrong in verified.json["wrong"])


def test_a_tampered_result_is_named_and_its_room_works_again(waiting, expunge, monkeypatch, tmp_path):
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(waiting / ".expunge"))
    request, = waiting.glob(".expunge/runs/*/request.json")
    outputs = {name: tmp_path / name for name in ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")}

    def fetched():
        return fetch_checkpoint(request=request, statement=tmp_path / "statement.json", **outputs)

    before = fetched()
    assert before.reused
    tampered_and_named(waiting, expunge, OF_FIRST)
    after = fetched()
    assert not after.reused
    assert (outputs["checkpoint"] / "model.safetensors").read_bytes() == assets.path("dcgan").read_bytes()
    assert before.folder.is_dir(), "the evidence stays"


@pytest.mark.thorough
@pytest.mark.parametrize(("pattern", "room"), [
    (OF_FIRST, "fetch_checkpoint"), ("results/evaluate-*/report/scores.parquet", "evaluate")])
def test_a_tampered_result_is_named_and_made_again(waiting, expunge, pattern, room):
    tampered_and_named(waiting, expunge, pattern)
    # The adapted model was destroyed after the first attempt, so what follows from it is made again too.
    assert made_again_in(waiting, expunge) == {room, "adapt", "unlearn", "evaluate", "gate"}
    assert len(list(waiting.glob(f".expunge/results/{room}-*/"))) == 2
    assert len(candidates_of(waiting)) == 1, "from the same bytes the same candidate"


@pytest.mark.thorough
def test_a_tampered_sample_is_noticed_and_the_sets_are_made_again(waiting, expunge):
    record, = waiting.glob(".expunge/results/curate_forget_set-*/negative/record.json")
    md5 = json.loads(record.read_text())["shards"][0]["md5"]
    flip_a_bit_of(waiting / ".expunge" / "sample-remote" / "files" / "md5" / md5[:2] / md5[2:])
    assert made_again_in(waiting, expunge) == {"curate_forget_set", "adapt", "unlearn", "evaluate", "gate"}
    assert len(candidates_of(waiting)) == 1, "the same samples, sealed anew, make the same candidate"


@pytest.mark.thorough
def test_after_a_change_of_code_what_it_reaches_is_made_again_and_nothing_before(fresh, expunge, tmp_path):
    code = tmp_path / "code"
    for package in ("expunge", "components", "pipelines"):
        shutil.copytree(Path(expunge_package.__file__).parent.parent / package, code / package,
                        ignore=shutil.ignore_patterns("__pycache__"))
    run = start(fresh, PYTHONPATH=str(code))
    wait_for(fresh, "evaluate", "finished")
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    probe = code / "components" / "evaluate" / "probes" / "is_it_gone.py"  # only evaluation imports it
    probe.write_text(probe.read_text() + "# changed\n")
    again = expunge(fresh, "run", REQUEST, "--json", PYTHONPATH=str(code))
    assert again.code == 10, again.err
    assert reused_in(fresh) == {"fetch_checkpoint", "curate_forget_set", "adapt", "unlearn"}
    assert {room: len(list(fresh.glob(f".expunge/results/{room}-*/"))) for room in ("unlearn", "evaluate")} == {
        "unlearn": 1, "evaluate": 2}
    assert expunge(fresh, "audit", "verify").code == 0


@pytest.mark.slow
def test_a_request_that_the_model_does_not_need_is_told_so_once_and_for_all(fresh, expunge):
    policy_that_is_met_already(Workspace(fresh / ".expunge"))
    first = expunge(fresh, "run", REQUEST)
    assert first.code == 11, first.err
    assert first.err == "", "nothing went wrong"
    assert "not needed" in first.out
    assert "the model does not need it" in first.out
    again = expunge(fresh, "run", REQUEST, "--json").json
    assert (again["run"], again["state"]) == ("forget-8.1", "not_needed")
    assert not list(fresh.glob(".expunge/results/adapt-*"))
    third = expunge(fresh, "run", REQUEST, "--again", "--json").json
    assert (third["run"], third["attempt"]) == ("forget-8.2", 1), "without a verdict it was no try"
    assert expunge(fresh, "audit", "verify").code == 0


def test_a_run_completes_without_mlflow_and_says_so(waiting, expunge):
    expunge(waiting, "approve", "forget-8", "--as", "grace", "--reason", "fine")
    released = expunge(waiting, "release", "forget-8", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert released.code == 0, released.err
    assert "MLflow" in released.out
    assert (waiting / ".expunge" / "releases" / "digits" / "current").exists()


@pytest.mark.thorough
def test_a_whole_run_completes_without_mlflow_and_says_so(fresh, expunge):
    done = expunge(fresh, "run", REQUEST, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.code == 10, done.err
    assert "MLflow was not told everything" in done.out
