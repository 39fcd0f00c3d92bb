"""Owns a run on one machine: starts the engine, follows the events, writes the ledger, ends what must end.

`kfp.local` executes the steps but cannot cancel, resume or bound them. The supervisor runs it as a child that
cannot outlive it, appends each room's signed statement to the ledger (it is the one writer), carries news to
MLflow in the background, and records a state that the next start can continue from.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from components.evaluate.page import render_page
from components.gate.step import TOKEN_FILE
from expunge.contracts import Adaptation, Request, read_record
from expunge.custody import receipts
from expunge.deciding import require_in_time, settle, waiver_of
from expunge.digests import sha256_file, write_atomically
from expunge.errors import BadInput, Cancelled, ExpungeError, NoSpace, NotNeeded, WorkspaceBusy, says_out_of_space
from expunge.events import Event, Follower, events_file
from expunge.evidence.coherence import read_policy
from expunge.evidence.keys import OPERATOR, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import DisposalPredicate, RoomUse, RunPredicate, Statement, sign_statement
from expunge.measure.policy import went_wrong
from expunge.room import START_VARIABLE, STATEMENT_FILE, alive_file, exclusive, verify_result
from expunge.runs import UNFINISHED, RoomState, Run, RunState, State
from expunge.settings import RUN_VARIABLE, WORKSPACE_VARIABLE, Workspace
from expunge.stores import training_state
from pipelines.news import News
from pipelines.results import recipe
from pipelines.summary import tries
from pipelines.sweeping import sweep, sweep_resume_state

Watcher = Callable[[Event], None]


@dataclass(frozen=True)
class Ended:
    """How another engine says that a run ended: failed or cancelled, or None, well."""

    state: Literal["failed", "cancelled"] | None
    reason: str = ""
    remedy: str = ""


_LOOK_EVERY = 0.05  # seconds between looks at the event file: below what a person notices
_STOPS_WITHIN = 60.0  # seconds that a supervisor may take to end its engine and tell MLflow
_TOO_LITTLE = 2**20  # bytes free: with less, a step cannot even say why it failed
ON_REQUEST = "cancelled by 'expunge cancel'"  # why a run ended that somebody stopped so
_INSTEAD = {
    "awaiting_approval": "it waits for people: expunge reject {run} --as REVIEWER --reason '...'",
    "approved": "it waits for its release: expunge reject {run} --as REVIEWER --reason '...'",
    "releasing": "expunge release {run} ends it; then 'expunge withdraw' takes the model out of service",
    "released": "'expunge withdraw' takes the model out of service, 'expunge rollback' serves the one before",
}
_TO_BE_RELEASED: frozenset[State] = frozenset({"inconclusive", "awaiting_approval", "approved", "releasing"})
_VERDICT_STATES: dict[str, State] = {"FAIL": "refused", "INCONCLUSIVE": "inconclusive", "INVALID": "invalid"}


def start(workspace: Workspace, request: Request, watch: Watcher, again: bool = False,
          image: str | None = None) -> RunState:
    """Runs a pinned request, or continues it where an earlier start was cut off.

    A request that has been decided is not run twice unless `again` asks for another attempt. Refused if its samples
    and its key were disposed of. With `image`, the id of one, every room has a container of its own.
    """
    with _alone(workspace, image):
        earlier = [run for run in Run.all(workspace) if run.state().request_id == request.id]
        latest = earlier[-1] if earlier else None
        same = latest if latest and not again and latest.request_file.read_bytes() == request.to_bytes() else None
        if same and same.state().state not in UNFINISHED:
            return same.state()
        receipts.refuse_disposed(workspace, request.id)
        run = same or Run.create(workspace, request, earlier, _now())
        return _from_the_start(run, request, watch, image)


def _from_the_start(run: Run, request: Request, watch: Watcher, image: str | None) -> RunState:
    """Runs the whole plan; what is kept of a room is used again."""
    return _Supervision(run, watch, image).carry_out("unlearning", {
        "request_uri": str(run.request_file), "policy_uri": str(run.policy_file), **recipe(request)})


def release(workspace: Workspace, run: Run, watch: Watcher, image: str | None = None) -> RunState:
    """Continues a run that waits for approval: gate, then deploy, from the bytes that were approved.

    One whose release failed goes through all rooms once more, which takes what is kept of them.
    """
    with _alone(workspace, image):
        require_in_time(run)
        state = settle(run)
        if state.state == "released":
            return state
        if state.state == "failed" and state.came_to_a_verdict:  # after the gate only a release is left to fail
            receipts.refuse_disposed(workspace, state.request_id)  # a room that has to work again needs the samples
            return _from_the_start(run, run.request(), watch, image)
        if state.state not in ("awaiting_approval", "approved", "releasing"):
            raise BadInput(f"run '{run.name}' is {state.state}", "only a run that awaits approval can be released")
        return _Supervision(run, watch, image).carry_out("release", {
            "request_uri": str(run.request_file), "policy_uri": str(run.policy_file),
            "candidate_uri": str(run.output("unlearn", "candidate")),
            "report_uri": str(run.output("evaluate", "report"))})


def take_over(run: Run, finished: Sequence[Event], ended: Ended | None, watch: Watcher) -> RunState:
    """Enters what another engine has done of a run, as if this one had: its rooms' statements, and how it ended.

    `finished` are the rooms' results in their order, `ended` is None while it is at work. What is entered already
    stays as it is.

    Raises:
        DoesNotVerify: a result's bytes are not what its statement says; nothing of it is entered.
        BadInput: it is said to have ended well, and there is no verdict.
    """
    state = run.state()
    if state.state not in UNFINISHED:
        deployed = "deploy" in state.rooms or any(event.room == "deploy" for event in finished)
        if not deployed or settle(run).state not in _TO_BE_RELEASED:
            return run.state()
    return _Supervision(run, watch).take_over(finished, ended)


def cancel(run: Run) -> RunState:
    """Stops a run that somebody supervises; one that was cut off or has failed is given up as it lies.

    The supervisor is asked by a file that names its very start, so that a request that comes too late stops
    nothing that is started later.

    Raises:
        BadInput: the run has come to its end, or is being released.
        WorkspaceBusy: its supervisor does not stop.
    """
    asked: Path | None = None
    until = time.monotonic() + _STOPS_WITHIN
    try:
        while True:
            with suppress(WorkspaceBusy), _working_on(run):
                return _Supervision(run, lambda event: None).give_up(ON_REQUEST)
            if run.state().state == "releasing":
                raise _cannot_cancel(run.state())
            started = next(run.folder.glob(alive_file(run.workspace, run.name, "*").name), None)
            if asked is None and started is not None:
                asked = _cancel_file(run, started.suffix[1:])
                asked.touch()
            if time.monotonic() > until:
                raise WorkspaceBusy(f"run '{run.name}' does not stop", "end its 'expunge run' yourself, then try again")
            time.sleep(_LOOK_EVERY)
    finally:
        if asked is not None:
            asked.unlink(missing_ok=True)


class _Supervision:
    """One stretch of supervised work on a run."""

    def __init__(self, run: Run, watch: Watcher, image: str | None = None) -> None:
        self._run, self._watch, self._image = run, watch, image
        self._workspace = run.workspace
        self._ledger = Ledger.open(run.workspace)
        self._key = SigningKey.load(run.workspace, OPERATOR)
        self._failure: Event | None = None
        self._at = "engine"  # the room that was entered last
        self._log_began = 0  # where in the log this stretch begins
        self._began = time.monotonic()
        self._state = run.state()  # what this stretch has last read or written: a change by others stops it
        self._spent = self._state.seconds

    def carry_out(self, plan: str, arguments: dict[str, object]) -> RunState:
        """Runs a plan to its end, whatever end that is."""
        with _working_on(self._run):
            # Without enough decisions the gate is only asked again: the run goes on waiting meanwhile.
            at_work: State = "running" if plan == "unlearning" else "releasing"
            still = plan == "release" and self._state.state == "awaiting_approval"
            self._update(state=self._state.state if still else at_work, reason="", remedy="", error=None)
            news = News(self._run, self._say)
            follower = Follower(events_file(self._workspace, self._run.name))
            try:
                ended_well = self._follow(plan, arguments, follower, news)
            except (KeyboardInterrupt, _CancelAsked) as stop:
                self._take_in(follower, news)
                if plan == "release" or self._state.state == "releasing":  # what is left is to put it into service
                    raise Cancelled("the release was stopped",
                                    f"expunge release {self._run.name} continues it") from None
                return self.give_up(ON_REQUEST if isinstance(stop, _CancelAsked) else "stopped from outside", news)
            finally:
                self._update()
            return self._end(self._decided() if ended_well else self._failed(), news)

    def take_over(self, finished: Sequence[Event], ended: Ended | None) -> RunState:
        """What `take_over` says."""
        with _working_on(self._run):
            state = self._state
            new = [event for event in finished
                   if event.room not in state.rooms or state.rooms[event.room].result != event.result]
            if ended is not None and ended.state == state.state and not new:
                return state
            if ended is not None and ended.state is None and not any(event.room == "gate" for event in finished):
                raise BadInput(f"run '{state.run}' ended well, and its verdict is not in {self._workspace.root}",
                               "collect it in the workspace that its steps share")
            for event in new:
                assert event.result is not None
                verify_result(self._workspace, self._workspace.root / event.result)
            if state.state in UNFINISHED:
                self._update(state="running", reason="", remedy="", error=None)
            news = News(self._run, self._say)
            for event in new:
                self._record(event)
                self._watch(event)
            if ended is None:
                return self._state
            for event in finished:  # MLflow is told at the end, once: else each collection would begin a run there
                news.tell(event)
            said: dict[str, object] = {"state": ended.state, "reason": ended.reason, "remedy": ended.remedy,
                                       "error": ExpungeError.__name__ if ended.state == "failed" else None}
            return self._end(self._decided() if ended.state is None else said, news)

    def give_up(self, why: str, news: News | None = None) -> RunState:
        """Ends a run that has not come to its end; BadInput if it has."""
        state = self._run.state()
        if state.state == "cancelled":
            return state
        if state.state not in UNFINISHED:
            raise _cannot_cancel(state)
        return self._end({"state": "cancelled", "reason": why, "remedy": "the same command continues it",
                          "error": None}, news)

    def _follow(self, plan: str, arguments: dict[str, object], follower: Follower, news: News) -> bool:
        """Starts the engine, takes in what its rooms say until it ends, and says whether it ended well."""
        start = secrets.token_hex(8)
        stop = _cancel_file(self._run, start)
        with _alive(self._run, start), self._engine(plan, arguments, start) as engine:
            while engine.poll() is None:
                self._take_in(follower, news)
                if stop.exists():
                    raise _CancelAsked
                time.sleep(_LOOK_EVERY)
            self._take_in(follower, news)
            return engine.returncode == 0

    @contextmanager
    def _engine(self, plan: str, arguments: dict[str, object], start: str) -> Iterator[subprocess.Popen[bytes]]:
        arguments_file, scratch = self._run.folder / f"{plan}.json", self._run.folder / f"kfp.{start}"
        temporary = scratch / "tmp"  # kfp leaves a folder there for every step
        environment = {
            **os.environ, WORKSPACE_VARIABLE: str(self._workspace.root), RUN_VARIABLE: self._run.name,
            START_VARIABLE: start, "TMPDIR": str(temporary),
            # A folder of the caller's called `mlflow` or `docker` must not shadow a package.
            "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1",
            # OpenMP threads that wait for each other give up the core early: see docs/decisions/waiting.md.
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
            # The steps' `python3` is this one, whether or not its environment was activated.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        }
        try:
            temporary.mkdir(parents=True)
            write_atomically(arguments_file, json.dumps(arguments).encode())
            with self._run.log.open("ab") as log:
                self._log_began = log.tell()
                engine = subprocess.Popen(
                    [sys.executable, "-m", "pipelines.engine", plan, str(arguments_file), str(scratch),
                     *([self._image] if self._image else [])],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
                    start_new_session=True)
            try:
                yield engine
            finally:
                # The engine leads a process group of its own: whatever it left behind goes with it.
                with suppress(ProcessLookupError):
                    os.killpg(engine.pid, signal.SIGKILL)
                engine.wait()
                if self._image:
                    from pipelines.containers import START_LABEL, remove_containers

                    with suppress(ExpungeError):  # without an engine: they die by the lock of this start
                        remove_containers(START_LABEL, start)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _take_in(self, follower: Follower, news: News) -> None:
        for event in follower.new_events():
            if event.kind == "finished" and event.result is not None:
                self._record(event)
                news.tell(event)
            elif event.kind == "failed":
                self._failure = event
            elif event.kind == "started":
                self._at = event.room
            self._watch(event)

    def _record(self, event: Event) -> None:
        assert event.result is not None
        self._ledger.append((self._workspace.root / event.result / STATEMENT_FILE).read_bytes())
        rooms = self._state.rooms
        done = RoomState(result=event.result, seconds=event.seconds or 0.0, reused=event.reused)
        if event.room in rooms and rooms[event.room].result == done.result:
            return  # an earlier stretch of this very run did it
        opened = event.room == "gate" and self._token_in(event.result) == "open"
        into_service: dict[str, object] = {"state": "releasing"} if opened else {}
        self._update(rooms={**rooms, event.room: done}, **into_service)

    def _token_in(self, result: str) -> str:
        return (self._workspace.root / result / "verdict" / TOKEN_FILE).read_text()

    def _end(self, changes: dict[str, object], news: News | None) -> RunState:
        """Tells MLflow, then has the end signed and recorded at once: a crash before that is a cut run."""
        told = news.finish(self._state.model_copy(update=changes)) if news else self._state.mlflow_run
        state = self._timed(**changes, mlflow_run=told)
        said = Statement.over({}, RunPredicate(
            run=state.run, request_id=state.request_id, request_sha256=state.request_sha256, state=state.state,
            rooms={room: RoomUse(statement_sha256=sha256_file(self._workspace.root / done.result / STATEMENT_FILE),
                                 reused=done.reused) for room, done in state.rooms.items()}))
        self._ledger.append(sign_statement(said, self._key), with_change=self._run.writing(state))
        self._state = self._run.state()
        sweep_resume_state(self._workspace)
        if self._state.state not in UNFINISHED and (left := training_state.remove_all_of(self._workspace, state.run)):
            self._watch(Event(room=self._at, kind="note", text=left))
        self.dispose_of_adaptation()
        return self._state

    def _failed(self) -> dict[str, object]:
        """What a room's failure makes of the run. That there is nothing to do is no failure."""
        failure = self._failure or self._silence()
        if failure.error == NotNeeded.__name__:
            return {"state": "not_needed", "reason": failure.text, "remedy": failure.remedy}
        return {"state": "failed", "reason": f"{failure.room}: {failure.text}", "remedy": failure.remedy,
                "error": failure.error or ExpungeError.__name__}

    def _silence(self) -> Event:
        """What to say when the engine ended and no room said why: on a full disk nobody could."""
        with self._run.log.open("rb") as log:
            log.seek(self._log_began)
            said = log.read().decode(errors="replace")
        if says_out_of_space(said) or shutil.disk_usage(self._workspace.root).free < _TOO_LITTLE:
            full = NoSpace.on(self._workspace.root)
            return Event(room=self._at, kind="failed", text=full.problem, remedy=full.remedy, error=NoSpace.__name__)
        return Event(room=self._at, kind="failed", text="its process ended without a word, as if killed",
                     remedy=f"the same command continues it; see {self._run.log}")

    def _decided(self) -> dict[str, object]:
        """What follows from the gate's verdict and token. Leaves the page that people decide by."""
        verdict, report = self._run.verdict(), self._run.output("evaluate", "report")
        token = (self._run.output("gate", "verdict") / TOKEN_FILE).read_text()
        people, waived = waiver_of(self._run) if token == "open" else ((), ())
        page = render_page(report, verdict, read_policy(self._run.policy_file), self._run.request().reason,
                           attempt=self._run.state().attempt, waived_by=people, waived=waived,
                           attempts=tries(self._workspace)[self._run.state().request_id])
        write_atomically(self._run.page, page.encode())
        if token == "open" and "deploy" not in self._run.state().rooms:
            raise ExpungeError("the gate was open and nothing was deployed", f"see {self._run.log}")
        reasons = [rule.reason for rule in verdict.rules if rule.outcome == verdict.outcome != "PASS"]
        reasons += [f"control '{name}': {came}" for name, came in verdict.controls.items() if went_wrong(came)]
        if waived:
            reasons = [f"{' and '.join(people)} waived {', '.join(waived)}"]
        stays = None if token == "open" else _VERDICT_STATES.get(verdict.outcome)  # INCONCLUSIVE can be waived
        return {"state": stays or _TOKEN_STATES[token], "reason": "; ".join(reasons)}

    def dispose_of_adaptation(self) -> None:
        """An adapted model may be the unwanted thing itself: it does not outlive the run that needed it.

        Not before the end is recorded: a run cut just there would have to adapt again. The next start does what
        a kill prevented here.
        """
        if self._run.state().state in UNFINISHED or "adapt" not in self._run.state().rooms:
            return
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
        self._state = self._run.write(self._timed(**changes))

    def _timed(self, **changes: object) -> RunState:
        seconds = round(self._spent + time.monotonic() - self._began, 3)
        return self._state.model_copy(update={**changes, "seconds": seconds})


