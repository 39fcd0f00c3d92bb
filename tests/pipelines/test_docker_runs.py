"""Containers that are killed, stopped, never started: what a run comes to, and what is left. Needs a Docker engine and the image: `make test-cluster`."""

import json
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from docker.errors import APIError
from docker_engine import containers_of, write_request
from tests_support import EXPUNGE, bare_environment

from expunge.configuration import CONFIG_FILE
from expunge.errors import BadInput
from expunge.events import TITLES
from expunge.room import RESUME_SUFFIX
from expunge.together import PROCESSES_VARIABLE
from pipelines import containers

pytestmark = pytest.mark.cluster
REQUEST = ("run", "request.yaml", "--runner", "docker", "--json")


@pytest.fixture
def begun(tmp_path, expunge):
    """A workspace in which nothing has run yet, and the demo's request."""
    write_request(tmp_path)
    assert expunge(tmp_path, "init").code == 0
    return tmp_path


def progress(folder, room):
    """How often a room has said how far it is, in all runs of a workspace."""
    return sum((event["room"], event["kind"]) == (room, "progress")
               for log in folder.glob(".expunge/runs/*/events.jsonl") for event in map(json.loads, log.open()))


def kill_a_container(engine, folder, room, after):
    """Kills the container of a room some seconds after it is there; the next room's, if it has ended by then."""
    rooms, until = list(TITLES), time.monotonic() + 120
    waited = False
    while time.monotonic() < until:
        for found in containers_of(engine, folder):
            if rooms.index(found.labels[containers.ROOM_LABEL]) < rooms.index(room):
                continue
            if not waited:
                time.sleep(after)
                waited = True
            with suppress(APIError):  # it has ended, or not begun
                found.kill()
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing to kill from {room} on")


@pytest.fixture
def start(begun):
    """Begins the run, and hands out its process. None outlives its test."""
    started = []

    def begin():
        started.append(subprocess.Popen(
            [str(EXPUNGE), *REQUEST], cwd=begun, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=bare_environment()))
        return started[-1]

    yield begin
    for run in started:
        run.kill()
        run.wait()


def candidates(folder):
    return {json.loads(record.read_text())["weights"]["sha256"]
            for record in folder.glob(".expunge/results/unlearn-*/candidate/record.json")}


# Each moment is a part of the seconds that the room takes, from when its container is there.
MOMENTS = ("fetch_checkpoint", "curate_forget_set", "curate_forget_set", "adapt", "adapt", "unlearn", "unlearn", "unlearn",
           "evaluate", "evaluate")


def test_a_run_whose_containers_are_killed_at_ten_random_moments_comes_to_the_same_candidate(
        engine, image, demo, begun, start, expunge):
    chance = random.Random(9)
    log, = demo[0].glob(".expunge/runs/*/events.jsonl")
    seconds = {event["room"]: event["seconds"] for event in map(json.loads, log.open()) if event["kind"] == "finished"}
    for room in MOMENTS:
        run = start()
        kill_a_container(engine, begun, room, chance.uniform(0, min(seconds[room], 6)))  # nothing comes after the gate
        assert run.wait(60) == 1, f"killed in {room}"
        assert "ended without a word, as if killed" in expunge(begun, "status", "forget-8", "--json").json["reason"]
        assert not containers_of(engine, begun)
    done = expunge(begun, *REQUEST)
    assert done.code == 10, done.err
    assert candidates(begun) == candidates(demo[0])
    assert expunge(begun, "audit", "verify").code == 0
    assert not list(begun.glob(".expunge/results/.*scratch"))


def test_training_in_containers_has_two_processes_and_goes_on_from_the_copy_of_its_state_without_the_state_itself(
        engine, image, begun, start, expunge, tmp_path_factory, monkeypatch):
    store = tmp_path_factory.mktemp("disk") / "states"
    monkeypatch.setenv(PROCESSES_VARIABLE, "2")
    (begun / ".expunge" / CONFIG_FILE).write_text(
        f"schema: expunge/config/v1\ntraining_state: {{store: {store}, every: 0}}\n")
    run, until = start(), time.monotonic() + 480
    while not list(store.rglob(f"adapt-*{RESUME_SUFFIX}")):
        assert run.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    found, = containers_of(engine, begun)
    found.kill()
    assert run.wait(60) == 1
    for state in begun.glob(f".expunge/**/*{RESUME_SUFFIX}"):
        state.unlink()
    done = expunge(begun, *REQUEST)
    assert done.code == 10, done.err
    events, = begun.glob(".expunge/runs/*/events.jsonl")
    assert "goes on from the state that was kept in the store" in events.read_text()
    made, = begun.glob(".expunge/results/unlearn-*/candidate/record.json")
    assert json.loads(made.read_text())["compute"]["device"] == "cpu x 2"
    assert not list(store.rglob(f"*{RESUME_SUFFIX}"))


def test_no_container_outlives_its_supervisor(engine, image, begun, start):
    for how, code, within in ((signal.SIGKILL, -signal.SIGKILL, 10), (signal.SIGTERM, 31, 0)):
        before, run, until = progress(begun, "unlearn"), start(), time.monotonic() + 240
        while progress(begun, "unlearn") == before:
            assert run.poll() is None
            assert time.monotonic() < until, "unlearn was never at work"
            time.sleep(0.05)
        assert len(containers_of(engine, begun)) == 1, "that of unlearn"
        run.send_signal(how)
        assert run.wait(60) == code
        until = time.monotonic() + within
        while left := containers_of(engine, begun):
            assert time.monotonic() < until, f"{left} still there"
            time.sleep(0.05)


def test_what_was_made_and_never_started_is_removed_by_the_next_start(engine, image, workspace):
    engine.containers.create(image, labels={containers.WORKSPACE_LABEL: str(workspace.root)})
    assert containers.remove_containers(containers.WORKSPACE_LABEL, str(workspace.root)) == 1
    assert containers.remove_containers(containers.WORKSPACE_LABEL, str(workspace.root)) == 0


@pytest.mark.parametrize(("change", "complaint"), [
    ({"mounts": (containers.Mount(Path("/no/such/folder")),)}, "/no/such/folder"), ({"user": "nobody-knows"}, "user")])
def test_a_container_that_cannot_be_made_or_started_is_a_failed_step_and_stays_nowhere(
        engine, image, workspace, capfd, change, complaint):
    labels = {containers.WORKSPACE_LABEL: str(workspace.root)}
    asked = replace(containers.Asked("adapt", (), {}, False, "10001:10001", labels), **change)
    assert containers._run(engine, ["true"], asked, image, workspace) != 0
    assert re.search(f'"failed".*the Docker engine says: .*{complaint}', capfd.readouterr().out)
    assert not containers_of(engine, workspace.root.parent)


@pytest.mark.parametrize(("name", "complaint"), [
    ("no-such-image:1", "there is no image 'no-such-image:1' on this machine"),
    ("python:3.11-slim-bookworm", "does not say which expunge is in it"), ("Not An Image", "'Not An Image': ")])
def test_an_image_that_is_not_there_or_not_ours_is_refused(engine, name, complaint):
    with pytest.raises(BadInput, match=complaint):
        containers.find_image(name)
