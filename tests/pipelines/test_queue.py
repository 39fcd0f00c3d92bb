"""Working the queue: what is filed is carried out once, whoever dies or comes at the same moment."""

import json
import os
import re
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import get_args

import pytest
import yaml
from tests_support import EXPUNGE, bare_environment, blocks, call, typed

from expunge.contracts import Request, parse_record, write_record
from expunge.errors import DoesNotVerify, ExpungeError, NonFiniteLoss, Refused
from expunge.room import exclusive
from expunge.runs import Run
from expunge.settings import RUN_VARIABLE, Workspace
from expunge.stores import releases
from expunge.stores.queue import Queue, Stage, file_request
from pipelines.cli import carry_out
from pipelines.demo import request_for
from pipelines.metrics import collected
from pipelines.queueing import Engine, explained, work

REQUEST = {**request_for(8, 0, True), "reference": None}


class Killed(BaseException):
    """A worker's end, wherever it is."""


class Rooms(Engine):
    """Runs of the real gate and the real deploy; what they decide on is made up."""

    made = None

    def start(self, workspace, request):
        from finished_run import FinishedRun

        os.environ[RUN_VARIABLE] = "forget-8.1"
        made = FinishedRun(workspace)
        made.request = request
        write_record(made.request_file, request)
        type(self).made = made.make()
        assert made.gate() == "waiting"
        return made.as_run("awaiting_approval").state()

    def release(self, workspace, run):
        from expunge.runs import RoomState

        assert self.made.gate() == "open"
        self.made.deploy()
        self.made.conclude()
        rooms = {room: RoomState(result=folder, seconds=0.1, reused=False) for room, folder in self.made.results.items()}
        return run.write(run.state().model_copy(update={"state": "released", "rooms": rooms}))