class _CancelAsked(Exception):
    """Somebody wants this start to stop."""


_TOKEN_STATES: dict[str, State] = {"open": "released", "waiting": "awaiting_approval", "closed": "rejected"}


@contextmanager
def _alone(workspace: Workspace, image: str | None) -> Iterator[None]:
    """One supervisor per workspace; it begins by removing what killed ones left."""
    with exclusive(workspace.root / "supervisor.lock", f"workspace: another run works in {workspace.root}",
                   "wait for it, stop it with 'expunge cancel', or use another workspace"):
        if image:
            from pipelines.containers import WORKSPACE_LABEL, remove_containers

            remove_containers(WORKSPACE_LABEL, str(workspace.root))
        sweep(workspace)
        for run in Run.all(workspace):
            _Supervision(run, lambda event: None).dispose_of_adaptation()
        yield


def _working_on(run: Run) -> AbstractContextManager[None]:
    """One process at a time works on a run or changes how it ended."""
    return exclusive(run.lock, f"run '{run.name}' is being worked on", "wait for it")


@contextmanager
def _alive(run: Run, start: str) -> Iterator[None]:
    """Holds the lock by which the processes of a start know that somebody looks after them."""
    file = alive_file(run.workspace, run.name, start)
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _cancel_file(run: Run, start: str) -> Path:
    return run.folder / f"cancel.{start}"


def _cannot_cancel(state: RunState) -> BadInput:
    return BadInput(f"run '{state.run}' is {state.state.replace('_', ' ')}",
                    _INSTEAD.get(state.state, "it has ended: there is nothing to stop").format(run=state.run))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
