"""Owns a run on one machine: starts the engine, follows the events, writes the ledger, ends what must end.

`kfp.local` executes the steps but cannot cancel, resume or bound them. The supervisor runs it as a child that
cannot outlive it, appends each room's signed statement to the ledger (it is the one writer), carries news to
MLflow in the background, and records a state that the next start can continue from.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from components.evaluate.page import render_page
from expunge.contracts import Adaptation, Request, read_record
from expunge.digests import sha256_file, write_atomically
from expunge.errors import BadInput, ExpungeError
from expunge.events import Event, Follower, events_file
from expunge.evidence.coherence import read_policy
from expunge.evidence.keys import OPERATOR, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import DisposalPredicate, RoomUse, RunPredicate, Statement, sign_statement
from expunge.measure.policy import AS_EXPECTED
from expunge.room import ALIVE_FILE, STATEMENT_FILE, exclusive
from expunge.settings import RUN_VARIABLE, WORKSPACE_VARIABLE, Workspace
from pipelines.news import News
from pipelines.runs import UNFINISHED, RoomState, Run, RunState, State

Watcher = Callable[[Event], None]

_LOOK_EVERY = 0.05  # seconds between looks at the event file: below what a person notices
_VERDICT_STATES: dict[str, State] = {"FAIL": "refused", "INCONCLUSIVE": "inconclusive", "INVALID": "invalid"}


def start(workspace: Workspace, request: Request, watch: Watcher, again: bool = False) -> RunState:
    """Runs a pinned request, or continues it where an earlier start was cut off.

    A request that has been decided is not run twice unless `again` asks for another attempt, which counts.
    """
    with _alone(workspace):
        attempts = [run for run in Run.all(workspace) if run.state().request_id == request.id]
        latest = attempts[-1] if attempts else None
        if latest and not again and latest.request_file.read_bytes() == request.to_bytes():
            if latest.state().state not in UNFINISHED:
                return latest.state()
            run = latest
        else:
            run = Run.create(workspace, request, len(attempts) + 1, _now())
        choice = request.method
        return _Supervision(run, watch).carry_out("unlearning", {
            "request_uri": str(run.request_file), "policy_uri": str(run.policy_file), "method": choice.name,
            "preset": choice.preset, "overrides": json.dumps(choice.params, sort_keys=True), "seed": request.seed,
            "threads": request.threads})


def release(workspace: Workspace, run: Run, watch: Watcher) -> RunState:
    """Continues a run that waits for approval: gate, then deploy, from the bytes that were approved."""
    with _alone(workspace):
        state = run.state()
        if state.state == "released":
            return state
        if state.state not in ("awaiting_approval", "approved", "releasing"):
            raise BadInput(f"run '{run.name}' is {state.state}", "only a run that awaits approval can be released")
        return _Supervision(run, watch).carry_out("release", {
            "request_uri": str(run.request_file), "policy_uri": str(run.policy_file),
            "candidate_uri": str(run.output("unlearn", "candidate")),
            "report_uri": str(run.output("evaluate", "report"))})


class _Supervision:
    """One stretch of supervised work on a run."""

    def __init__(self, run: Run, watch: Watcher) -> None:
        self._run, self._watch = run, watch
        self._workspace = run.workspace
        self._ledger = Ledger.open(run.workspace)
        self._key = SigningKey.load(run.workspace, OPERATOR)
        self._failure: Event | None = None
        self._began = time.monotonic()
        self._spent = run.state().seconds

    def carry_out(self, plan: str, arguments: dict[str, object]) -> RunState:
        """Runs a plan to its end, whatever end that is."""
        self._update(state="releasing" if plan == "release" else "running", reason="", remedy="", error=None)
        scratch = self._run.folder / "kfp"
        shutil.rmtree(scratch, ignore_errors=True)
        news = News(self._run, self._say)
        follower = Follower(events_file(self._workspace, self._run.name))
        try:
            with _alive(self._run), self._engine(plan, arguments, scratch) as engine:
                while engine.poll() is None:
                    self._take_in(follower, news)
                    time.sleep(_LOOK_EVERY)
                self._take_in(follower, news)
                ended_well = engine.returncode == 0
        except KeyboardInterrupt:
            self._take_in(follower, news)
            self._update(state="cancelled", reason="stopped from outside", remedy="the same command continues it")
            return self._run.state()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            self._update()
        state = self._conclude(ended_well)
        self._update(mlflow_run=news.finish(state))
        return self._run.state()

    @contextmanager
    def _engine(self, plan: str, arguments: dict[str, object], scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
        arguments_file = self._run.folder / f"{plan}.json"
        write_atomically(arguments_file, json.dumps(arguments).encode())
        environment = {
            **os.environ, WORKSPACE_VARIABLE: str(self._workspace.root), RUN_VARIABLE: self._run.name,
            # A folder of the caller's called `mlflow` or `docker` must not shadow a package.
            "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1",
            # OpenMP threads that wait for each other give up the core early: see docs/decisions/waiting.md.
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
            # The steps' `python3` is this one, whether or not its environment was activated.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        }
        with self._run.log.open("ab") as log:
            engine = subprocess.Popen(
                [sys.executable, "-m", "pipelines.engine", plan, str(arguments_file), str(scratch)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True)
        try:
            yield engine
        finally:
            # The engine leads a process group of its own: whatever it left behind goes with it.
            with suppress(ProcessLookupError):
                os.killpg(engine.pid, signal.SIGKILL)
            engine.wait()

    def _take_in(self, follower: Follower, news: News) -> None:
        for event in follower.new_events():
            if event.kind == "finished" and event.result is not None:
                self._record(event)
                news.tell(event)
            elif event.kind == "failed":
                self._failure = event
            self._watch(event)

    def _record(self, event: Event) -> None:
        assert event.result is not None
        self._ledger.append((self._workspace.root / event.result / STATEMENT_FILE).read_bytes())
        rooms = self._run.state().rooms
        done = RoomState(result=event.result, seconds=event.seconds or 0.0, reused=event.reused)
        if event.room in rooms and rooms[event.room].result == done.result:
            return  # an earlier stretch of this very run did it
        self._update(rooms={**rooms, event.room: done})

    def _conclude(self, ended_well: bool) -> RunState:
        """Names the state that the plan has left the run in, has it signed, and only then records it."""
        if ended_well:
            changes = self._decided()
        else:
            failure = self._failure or Event(room="engine", kind="failed", text="the engine stopped without a word",
                                             remedy=f"see {self._run.log}")
            changes = {"state": "failed", "reason": f"{failure.room}: {failure.text}", "remedy": failure.remedy,
                       "error": failure.error or ExpungeError.__name__}
        state = self._run.state().model_copy(update=changes)
        self._sign(Statement.over({}, RunPredicate(
            run=state.run, request_id=state.request_id, request_sha256=state.request_sha256, state=state.state,
            rooms={room: RoomUse(statement_sha256=sha256_file(self._workspace.root / done.result / STATEMENT_FILE),
                                 reused=done.reused) for room, done in state.rooms.items()})))
        self._update(**changes)
        return self._run.state()

    def _decided(self) -> dict[str, object]:
        """What follows from the gate's verdict and token. Leaves the page that people decide by."""
        self._dispose_of_adaptation()
        verdict, report = self._run.verdict(), self._run.output("evaluate", "report")
        page = render_page(report, verdict, read_policy(self._run.policy_file), self._run.request().reason)
        write_atomically(self._run.page, page.encode())
        token = (self._run.output("gate", "verdict") / "token.txt").read_text()
        if token == "open" and "deploy" not in self._run.state().rooms:
            raise ExpungeError("the gate was open and nothing was deployed", f"see {self._run.log}")
        reasons = [rule.reason for rule in verdict.rules if rule.outcome == verdict.outcome != "PASS"]
        reasons += [f"control '{name}': {came}" for name, came in verdict.controls.items() if came != AS_EXPECTED]
        return {"state": _VERDICT_STATES.get(verdict.outcome) or _TOKEN_STATES[token], "reason": "; ".join(reasons)}

    def _dispose_of_adaptation(self) -> None:
        """An adapted model may be the unwanted thing itself: it does not outlive the run that needed it."""
        folder = self._run.output("adapt", "adaptation")
        record = read_record(Adaptation, folder)
        tensors = folder / record.tensors.name
        if tensors.exists():
            state = self._run.state()
            # Signed first: a crash in between leaves a file that should be gone, not a gap nobody accounts for.
            self._sign(Statement.over(
                {tensors.relative_to(self._workspace.root).as_posix(): record.tensors.sha256},
                DisposalPredicate(request_id=state.request_id, request_sha256=state.request_sha256, by=OPERATOR,
                                  reason="adapted models do not outlive the run", at=_now())))
            tensors.unlink()

    def _sign(self, statement: Statement) -> None:
        self._ledger.append(sign_statement(statement, self._key))

    def _say(self, text: str) -> None:
        self._watch(Event(room="mlflow", kind="note", text=text))

    def _update(self, **changes: object) -> None:
        seconds = round(self._spent + time.monotonic() - self._began, 3)
        self._run.write(self._run.state().model_copy(update={**changes, "seconds": seconds}))


_TOKEN_STATES: dict[str, State] = {"open": "released", "waiting": "awaiting_approval", "closed": "rejected"}


def _alone(workspace: Workspace) -> AbstractContextManager[None]:
    """One supervisor per workspace."""
    return exclusive(workspace.lock, f"workspace: another run works in {workspace.root}",
                     "wait for it, stop it, or use another workspace")


@contextmanager
def _alive(run: Run) -> Iterator[None]:
    """Holds the lock by which a run's processes know that somebody looks after them.

    Taking it waits for processes of an earlier start: they hold it shared for the instant in which they end.
    """
    with (run.folder / ALIVE_FILE).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
