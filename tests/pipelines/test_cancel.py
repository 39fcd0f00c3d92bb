"""Stopping a run from another shell, and what counts as an attempt."""

import json
import subprocess
import time

import pytest
import yaml
from tests_support import EXPUNGE, bare_environment, policy_that_is_met_already

from expunge.auditing import log_lines
from expunge.evidence.ledger import Ledger
from expunge.settings import Workspace

REQUEST = "request.yaml"


def begin(folder):
    return subprocess.Popen([str(EXPUNGE), "run", REQUEST, "--json"], cwd=folder, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=bare_environment(), text=True)


def wait_until_a_room_works(folder):
    deadline = time.monotonic() + 120
    while not any(file.stat().st_size for file in folder.glob(".expunge/runs/*/events.jsonl")):
        assert time.monotonic() < deadline, "no room was ever entered"
        time.sleep(0.05)


def left_behind(folder):
    return [path.name for pattern in ("alive*", "cancel.*", "kfp*") for path in folder.glob(f".expunge/runs/*/{pattern}")]


def change(folder, **changes):
    """Rewrites the request: another request under the same name."""
    file = folder / REQUEST
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


def broken(folder):
    """A request that its first room refuses."""
    change(folder, forget={"classes": [8]}, method={"name": "adapt_then_unlearn", "preset": "debug", "params": {"wish": 1}})


@pytest.mark.slow
@pytest.mark.parametrize(("code", "state"), [
    (11, "not_needed"), pytest.param(10, "awaiting_approval", marks=pytest.mark.thorough)])
def test_a_run_is_cancelled_from_another_shell_and_the_same_command_continues_it_to_its_end(fresh, expunge, code, state):
    if state == "not_needed":  # an end that comes after two rooms
        policy_that_is_met_already(Workspace(fresh / ".expunge"))
    run = begin(fresh)
    wait_until_a_room_works(fresh)
    cancelled = expunge(fresh, "cancel", "forget-8", "--json")
    assert cancelled.code == 0, cancelled.err
    assert cancelled.json["state"] == "cancelled"
    said, _ = run.communicate(timeout=30)
    assert run.returncode == 31
    assert json.loads(said)["reason"] == "cancelled by 'expunge cancel'"
    assert not left_behind(fresh)
    assert log_lines(Workspace(fresh / ".expunge"))[-1]["what"] == "forget-8.1: the run is cancelled"
    again = expunge(fresh, "run", REQUEST, "--json")
    assert again.code == code, again.err
    assert (again.json["run"], again.json["attempt"], again.json["state"]) == ("forget-8.1", 1, state)
    assert expunge(fresh, "audit", "verify").code == 0


@pytest.mark.slow
def test_a_failed_run_is_given_up_and_a_wish_that_is_too_late_stops_nothing(fresh, expunge):
    kept = (fresh / REQUEST).read_text()
    broken(fresh)
    assert expunge(fresh, "run", REQUEST).code == 2
    folder, = fresh.glob(".expunge/runs/*")
    (folder / "cancel.0123456789abcdef").touch()  # of a start that ended before it looked
    assert expunge(fresh, "cancel", "forget-8", "--json").json["state"] == "cancelled"
    assert expunge(fresh, "cancel", "forget-8").code == 0, "a second time is harmless"
    assert expunge(fresh, "run", REQUEST).code == 2, "the same command tries again"
    (fresh / REQUEST).write_text(kept)
    assert not left_behind(fresh)


@pytest.mark.parametrize(("decision", "state", "advice"), [
    (None, "awaiting approval", "expunge reject forget-8.1 --as REVIEWER"),
    ("approve", "approved", "expunge reject forget-8.1 --as REVIEWER"),
    ("reject", "rejected", "there is nothing to stop"),
])
def test_a_run_that_people_decide_on_is_not_cancelled(waiting, expunge, decision, state, advice):
    if decision:
        assert expunge(waiting, decision, "forget-8", "--as", "grace", "--reason", "x").code == 0
    before = Ledger.open(Workspace(waiting / ".expunge")).size
    refused = expunge(waiting, "cancel", "forget-8")
    assert refused.code == 2
    assert f"is {state}" in refused.err
    assert advice in refused.err
    assert len(refused.err.splitlines()) == 1
    assert Ledger.open(Workspace(waiting / ".expunge")).size == before


def test_a_released_model_is_withdrawn_not_cancelled(demo, expunge):
    refused = expunge(demo[0], "cancel", "forget-8")
    assert refused.code == 2
    assert "'expunge withdraw' takes the model out of service" in refused.err


@pytest.mark.thorough
def test_only_runs_that_came_to_a_verdict_count_as_attempts(waiting, expunge):
    kept = (waiting / REQUEST).read_text()
    broken(waiting)
    assert expunge(waiting, "run", REQUEST).code == 2
    failed = expunge(waiting, "status", "forget-8", "--json").json
    assert (failed["run"], failed["attempt"], failed["state"]) == ("forget-8.2", 2, "failed")
    (waiting / REQUEST).write_text(kept)
    change(waiting, seed=1)
    again = expunge(waiting, "run", REQUEST, "--json").json
    assert (again["run"], again["attempt"]) == ("forget-8.3", 2), "the failed run in between was no try"
    change(waiting, seed=2)
    third = expunge(waiting, "run", REQUEST, "--json").json
    assert (third["run"], third["attempt"]) == ("forget-8.4", 3)


@pytest.mark.thorough  # what the room itself does then: tests/components/unlearn/test_training_rooms.py
def test_a_loss_that_is_no_number_ends_the_run_and_names_the_step(fresh, expunge):
    change(fresh, method={"name": "adapt_then_unlearn", "preset": "debug", "params": {"generator_rate": 1e30}})
    failed = expunge(fresh, "run", REQUEST, "--json")
    assert failed.code == 1
    assert json.loads(failed.out)["error"] == "NonFiniteLoss"
    assert "step" in failed.err
    assert "Traceback" not in failed.err
    assert expunge(fresh, "status", "forget-8", "--json").json["state"] == "failed"
    assert not list(fresh.glob(".expunge/results/.*")), "half of a result is no result"