@pytest.fixture
def filed(workspace, monkeypatch):
    """A workspace with a filed request."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv(RUN_VARIABLE, "-")
    file_request(workspace, parse_record(Request, REQUEST, "request"), workspace.root)
    return workspace


def ticket(workspace):
    seen, = Queue.of(workspace).all()
    return seen.ticket


def later(workspace, seconds=100_000):
    """As if so much time had passed since the ticket was written."""
    file, = workspace.root.glob("requests/*/ticket.json")
    written = file.stat().st_mtime - seconds
    os.utime(file, (written, written))


STEPS = {"claimed": (Queue, "claim"), "pinned": (Queue, "keep_pinned"), "run": (Rooms, "start"),
         "written down": (Queue, "came_to")}


ALWAYS = {("run", "claimed", False), ("run", "run", False), ("release", "run", False)}
# The three moments between which everything lies are always tried, the others by `make test-thorough`.
MOMENTS = [pytest.param(stage, step, before, id=f"{stage}, just {'before' if before else 'after'} {step}", marks=() if (
    stage, step, before) in ALWAYS else pytest.mark.thorough)
    for stage in ("run", "release") for step in STEPS for before in (True, False) if (stage, step) != ("release", "pinned")]


@pytest.mark.parametrize(("stage", "step", "before"), MOMENTS)
def test_a_worker_that_dies_anywhere_leaves_one_run_and_one_release(filed, monkeypatch, stage, step, before):
    if stage == "release":
        work(filed, Rooms())
        assert work(filed, Rooms()) == [], "it waits for people"
        Rooms.made.sign()
    place, name = STEPS[step]
    name = "release" if (step, stage) == ("run", "release") else name
    real = getattr(place, name)

    def dying(*given, **named):
        if not before:
            real(*given, **named)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(place, name, dying)
        with pytest.raises(Killed):
            work(filed, Rooms())
    later(filed)
    work(filed, Rooms())
    if stage == "run":
        assert ticket(filed).stage == "waiting"
        Rooms.made.sign()
        work(filed, Rooms())
    assert (ticket(filed).stage, ticket(filed).run, ticket(filed).outcome) == ("released", "forget-8.1", "released")
    assert [run.name for run in Run.all(filed)] == ["forget-8.1"]
    assert len(releases.history(filed, "digits")) == 1
    assert work(filed, Rooms()) == []


@pytest.mark.parametrize(("error", "stages"), [
    (ExpungeError("the store is away"), ["filed", "filed", "failed"]), (Refused("another digest"), ["failed"]),
    (NonFiniteLoss("step 3"), ["failed"])])
def test_what_may_pass_is_tried_again_and_what_cannot_is_given_up_at_once(filed, monkeypatch, error, stages):
    def fails(*_):
        raise error

    monkeypatch.setattr(Rooms, "start", fails)
    for number, stage in enumerate(stages, 1):
        worked, = work(filed, Rooms())
        assert (worked.stage, worked.attempts, worked.error) == (stage, number, str(error))
        assert worked.exit_code == (error.exit_code if stage == "failed" else 0)
        assert work(filed, Rooms()) == [], "it waits, or is over"
        later(filed)
    assert work(filed, Rooms()) == []
    assert explained(Queue.of(filed).all()[0]) == f"given up: {error}"


def test_a_spoiled_ticket_is_told_after_all_others_were_seen_to(filed, capsys):
    (filed.root / "requests" / ("0" * 64)).mkdir()
    (filed.root / "requests" / ("0" * 64) / "ticket.json").write_text("{}")
    with pytest.raises(DoesNotVerify, match="is no ticket of ours"):
        work(filed, Rooms())
    assert ticket(filed).stage == "waiting"
    assert carry_out(["queue", "list"]) == 40
    printed = capsys.readouterr()
    assert "forget-8.1 is awaiting approval" in printed.out
    assert "is no ticket of ours" in printed.err


def test_what_waits_is_counted_and_the_oldest_is_known(filed):
    def counted():
        found = collected(filed).get_sample_value
        return ([found("expunge_queue_requests", {"stage": stage}) for stage in ("filed", "waiting")],
                found("expunge_queue_oldest_timestamp_seconds"))

    assert counted() == ([1, 0], datetime.fromisoformat(ticket(filed).filed_at).timestamp())
    work(filed, Rooms())
    assert counted() == ([0, 1], None)


def test_a_busy_workspace_costs_no_attempt(filed, capsys):
    with exclusive(filed.root / "supervisor.lock", "", ""):
        assert carry_out(["queue", "work"]) == 75
    assert "another run works in" in capsys.readouterr().err
    assert (ticket(filed).stage, ticket(filed).attempts) == ("filed", 0)


def test_a_worker_that_is_slow_gives_signs_of_life(filed, monkeypatch):
    def slow(*given):
        deadline = time.monotonic() + 20
        while ticket(filed).change < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        raise ExpungeError("it was away")

    monkeypatch.setattr(Rooms, "start", slow)
    worked, = work(filed, Rooms(), lease=0.2)
    assert worked.error == "it was away"
    assert ticket(filed).change >= 5, "filed, claimed, two signs of life, failed"


def test_who_lost_the_lease_meanwhile_leaves_the_ticket_to_whoever_has_it(filed, monkeypatch):
    start = Rooms.start

    def overtaken(self, workspace, request):
        later(workspace)
        assert Queue.of(workspace).claim(Queue.of(workspace).all()[0], "another") is not None
        return start(self, workspace, request)

    with monkeypatch.context() as patched:
        patched.setattr(Rooms, "start", overtaken)
        worked, = work(filed, Rooms())
    assert (worked.stage, ticket(filed).worker) == ("claimed", "another")
    later(filed)
    work(filed, Rooms())
    assert (ticket(filed).stage, len(Run.all(filed))) == ("waiting", 1)


def test_a_rejected_run_closes_its_request_and_the_views_say_where_all_stands(filed, capsys):
    def listed():
        assert carry_out(["queue", "list"]) == 0
        return capsys.readouterr().out.split("  ", 2)[2].strip()

    assert listed() == "filed: waits for a worker"
    work(filed, Rooms())
    assert listed() == "waiting: forget-8.1 is awaiting approval: see 'expunge status forget-8.1'"
    Rooms.made.sign(decision="reject")
    work(filed, Rooms())
    assert listed() == "closed: forget-8.1 is rejected"
    assert carry_out(["queue", "withdraw", "forget-8"]) == 2
    assert "request 'forget-8' is closed: there is nothing to take back" in capsys.readouterr().err


def test_the_verbs_file_once_and_complain_in_one_line(workspace, tmp_path, capsys):
    def say(*words, **changes):
        (tmp_path / "request.yaml").write_text(yaml.safe_dump({**REQUEST, **changes}))
        code = carry_out(["queue", *words, "--json"])
        printed = capsys.readouterr()
        assert len(printed.err.splitlines()) == (code != 0)
        return code, json.loads(printed.out)

    file = ("file", str(tmp_path / "request.yaml"), "--as", "grace")
    for changes, problem in (({"policy": "none"}, "policy: 'none' is not known"), ({"seeed": 1}, "unknown key 'seeed'"),
                             ({"method": {"name": "magic"}}, "method 'magic' is not known")):
        code, said = say(*file, **changes)
        assert (code, problem in said["problem"]) == (2, True), said
    assert say("list") == (0, [])
    assert say(*file)[1].items() >= {"filed_now": True, "filed_by": "grace", "stage": "filed"}.items()
    assert say(*file)[1].items() >= {"filed_now": False, "filed_by": "grace"}.items()
    assert say("withdraw", "forget-8")[1]["stage"] == "withdrawn"
    assert say(*file, "--again")[1].items() >= {"filed_now": True, "round": 2}.items()


# --------------------------------------------------------------------------------------- real processes


@pytest.fixture
def approved(waiting):
    """A folder whose filed request waits for its release."""
    assert call(waiting, "queue", "file", "request.yaml").code == 0
    done = call(waiting, "queue", "work", "--json")
    assert (done.code, done.json[0]["stage"], done.json[0]["run"]) == (0, "waiting", "forget-8.1"), done.err
    assert call(waiting, "approve", "forget-8", "--as", "grace", "--reason", "it is gone").code == 0
    return waiting


def worker(folder):
    return subprocess.Popen([str(EXPUNGE), "queue", "work", "--lease", "2", "--json"], cwd=folder, env=bare_environment(),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def released_once(folder):
    seen, = Queue.of(Workspace(folder / ".expunge")).all()
    assert (seen.ticket.stage, seen.ticket.run) == ("released", "forget-8.1")
    assert len(list(folder.glob(".expunge/releases/digits/[0-9]*"))) == 1
    assert call(folder, "audit", "verify").code == 0


@pytest.mark.thorough
def test_the_page_can_be_followed_line_by_line(waiting):
    page = (Path(__file__).parents[2] / "docs" / "queue.md").read_text()
    filed, worked, again, scheduled = typed(blocks(page, "bash"), waiting)
    assert "filed: waits for a worker" in filed
    assert worked.rstrip().endswith("released: forget-8.1 is released")
    assert "released by forget-8.1: PASS" in again
    assert scheduled.count("queue work") == scheduled.count("audit again") == 3, "a crontab's line, a service and a timer"
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(get_args(Stage))


@pytest.mark.thorough
def test_of_two_workers_at_once_one_releases(approved):
    two = [worker(approved) for _ in range(2)]
    said = [(*one.communicate(), one.returncode) for one in two]
    assert sorted(code for *_, code in said) in ([0, 0], [0, 75]), said
    released_once(approved)


@pytest.mark.thorough
@pytest.mark.parametrize("room", ["gate", "deploy"])
def test_a_worker_killed_in_the_middle_of_a_release_is_followed_by_one_that_ends_it(approved, room):
    first = worker(approved)
    log = approved / ".expunge" / "runs" / "forget-8.1" / "events.jsonl"
    began = len(log.read_text().splitlines())
    deadline = time.monotonic() + 120
    while not any(json.loads(line)["room"] == room for line in log.read_text().splitlines()[began:] if line.endswith("}")):
        assert time.monotonic() < deadline
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    listed = call(approved, "queue", "list", "--json").json[0]
    assert listed["stage"] == "claimed"
    time.sleep(2.5)  # its lease: a real clock, and real processes
    done = call(approved, "queue", "work", "--json")
    assert (done.code, done.json[0]["stage"]) == (0, "released"), done.err + done.out
    released_once(approved)
