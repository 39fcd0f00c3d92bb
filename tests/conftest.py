"""Workspaces for tests: real ones, in temporary folders. Where those lie, and which tests come first."""

import os
import shutil
from collections import Counter
from pathlib import Path

import psutil
import pytest
from finished_run import FinishedRun
from postgresql_server import postgresql  # noqa: F401 - a fixture

from expunge.settings import KEYS_VARIABLE, ROOTS_VARIABLE, RUN_VARIABLE, WORKSPACE_VARIABLE, Workspace
from expunge.stores.telemetry import GATEWAY_VARIABLE

# Said before any test loads torch: waiting threads give up the core early, see docs/decisions/waiting.md.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_MEMORY = Path("/dev/shm")
_ROOM = 4 * 2**30  # bytes: the folders of all tests at once are less


def pytest_configure():
    """Temporary folders lie in memory where there is plenty: otherwise many tests wait for a disk most of their time.

    What they call flushes its files all the same. PYTEST_DEBUG_TEMPROOT or --basetemp say otherwise.
    """
    if (os.access(_MEMORY, os.W_OK) and not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
            and shutil.disk_usage(_MEMORY).free > _ROOM and psutil.virtual_memory().available > 2 * _ROOM):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


@pytest.hookimpl(trylast=True)  # of those that are selected
def pytest_collection_modifyitems(items):
    """Files with the most slow tests come first, so that no process is left alone with a long one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    whole = {item.path for item in items if "pipelines" in item.path.parts}
    items.sort(key=lambda item: (-slow[item.path], item.path not in whole))  # stable: the order in a file stays


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in (WORKSPACE_VARIABLE, KEYS_VARIABLE, RUN_VARIABLE, ROOTS_VARIABLE, GATEWAY_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace as `expunge init` makes it, and the process told about it."""
    from pipelines.workspace import initialise

    made = initialise(Workspace(tmp_path / ".expunge"))
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(made.root))
    return made


@pytest.fixture
def begin_run(workspace, monkeypatch):
    """Begins a tiny run; what is entered next belongs to it. MLflow is a server that does not answer."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    def begin(**changes):
        run = FinishedRun(workspace, **changes)
        monkeypatch.setenv(RUN_VARIABLE, run.name)
        return run

    return begin
