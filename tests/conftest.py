"""Workspaces for tests: real ones, in temporary folders."""

import pytest

from expunge.settings import KEYS_VARIABLE, RUN_VARIABLE, WORKSPACE_VARIABLE, Workspace


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in (WORKSPACE_VARIABLE, KEYS_VARIABLE, RUN_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace as `expunge init` makes it, and the process told about it."""
    from pipelines.workspace import initialise

    made = initialise(Workspace(tmp_path / ".expunge"))
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(made.root))
    return made
