"""The digits request, every room of it in a container. Needs a Docker engine and the image: `make test-cluster`."""

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests_support import EXPUNGE, bare_environment

from expunge import __version__
from expunge.errors import BadInput
from expunge.evidence.keys import Keyring
from expunge.evidence.statements import RoomPredicate, open_statement
from expunge.room import STATEMENT_FILE
from expunge.settings import Workspace
from pipelines import containers
from pipelines.demo import request_for

pytestmark = pytest.mark.cluster
REQUEST = ("run", "request.yaml", "--runner", "docker", "--json")


@pytest.fixture(scope="module")
def engine():
    """This machine's engine. Without one there is nothing to test; with one that lacks the image, something is wrong."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
    except DockerException as error:
        pytest.skip(f"no Docker engine: {error}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def image(engine):
    return containers.find_image()


@pytest.fixture
def begun(tmp_path, expunge):
    """A workspace in which nothing has run yet, and the demo's request."""
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(request_for(8, 0, True)))
    assert expunge(tmp_path, "init").code == 0
    return tmp_path


def containers_of(engine, folder):
    return engine.containers.list(all=True, filters={"label": f"{containers.WORKSPACE_LABEL}={folder}/.expunge"})


def at_work(engine, folder, room):
    """The container of a room, once it is at work; no other room has one meanwhile."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        for log in folder.glob(".expunge/runs/*/events.jsonl"):
            if any((event["room"], event["kind"]) == (room, "progress") for event in map(json.loads, log.open())):
                found, = containers_of(engine, folder)
                return found
        time.sleep(0.05)
    raise AssertionError(f"{room} was never at work")


def start(folder):
    return subprocess.Popen([str(EXPUNGE), *REQUEST], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, env=bare_environment())


def candidates(folder):
    return {json.loads(record.read_text())["weights"]["sha256"]
            for record in folder.glob(".expunge/results/unlearn-*/candidate/record.json")}


def rooms_of(folder):
    keyring = Keyring.load(Workspace(folder / ".expunge"))
    return [open_statement(file.read_bytes(), keyring, RoomPredicate)[0].predicate
            for file in folder.glob(f".expunge/results/*/{STATEMENT_FILE}")]


def test_a_request_goes_through_containers_to_a_release_and_makes_the_same_candidate(
        engine, image, demo, begun, expunge):
    assert expunge(begun, "keys", "new", "ada", "--role", "requester").code == 0
    assert expunge(begun, "keys", "new", "grace", "--role", "reviewer").code == 0
    done = expunge(begun, *REQUEST)
    assert done.code == 10, done.err + "".join(log.read_text()[-4000:] for log in begun.glob(".expunge/runs/*/engine.log"))
    assert candidates(begun) == candidates(demo[0]), "a process of this installation makes the very same"
    assert expunge(begun, "approve", "forget-8", "--as", "grace", "--reason", "no eights").code == 0
    released = expunge(begun, "release", "forget-8", "--runner", "docker", "--json")
    assert released.code == 0, released.err
    assert {predicate.image for predicate in rooms_of(begun)} == {image}
    assert expunge(begun, "audit", "verify").code == 0
    assert not containers_of(engine, begun)
    assert {path.stat().st_uid for path in (begun / ".expunge").rglob("*")} == {os.getuid()}


def test_a_killed_container_is_a_killed_room_and_the_run_goes_on_to_the_same_candidate(
        engine, image, demo, begun, expunge):
    run = start(begun)
    at_work(engine, begun, "unlearn").kill()
    assert run.wait(60) == 1
    assert "ended without a word, as if killed" in expunge(begun, "status", "forget-8", "--json").json["reason"]
    assert not containers_of(engine, begun)
    assert expunge(begun, *REQUEST).code == 10
    assert candidates(begun) == candidates(demo[0])


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 31), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_container_outlives_its_supervisor(engine, image, begun, how, code):
    run = start(begun)
    at_work(engine, begun, "unlearn")
    run.send_signal(how)
    assert run.wait(60) == code
    until = time.monotonic() + (10 if how == signal.SIGKILL else 0)
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


def test_the_image_is_small_holds_no_tool_for_building_and_runs_as_nobody_in_particular(engine, image):
    base, ours = (engine.images.get(name).attrs["Size"] for name in ("python:3.11-slim-bookworm", image))
    assert ours - base <= 1.6e9
    assert engine.images.get(image).attrs["Config"]["User"] == "10001:10001"
    script = "id -u; ! which gcc make; ! ls /opt/expunge/bin/pip /src; ! touch /there; expunge --version"
    said = engine.containers.run(image, ["sh", "-ec", script], read_only=True, tmpfs={"/tmp": ""}, network_mode="none",
                                 cap_drop=["ALL"], remove=True)
    assert said.decode().split() == ["10001", "expunge", __version__]
