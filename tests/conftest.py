"""Workspaces for tests: real ones, in temporary folders."""

import os

import pytest
from finished_run import FinishedRun

from expunge.settings import KEYS_VARIABLE, ROOTS_VARIABLE, RUN_VARIABLE, WORKSPACE_VARIABLE, Workspace

# Said before any test loads torch: waiting threads give up the core early, see docs/decisions/waiting.md.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in (WORKSPACE_VARIABLE, KEYS_VARIABLE, RUN_VARIABLE, ROOTS_VARIABLE):
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
