"""One debug-size demo per test session, made by the command itself; tests that change it get a copy."""

import fcntl
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import pytest
from docker_engine import engine, image  # noqa: F401 - fixtures
from tests_support import Done, call

from components.curate_forget_set.step import curate_forget_set
from components.fetch_checkpoint.step import fetch_checkpoint
from expunge import assets
from expunge.contracts import Request, SampleRole, SampleSet, parse_record, read_record_if_any, write_record
from expunge.measure.policy import preset_bytes
from expunge.samples import SampleTable
from expunge.settings import Workspace
from expunge.stores.sources import pin


@pytest.fixture(scope="session")
def expunge():
    """Calls the command in a folder: `expunge(folder, "run", "request.yaml")`."""
    return call


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Makes a folder once for all processes of a test session: `once("demo", make)` calls `make(folder)` or finds it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make_or_find(name, make):
        folder = shared / f"once-{name}"
        with (shared / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits; what failed is tried again
            if not (folder / "made").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                (folder / "made").touch()
        return folder

    return make_or_find


@pytest.fixture(scope="session")
def demo(once, expunge):
    """A finished debug-size demo: its folder and what it printed."""
    def make(folder):
        done = expunge(folder, "demo", "--debug-size", "--json", "--digit", "8", "--folder", folder / "it")
        assert done.code == 0, done.err + _log_of(folder / "it")
        (folder / "done.json").write_text(json.dumps(asdict(done)))

    folder = once("demo", make)
    return folder / "it", Done(**json.loads((folder / "done.json").read_text()))


@pytest.fixture
def copy_of_demo(demo, tmp_path):
    """The folder of the demo, to be spoiled."""
    folder = tmp_path / "copy"
    shutil.copytree(demo[0], folder, symlinks=True)
    return folder


@pytest.fixture
def fresh(demo, tmp_path, expunge):
    """A workspace in which nothing has run yet, and the demo's request."""
    shutil.copyfile(demo[0] / "request.yaml", tmp_path / "request.yaml")
    assert expunge(tmp_path, "init").code == 0
    return tmp_path


@pytest.fixture(scope="session")
def waiting_demo(demo, once, expunge):
    """A folder whose run has come to the gate and waits, with the keys of ada and grace."""
    def make(folder):
        it = folder / "it"
        it.mkdir()
        shutil.copyfile(demo[0] / "request.yaml", it / "request.yaml")
        assert expunge(it, "init").code == 0
        assert expunge(it, "keys", "new", "ada", "--role", "requester", "--role", "reviewer").code == 0
        assert expunge(it, "keys", "new", "grace", "--role", "reviewer").code == 0
        done = expunge(it, "run", "request.yaml", "--json")
        assert done.code == 10, done.err + _log_of(it)

    return once("waiting", make) / "it"


@pytest.fixture
def waiting(waiting_demo, tmp_path):
    """A copy of the waiting run."""
    folder = tmp_path / "waiting"
    shutil.copytree(waiting_demo, folder, symlinks=True)
    return folder


@pytest.fixture
def workspace_of():
    """The workspace in a folder."""
    return lambda folder: Workspace(folder / ".expunge")


@pytest.fixture
def first_rooms(workspace, tmp_path):
    """Fetches and curates, in this process, what a request in the test's folder asks for; the sets by role."""

    def work(request):
        file = tmp_path / "request.json"
        write_record(file, pin(parse_record(Request, request, "request"), tmp_path, workspace))
        fetched = {name: tmp_path / "in" / name
                   for name in ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")}
        fetch_checkpoint(request=file, statement=tmp_path / "s1.json", **fetched)
        (tmp_path / "policy.yaml").write_bytes(preset_bytes("debug"))
        made = {role: tmp_path / "out" / role for role in get_args(SampleRole)}
        curate_forget_set(request=file, checkpoint=fetched["checkpoint"], oracle=fetched["oracle"],
                          policy=tmp_path / "policy.yaml", statement=tmp_path / "s2.json", **made)
        return {role: record for role, folder in made.items() if (record := read_record_if_any(SampleSet, folder))}

    return work


@pytest.fixture
def pictures(tmp_path):
    """Writes a part of the built-in images as a Parquet file, `images` and `labels` to be changed on the way."""

    def write(name, which="train", change=lambda images, labels: (images, labels), names=()):
        images, labels = change(*assets.digits(which))
        (tmp_path / name).write_bytes(SampleTable(images, labels).to_parquet(names))
        return {"uri": name}

    return write


def _log_of(folder):
    return "".join(log.read_text()[-4000:] for log in Path(folder).glob(".expunge/runs/*/engine.log"))
