"""Working the queue once: every filed request that may be taken is carried out, or goes on, in this workspace.

What a run came to is the truth, and a ticket follows it. So a worker that is killed anywhere, also between a release
and writing it down, leaves a ticket that the next worker brings to where its run is.
"""

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.contracts import Frozen, Request
from expunge.deciding import settle
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, Cancelled, DoesNotVerify, ExpungeError, NonFiniteLoss, Refused, WorkspaceBusy
from expunge.runs import UNFINISHED, Run, RunState
from expunge.settings import Workspace
from expunge.stores import sources
from expunge.stores.queue import ATTEMPTS, LEASE, RELEASABLE, Queue, Seen, Stage, Ticket
from expunge.stores.walls import Walls
from pipelines import supervisor

FOR_GOOD = (BadInput, Refused, DoesNotVerify, NonFiniteLoss)  # the same again would end the same way
DRAWN = "drawn"  # what a wall comes to
_BEATS = 4  # signs of life in the time of a lease
_RELEASED = ("released", "rolled_back", "withdrawn")  # the last two came after a release
_FOR_PEOPLE = ("awaiting_approval", "inconclusive")


@dataclass(frozen=True)
class Engine:
    """Who carries runs out: the supervisor of this machine."""

    watch: supervisor.Watcher = lambda event: None

    def start(self, workspace: Workspace, request: Request) -> RunState:
        """As `expunge run`."""
        return supervisor.start(workspace, request, self.watch)

    def release(self, workspace: Workspace, run: Run) -> RunState:
        """As `expunge release`."""
        return supervisor.release(workspace, run, self.watch)


class Worked(Frozen):
    """What became of one request in this pass."""

    request_id: str
    request_sha256: str
    stage: Stage
    run: str | None
    outcome: str | None
    attempts: int
    error: str = ""  # of an attempt that failed in this pass
    exit_code: int = 0  # of that error, if it was the last attempt


def require_usable(workspace: Workspace, request: Request, folder: Path) -> None:
    """Refuses what a run would refuse at once. Its models are looked at, so this imports torch where filing does not.

    Raises:
        BadInput: a source, the method or a parameter of it cannot be used.
        Refused: a source is not what the request pins.
    """
    from expunge.methods import choosing

    pinned = sources.pin(request, folder, workspace)
    choosing.suited(pinned, pinned.family).parameters(pinned.method.preset, pinned.method.params)


def work(workspace: Workspace, engine: Engine, lease: float = LEASE,
         say: Callable[[Worked], None] = lambda worked: None) -> list[Worked]:
    """Takes every request that may be taken, one after the other, in the order of filing; returns what it took.

    Raises:
        DoesNotVerify: a ticket is spoiled; all others were seen to.
        WorkspaceBusy: another run works in this workspace; what was claimed is put back, untried.
        Cancelled: the worker was stopped; likewise.
        ExpungeError: the queue cannot be reached.
    """
    queue, done = Queue.of(workspace), []
    worker = f"{platform.node() or 'somewhere'}:{os.getpid()}"
    for worked in draw_walls(workspace, worker, lease):  # first: somebody sits before the console and waits
        done.append(worked)
        say(worked)
    for seen in queue.all():
        if not seen.may_be_taken or (seen.ticket.stage == "waiting" and _still_waits(workspace, seen.ticket)):
            continue
        held = queue.claim(seen, worker, lease)
        if held is None:
            continue
        done.append(_carried_out(workspace, queue, held, engine))
        say(done[-1])
    for wrong in queue.spoiled():
        raise wrong
    return done


def draw_walls(workspace: Workspace, worker: str, lease: float) -> Iterator[Worked]:
    """Draws what the console asked for, and deletes what nobody looks at any more."""
    from pipelines import drawing_walls

    walls = Walls(workspace)
    walls.expire()
    for seen in walls.queue.all():
        held = walls.queue.claim(seen, worker, lease) if seen.may_be_taken else None
        if held is None:
            continue
        error: ExpungeError | None = None
        with _alive(walls.queue, held) as holding:
            try:
                drawing_walls.draw(walls, seen.ticket.request_sha256, walls.order(seen.ticket))
            except KeyboardInterrupt:
                with suppress(ExpungeError):
                    walls.queue.put_back(holding.done(), "filed")
                raise
            except ExpungeError as found:
                error = found
            held = holding.done()
        with suppress(WorkspaceBusy):  # it was deleted, or another worker has taken it over
            held = (walls.queue.change(held, stage="closed", lease=None, attempts=0, last_error=None, outcome=DRAWN)
                    if error is None else
                    walls.queue.failed(held, str(error), "filed", for_good=isinstance(error, FOR_GOOD)))
        yield Worked(request_id=held.ticket.request_id, request_sha256=held.ticket.request_sha256,
                     stage=held.ticket.stage, run=None, outcome=held.ticket.outcome, attempts=held.ticket.attempts,
                     error=str(error) if error else "",
                     exit_code=error.exit_code if error is not None and held.ticket.stage == "failed" else 0)


def _still_waits(workspace: Workspace, ticket: Ticket) -> bool:
    """Whether a run waits for people as it did. One that is lost is for the attempt to tell."""
    try:
        return ticket.run is not None and settle(Run.find(workspace, ticket.run)).state in _FOR_PEOPLE
    except ExpungeError:
        return False


