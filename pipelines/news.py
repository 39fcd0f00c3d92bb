"""Tells MLflow what a run does, beside the run and never in its way.

One thread, so that opening MLflow costs the run no time. What cannot be told is said once, and the run goes on.
"""

import queue
import threading
from collections.abc import Callable
from typing import get_args

from expunge.contracts import RECORD_FILE, Candidate, Release, SampleRole, SampleSet, read_record, read_record_if_any
from expunge.digests import sha256_file
from expunge.errors import ExpungeError
from expunge.events import Event
from expunge.runs import Run, RunState
from expunge.stores.tracking import Told, Tracking

_PATIENCE = 30.0  # seconds that a finished run waits for MLflow to take in the last news
_BRIEF = 5.0  # and one that somebody wants to be stopped


def lineage_of(run: Run, state: RunState) -> dict[str, str]:
    """The walk from a request to what is served, as far as a run has come: of each step its digest.

    They are those of the signed statements, so that `expunge audit show` has each again.
    """
    found = {"request": state.request_sha256}
    if "unlearn" in state.rooms:
        candidate = read_record(Candidate, run.output("unlearn", "candidate"))
        found |= {"parent": candidate.parent_sha256, "adaptation": candidate.adaptation_sha256,
                  "candidate": candidate.weights.sha256}
    if "evaluate" in state.rooms:
        found["report"] = sha256_file(run.output("evaluate", "report") / RECORD_FILE)
    if "gate" in state.rooms:
        found |= {"verdict": sha256_file(run.output("gate", "verdict") / RECORD_FILE), "outcome": run.verdict().outcome}
    if "deploy" in state.rooms:
        release = read_record(Release, run.output("deploy", "release"))
        found |= {"release": release.weights.sha256, "serves": f"{release.model}, generation {release.generation}"}
    return found


class News:
    """What is told of one stretch of a run."""

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._tracking = Tracking.for_workspace(run.workspace)
        self._queue: queue.Queue[Callable[[], Told] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._complaint = ""
        self._mlflow_run: str | None = None

    def tell(self, event: Event) -> None:
        """A room has finished."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="news")
            self._thread.start()
        if event.room == "curate_forget_set":
            for role in get_args(SampleRole):
                record = read_record_if_any(SampleSet, self._run.output(event.room, role))
                if record is not None:
                    self._queue.put(lambda record=record: self._tracking.log_sample_set(self._id, record))  # type: ignore[misc]

    def finish(self, state: RunState) -> str | None:
        """Waits until everything is told, or until patience ends. Returns MLflow's id of the run, if it has one."""
        if self._thread is None:
            return state.mlflow_run
        failed, patience = state.state == "failed", _BRIEF if state.state == "cancelled" else _PATIENCE
        if "evaluate" in state.rooms:
            page = self._run.page if self._run.page.exists() else None
            self._queue.put(lambda: self._tracking.log_report(self._id, self._run.report(), page))
        self._queue.put(lambda: self._tell_lineage(state))
        self._queue.put(lambda: self._tracking.finish(self._id, state.state, failed=failed))
        self._queue.put(None)
        self._thread.join(patience)
        if self._thread.is_alive():
            self._complaint = self._complaint or f"it did not answer within {patience:.0f} s"
        if self._complaint:
            self._say(f"MLflow was not told everything: {self._complaint}")
        return self._mlflow_run

    def _tell_lineage(self, state: RunState) -> Told:
        try:
            lineage = lineage_of(self._run, state)
        except (ExpungeError, OSError) as error:
            return Told(None, f"its lineage cannot be read: {error}")
        return self._tracking.log_lineage(self._id, lineage)

    @property
    def _id(self) -> str:
        assert self._mlflow_run is not None
        return self._mlflow_run

    def _work(self) -> None:
        request = self._run.request()
        began = self._tracking.start_run(
            self._run.name, {"request_id": request.id, "model": request.model},
            {"method": request.method.name, "preset": request.method.preset, "seed": request.seed,
             "forget.classes": list(request.forget.classes), "parent_sha256": request.checkpoint.sha256 or "",
             **{f"params.{name}": value for name, value in request.method.params.items()}})
        self._mlflow_run, self._complaint = began.value, began.reason
        while (telling := self._queue.get()) is not None:
            if self._mlflow_run is not None:
                told = telling()
                self._complaint = self._complaint or told.reason
