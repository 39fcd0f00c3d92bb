"""Removes what killed processes left: half-written files, scratch folders, state that nobody continues from.

Done when a run starts, by the one supervisor of the workspace, so that a kill leaves nothing for good. What
another command may be writing at this moment is locked by it, and left alone.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from expunge.digests import sweep_halves
from expunge.errors import WorkspaceBusy
from expunge.room import RESUME_SUFFIX, SCRATCH_SUFFIX, exclusive
from expunge.runs import UNFINISHED, Run
from expunge.settings import Workspace

_OF_OTHERS = (".git", ".dvc", "sample-remote", "mlflow")  # what Git, DVC and MLflow keep, and clean up, themselves

def sweep(workspace: Workspace) -> None:
    """Leaves nothing of killed processes but what the next start continues from."""
    for run in Run.all(workspace):
        for left in (*run.folder.glob("alive*"), *run.folder.glob("cancel.*")):
            left.unlink(missing_ok=True)
        for scratch in run.folder.glob("kfp*"):
            shutil.rmtree(scratch, ignore_errors=True)
    for scratch in workspace.results.glob(f".*{SCRATCH_SUFFIX}"):
        _remove_unless_locked(scratch, workspace.results / f"{scratch.name[1:].rpartition('-')[0]}.lock")
    for scratch in workspace.releases.glob("*/.scratch"):
        _remove_unless_locked(scratch, scratch.with_name(".lock"))
    for scratch in workspace.tracking.glob("tmp*"):  # of MLflow's tables, made by a supervisor or its steps
        shutil.rmtree(scratch, ignore_errors=True)
    sweep_halves(_written_folders(workspace))
    sweep_resume_state(workspace)


def sweep_resume_state(workspace: Workspace) -> None:
    """Removes the state of runs that are not going to continue: decided ones, and those before the latest."""
    latest = {run.state().request_id: run for run in Run.all(workspace)}
    for run in Run.all(workspace):
        if latest[run.state().request_id].name != run.name or run.state().state not in UNFINISHED:
            for file in run.folder.glob(f"*{RESUME_SUFFIX}"):
                file.unlink(missing_ok=True)


def _remove_unless_locked(scratch: Path, lock: Path) -> None:
    with suppress(WorkspaceBusy), exclusive(lock, "", ""):
        shutil.rmtree(scratch, ignore_errors=True)


def _written_folders(workspace: Workspace) -> Iterator[Path]:
    """Every folder in which files are written in one step, whoever writes them."""
    for place in (workspace.root, workspace.keys):
        for folder, inside, _ in os.walk(place):
            inside[:] = [name for name in inside if name not in _OF_OTHERS]
            yield Path(folder)
