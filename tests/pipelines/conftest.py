"""One debug-size demo per test session, made by the command itself; tests that change it get a copy."""

import shutil
from pathlib import Path

import pytest
from tests_support import call

from expunge.settings import Workspace


@pytest.fixture(scope="session")
def expunge():
    """Calls the command in a folder: `expunge(folder, "run", "request.yaml")`."""
    return call


@pytest.fixture(scope="session")
def demo(tmp_path_factory, expunge):
    """A finished debug-size demo: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "it"
    done = expunge(folder.parent, "demo", "--debug-size", "--json", "--digit", "8", "--folder", folder)
    assert done.code == 0, done.err + _log_of(folder)
    return folder, done


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
def waiting_demo(demo, tmp_path_factory, expunge):
    """A folder whose run has come to the gate and waits, with the keys of ada and grace."""
    folder = tmp_path_factory.mktemp("waiting")
    shutil.copyfile(demo[0] / "request.yaml", folder / "request.yaml")
    assert expunge(folder, "init").code == 0
    assert expunge(folder, "keys", "new", "ada", "--role", "requester", "--role", "reviewer").code == 0
    assert expunge(folder, "keys", "new", "grace", "--role", "reviewer").code == 0
    done = expunge(folder, "run", "request.yaml", "--json")
    assert done.code == 10, done.err + _log_of(folder)
    return folder


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


def _log_of(folder):
    return "".join(log.read_text()[-4000:] for log in Path(folder).glob(".expunge/runs/*/engine.log"))