def _carried_out(workspace: Workspace, queue: Queue, held: Seen, engine: Engine) -> Worked:
    with _alive(queue, held) as holding:
        error: ExpungeError | None = None
        state: RunState | None = None
        try:
            state = _brought_on(workspace, queue, held.ticket, engine)
            if state.error is not None:
                error = state.failure()
        except (WorkspaceBusy, Cancelled, KeyboardInterrupt):
            with suppress(ExpungeError):  # then its lease runs out
                queue.put_back(holding.done(), _before(held.ticket))
            raise
        except ExpungeError as found:
            error = found
        seen = holding.done()
        try:
            after = _written_down(queue, seen, state, error)
        except WorkspaceBusy:  # its lease ran out meanwhile: whoever has it now finds the run where we left it
            after = queue.seen(held.ticket.request_sha256) or seen
    if state is not None and state.state == "cancelled" and after.ticket.stage != "closed":
        raise Cancelled("the worker was stopped", "the next 'expunge queue work' goes on")
    last = error is not None and after.ticket.stage == "failed"
    return Worked(request_id=after.ticket.request_id, request_sha256=after.ticket.request_sha256,
                  stage=after.ticket.stage, run=after.ticket.run, outcome=after.ticket.outcome,
                  attempts=after.ticket.attempts, error=str(error) if error else "",
                  exit_code=error.exit_code if error is not None and last else 0)


def _brought_on(workspace: Workspace, queue: Queue, ticket: Ticket, engine: Engine) -> RunState:
    """Brings the run of a request as far as it can go without people."""
    request = queue.pinned(ticket)
    if request is None:
        filed = queue.request(ticket)
        # Its places are absolute since it was filed, so there is no folder that they would be relative to.
        request = queue.keep_pinned(ticket, sources.pin(filed, workspace.root, workspace))
    run = _run_of(workspace, request)
    state = settle(run) if run is not None else None
    if state is None or state.state in UNFINISHED:
        state = engine.start(workspace, request)
        run = Run(workspace, state.run)
    if run is not None and state.state in RELEASABLE:
        state = engine.release(workspace, run)
    return state


def _run_of(workspace: Workspace, request: Request) -> Run | None:
    """The newest run of exactly this request; one that somebody began by hand is as good."""
    sha256 = sha256_bytes(request.to_bytes())
    found = [run for run in Run.all(workspace) if run.state().request_sha256 == sha256]
    return found[-1] if found else None


def _written_down(queue: Queue, seen: Seen, state: RunState | None, error: ExpungeError | None) -> Seen:
    """The ticket after an attempt."""
    if state is None or error is not None:
        assert error is not None
        return queue.failed(seen, str(error), _before(seen.ticket), for_good=isinstance(error, FOR_GOOD))
    if state.state == "cancelled" and state.reason != supervisor.ON_REQUEST:
        return queue.put_back(seen, "filed")  # the machine was taken away, or somebody pressed Ctrl-C
    stage: Literal["waiting", "released", "closed"] = (
        "released" if state.state in _RELEASED else "waiting" if state.state in _FOR_PEOPLE else "closed")
    return queue.came_to(seen, stage, state.run, state.state)


def _before(ticket: Ticket) -> Literal["filed", "waiting"]:
    """Where a claimed request came from."""
    return "filed" if ticket.run is None else "waiting"


class _Holding:
    """A claim, kept up by signs of life from a thread of its own."""

    def __init__(self, queue: Queue, held: Seen) -> None:
        self._queue, self._held = queue, held
        self._over, self._changing = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="hold the request")
        self._thread.start()

    def _beat(self) -> None:
        every = (self._held.ticket.lease or LEASE) / _BEATS
        while not self._over.wait(every):
            with self._changing:
                try:
                    self._held = self._queue.renew(self._held)
                except WorkspaceBusy:
                    return  # somebody has taken it over: they wait for this workspace, and find what we made
                except ExpungeError:
                    continue  # out of reach for now: there is time for more tries

    def done(self) -> Seen:
        """The claim as it is now; nobody changes it any more but the caller."""
        self._over.set()
        with self._changing:
            return self._held


@contextmanager
def _alive(queue: Queue, held: Seen) -> Iterator[_Holding]:
    holding = _Holding(queue, held)
    try:
        yield holding
    finally:
        holding.done()


# ---------------------------------------------------------------------------------------------- in words


def explained(seen: Seen) -> str:
    """What a ticket says, and what is to be done next, in one line."""
    ticket = seen.ticket
    failed = ticket.last_error and ticket.attempts
    tried = f"; attempt {ticket.attempts} of {ATTEMPTS} failed: {ticket.last_error}" if failed else ""
    match ticket.stage:
        case "filed":
            left = ticket.wait - seen.age
            return f"waits for a worker{f', not before {left:.0f} s from now' if left > 0 else ''}{tried}"
        case "claimed" if seen.may_be_taken:
            return f"{ticket.worker} was lost; the next worker takes it over{tried}"
        case "claimed":
            return (f"{ticket.worker} works on it, attempt {ticket.attempts} of {ATTEMPTS}; "
                    f"last sign of life {seen.age:.0f} s ago")
        case "waiting":
            return f"{ticket.run} is {_words(ticket.outcome)}: see 'expunge status {ticket.run}'{tried}"
        case "failed":
            return f"given up: {ticket.last_error}"
        case "withdrawn":
            return "was taken back"
        case _:
            return f"{ticket.run} is {_words(ticket.outcome)}"


def told(worked: Worked) -> str:
    """What became of a request, in one line."""
    if worked.error:
        after = "given up" if worked.stage == "failed" else f"attempt {worked.attempts} of {ATTEMPTS} failed"
        return f"{worked.request_id}: {after}: {worked.error}"
    return f"{worked.request_id}: {worked.run or 'it'} is {_words(worked.outcome)}"


def _words(outcome: str | None) -> str:
    return (outcome or "lost").replace("_", " ")
