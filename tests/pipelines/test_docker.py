"""Rooms in containers: what is asked of an engine, and what is refused before one is asked. No engine is needed."""

import os
import re
from pathlib import Path

import pytest
import yaml
from finished_run import FinishedRun

from expunge import __version__
from expunge.contracts import ParentSource
from expunge.errors import BadInput
from expunge.events import TITLES
from pipelines.containers import CODE_LABEL, VERSION_LABEL, Mount, _as_docker_says, ask_for, code_here, require_ours

ROOT = Path(__file__).parent.parent.parent
IMAGE = f"sha256:{'a' * 64}"
SECRETS = {"AWS_SECRET_ACCESS_KEY": "of S3", "MLFLOW_TRACKING_PASSWORD": "of MLflow", "HF_TOKEN": "of the Hub"}
TALKING = {"fetch_checkpoint", "curate_forget_set", "deploy"}


@pytest.fixture
def run(workspace):
    return FinishedRun(workspace)


@pytest.fixture
def asked(run, workspace):
    """What each room asks for, in an environment that holds more than it needs."""
    def ask(request=run.request, **environment):
        told = {"EXPUNGE_RUN": run.name, "EXPUNGE_START": "1", "OMP_NUM_THREADS": "2", "PATH": "/bin",
                "EXPUNGE_KUBEFLOW_TOKEN": "of Kubeflow", "PGPASSWORD": "of the ledger", **SECRETS, **environment}
        return {room: ask_for(room, workspace, request, IMAGE, told) for room in TITLES}

    return ask


def test_a_room_writes_the_workspace_and_nothing_else_but_the_one_that_makes_keys(asked, workspace):
    keys, operator = workspace.keys / "requests", workspace.keys / "people" / "operator.pem"
    assert operator.is_file()
    for room, found in asked().items():
        assert set(found.mounts) == {
            Mount(workspace.root, True), Mount(keys, room == "curate_forget_set"), Mount(operator)}, room


def test_the_files_that_a_request_names_are_for_the_rooms_that_fetch(asked, run, tmp_path):
    model, factory = tmp_path / "model#1.pt", tmp_path / "factory.py"
    for file in (model, factory):
        file.touch()
    checkpoint = ParentSource(uri=f"file://{tmp_path}/model%231.pt", architecture=f"{factory}:build")
    there = asked(run.request.model_copy(update={"checkpoint": checkpoint}))
    seen = {room for room, found in there.items() if {Mount(model), Mount(factory)} <= set(found.mounts)}
    assert seen == {"fetch_checkpoint", "curate_forget_set"}
    model.unlink()  # the room says so, in its own words
    assert Mount(model) not in asked(run.request.model_copy(update={"checkpoint": checkpoint}))["adapt"].mounts


def test_keys_of_stores_go_to_the_rooms_that_talk_to_them_and_only_these_have_a_network(asked):
    for room, found in asked().items():
        assert (found.environment.items() >= SECRETS.items()) == (room in TALKING) == found.network, room
        assert found.environment.keys().isdisjoint(SECRETS) == (room not in TALKING), room
        assert found.environment.keys().isdisjoint({"PATH", "PGPASSWORD", "EXPUNGE_KUBEFLOW_TOKEN"}), room
        assert found.environment["EXPUNGE_IMAGE_DIGEST"] == IMAGE
        assert found.environment["OMP_NUM_THREADS"] == "2"
        assert found.user == f"{os.getuid()}:{os.getgid()}"


def test_with_a_database_or_a_gateway_elsewhere_every_room_has_a_network(asked, workspace):
    assert all(found.network for found in asked(EXPUNGE_PUSHGATEWAY="http://127.0.0.1:9091").values())
    (workspace.root / "config.yaml").write_text(
        "schema: expunge/config/v1\ndatabase: postgresql+psycopg://expunge@db.example/expunge\n")
    for found in asked().values():
        assert found.network
        assert found.environment["PGPASSWORD"] == "of the ledger"


def test_training_is_told_how_many_processes_it_has_and_reaches_the_store_of_its_state_and_no_other_room_does(
        asked, workspace, tmp_path):
    training = {"adapt", "unlearn"}
    store = tmp_path / "disk"
    (workspace.root / "config.yaml").write_text(f"schema: expunge/config/v1\ntraining_state: {{store: {store}}}\n")
    absent = asked(EXPUNGE_PROCESSES="2", EXPUNGE_STATE_EVERY="5")
    store.mkdir()
    for room, found in asked().items():
        assert (Mount(store, True) in found.mounts) == (room in training), room
        assert found.network == (room in TALKING), room
        assert absent[room].mounts == tuple(mount for mount in found.mounts if mount.path != store)
        told = {name: absent[room].environment.get(name) for name in ("EXPUNGE_PROCESSES", "EXPUNGE_STATE_EVERY")}
        assert set(told.values()) == ({"2", "5"} if room in training else {None}), room
        assert _as_docker_says(found).get("hostname") == (None if found.network else "localhost"), "processes find each other"
    far = asked(EXPUNGE_STATE_STORE="s3://states/here")
    for room, found in far.items():
        assert found.network == (room in TALKING | training), room
        assert ("AWS_SECRET_ACCESS_KEY" in found.environment) == found.network, room
        assert ("HF_TOKEN" in found.environment) == (room in TALKING), room
        assert Mount(store, True) not in found.mounts, room
    unusable = asked(EXPUNGE_STATE_EVERY="often")["adapt"]  # the room says so
    assert unusable.environment["EXPUNGE_STATE_EVERY"] == "often"


@pytest.mark.parametrize(("labels", "complaint"), [
    ({}, "does not say which expunge is in it"),
    ({VERSION_LABEL: "0.0.9"}, f"holds expunge 0.0.9, this is {__version__}"),
    ({VERSION_LABEL: __version__, CODE_LABEL: "b" * 64}, f"holds other code than this expunge {__version__}"),
])
def test_an_image_of_another_expunge_is_refused(labels, complaint):
    with pytest.raises(BadInput, match=re.escape(f"--image: 'old' {complaint}")) as refused:
        require_ours("old", labels)
    assert refused.value.remedy == "build it: make images"
    require_ours("new", {VERSION_LABEL: __version__, CODE_LABEL: code_here()})


@pytest.mark.parametrize(("arguments", "complaint"), [
    (("--runner", "docker"), "--runner docker: no Docker engine answers"),
    (("--image", "old"), "--image: rooms work in no image without --runner docker"),
    (("--runner", "podman"), "Invalid value for '--runner'"),
])
def test_what_cannot_run_in_containers_is_said_in_one_line_and_nothing_is_begun(
        expunge, tmp_path, arguments, complaint, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    done = expunge(tmp_path, "run", "request.yaml", *arguments)
    assert done.code == 2
    assert complaint in done.err
    assert len(done.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_is_built_from_and_what_is_started_beside_it_is_pinned():
    recipe = (ROOT / "docker" / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", recipe, re.MULTILINE))
    assert set(re.findall(r"^FROM (\S+)", recipe, re.MULTILINE)) - stages == {"python:3.11-slim-bookworm"}
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert re.fullmatch(r"(expunge-python:(cpu|console)|\S+:v?\d+\.\d+(\.\d+)?(-\w+)?)", service["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), f"{name} is open to others"
        if service.get("network_mode") == "host":  # then it is what it listens on by itself
            assert "--host" not in service.get("command", ()), f"{name} is open to others"


def test_what_a_build_is_given_is_what_the_recipe_copies():
    given = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    assert given == {path for line in copied for path in line.split()}
    assert os.access(ROOT / "docker" / "install", os.X_OK)
