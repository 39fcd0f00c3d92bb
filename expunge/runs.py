"""What a run is: a folder with a pinned request, a policy, events and a log; and where it stands, in the database."""

import fcntl
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from expunge.contracts import (
    Candidate,
    Digest,
    Frozen,
    Identifier,
    Record,
    Report,
    Request,
    Verdict,
    parse_record,
    read_record,
    write_record,
)
from expunge.digests import canonical_json, sha256_file, write_atomically
from expunge.errors import BadInput, ExpungeError, by_name
from expunge.evidence import policies, states
from expunge.evidence.coherence import read_policy
from expunge.evidence.database import Database
from expunge.evidence.states import State
from expunge.room import STATEMENT_FILE
from expunge.settings import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Connection

EXIT_CODES: dict[State, int] = {
    "released": 0, "awaiting_approval": 10, "approved": 10, "releasing": 10,
    "not_needed": 11, "refused": 20, "inconclusive": 21, "invalid": 22, "rejected": 30,
    "expired": 30, "cancelled": 31,
}
_LONGEST_NAME = 63  # as every identifier
UNFINISHED: frozenset[State] = frozenset({"running", "failed", "cancelled"})
_ONWARD: tuple[State, ...] = ("running", "awaiting_approval", "approved", "releasing", "released")


class RoomState(Frozen):
    """What a room has done in this run."""

    result: str  # folder, relative to the workspace
    seconds: Annotated[float, Field(ge=0)]  # inside the room's own work, when it was done
    reused: bool


class RunState(Record):
    """Where a run stands."""

    SCHEMA: ClassVar[str] = "expunge/run/v1"

    run: Identifier
    request_id: Identifier
    request_sha256: Digest
    attempt: Annotated[int, Field(ge=1)]  # which try at a verdict on this request it is
    state: State
    reason: str = ""
    remedy: str = ""
    error: str | None = None  # of a failure: its class in expunge.errors
    rooms: dict[str, RoomState] = Field(default_factory=dict)
    seconds: float = 0.0  # wall clock of the supervised work, over all its parts
    started_at: str
    mlflow_run: str | None = None
    revision: Annotated[int, Field(exclude=True)] = 0  # which of its states this is: a change names what it follows
    since: Annotated[str, Field(exclude=True)] = ""  # when it was last written

    @classmethod
    def of(cls, standing: states.Standing) -> "RunState":
        """What the database has of a run."""
        return parse_record(cls, {
            **json.loads(standing.record), "run": standing.run, "state": standing.state,
            "revision": standing.revision, "since": standing.since}, f"run '{standing.run}'")

    @property
    def record(self) -> str:
        """What the database keeps beside name and state, as JSON."""
        known = self.model_dump(mode="json", by_alias=True, exclude={"run", "state"})
        return canonical_json(known).decode()

    @property
    def came_to_a_verdict(self) -> bool:
        """Whether this was a try: a run that failed or was stopped before its verdict is none."""
        return "gate" in self.rooms

    @property
    def exit(self) -> int:
        """The exit code that says this state."""
        return self.failure().exit_code if self.error else EXIT_CODES.get(self.state, 1)

    def failure(self) -> ExpungeError:
        """The error that ended the run, as it was raised in its room."""
        return by_name().get(self.error or "", ExpungeError)(self.reason, self.remedy)


class Run:
    """A run's folder and the paths in it."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace, self.name = workspace, name
        self.folder = workspace.runs / name
        self.request_file = self.folder / "request.json"
        self.policy_file = self.folder / policies.POLICY_FILE
        self.log = self.folder / "engine.log"
        self.page = self.folder / "report.html"
        self.lock = self.folder / "run.lock"  # held by whoever works on the run or changes how it ended

    @classmethod
    def find(cls, workspace: Workspace, name: str) -> "Run":
        """The run of that name, or the latest attempt of the request of that name; BadInput if there is none."""
        found = cls.all_states(workspace)
        known = {state.run: cls(workspace, state.run) for state in found}
        if name in known:
            return known[name]
        attempts = [known[state.run] for state in found if state.request_id == name]
        if not attempts:
            listed = f"known runs: {', '.join(sorted(known))}" if known else "there are no runs in this workspace"
            raise BadInput(f"run '{name}' is not known", listed)
        return attempts[-1]

    @classmethod
    def all(cls, workspace: Workspace) -> list["Run"]:
        """Every run, by the time it was started."""
        return [cls(workspace, state.run) for state in cls.all_states(workspace)]

    @classmethod
    def all_states(cls, workspace: Workspace) -> list[RunState]:
        """Where every run stands, by the time it was started."""
        database = Database(workspace).ready()
        if not database.version():
            return []
        found = [RunState.of(standing) for standing in database.read(states.every)]
        return sorted(found, key=lambda state: (state.started_at, cls(workspace, state.run).number))

    @classmethod
    def policy_for(cls, workspace: Workspace, request: Request) -> Path:
        """The file of the policy that a request names.

        Raises:
            BadInput: there is none, it cannot be read, or nobody has signed it and it does not ship with expunge.
            DoesNotVerify: its signature does not.
            Refused: the requester signed it, and nobody else.
        """
        file = policies.policy_file(workspace, request.policy)
        if (name := read_policy(file).name) != request.policy:
            raise BadInput(f"policy: {file.name} calls itself '{name}'", "correct its name, or name the other policy")
        signature = policies.signature_beside(file)
        policies.require_standing(request.policy, file.read_bytes(), signature,
                                  policies.keyring_for(workspace, signature), request.requester)
        return file

    @classmethod
    def create(cls, workspace: Workspace, request: Request, earlier: Sequence["Run"], now: str) -> "Run":
        """Makes a run's folder: the pinned request and a copy of the policy, and its signature, as it is today.

        `earlier` are the runs of that request's name so far: the new one goes by the next number, and is the
        next attempt after those that came to a verdict.
        """
        policy = cls.policy_for(workspace, request)
        number = max((run.number for run in earlier), default=0) + 1
        run = cls(workspace, f"{request.id}.{number}")
        if len(run.name) > _LONGEST_NAME:
            raise BadInput(f"id: its run would be called '{run.name}', longer than {_LONGEST_NAME} characters",
                           "shorten it")
        run._begin(request, policy.read_bytes(), policies.signature_beside(policy), earlier, now)
        return run

    @classmethod
    def adopt(cls, workspace: Workspace, name: str, request: Request, policy: bytes, now: str) -> "Run":
        """The run of that name, which was begun elsewhere, with the request and the policy that it was given there.

        Raises:
            BadInput: a run of this name is of another request, or the policy does not ship with expunge.
        """
        known = cls.all(workspace)
        if found := next((run for run in known if run.name == name), None):
            if found.request_file.read_bytes() != request.to_bytes():
                raise BadInput(f"run '{name}' is of another request in this workspace",
                               "collect it in the workspace that its steps share")
            return found
        if not policies.is_shipped(policy):
            raise BadInput(f"policy: that of run '{name}' does not ship with this expunge",
                           "collect it with the expunge that it was submitted with")
        run = cls(workspace, name)
        run._begin(request, policy, None, [one for one in known if one.state().request_id == request.id], now)
        return run

    def _begin(self, request: Request, policy: bytes, signature: bytes | None, earlier: Sequence["Run"],
               now: str) -> None:
        write_atomically(self.policy_file, policy)
        if signature is not None:
            write_atomically(policies.signature_file(self.policy_file), signature)
        write_record(self.request_file, request)
        attempt = sum(run.state().came_to_a_verdict for run in earlier) + 1
        began = RunState(run=self.name, request_id=request.id, request_sha256=sha256_file(self.request_file),
                         attempt=attempt, state="running", started_at=now)
        at = states.now()
        Database(self.workspace).ready().write(
            lambda connection: states.begin(connection, self.name, began.record, at))

    @property
    def number(self) -> int:
        """The number in its name: runs of one request are numbered as they are begun."""
        return int(self.name.rpartition(".")[2])

    def state(self) -> RunState:
        """Where the run stands; BadInput if it has not begun."""
        standing = Database(self.workspace).ready().read(lambda connection: states.find(connection, self.name))
        if standing is None:
            raise BadInput(f"run '{self.name}' is not known", "see 'expunge status'")
        return RunState.of(standing)

    def write(self, state: RunState) -> RunState:
        """Records where the run stands, as a change of the state that was read; returns what is to be changed next.

        Raises:
            WorkspaceBusy: somebody else has changed it since.
            BadInput: from where it stands it cannot become that.
        """
        return Database(self.workspace).ready().write(self.writing(state))

    def writing(self, state: RunState, *entries: str) -> "Callable[[Connection], RunState]":
        """The same as part of a transaction: of the append that says so, for one.

        `entries` are digests of what else in the ledger speaks for it, beside gate, release and decisions.
        """
        way, because, at = self._way_to(state.state), (*self._evidence(state), *entries), states.now()
        return lambda connection: RunState.of(
            states.change(connection, self.name, state.revision, way, state.record, because, at))

    def _way_to(self, after: State) -> tuple[State, ...]:
        """The states from where the run stands: of those that lie between, none is left out."""
        before = self.state().state
        if before in _ONWARD and after in _ONWARD[_ONWARD.index(before):]:
            return _ONWARD[_ONWARD.index(before) + 1:_ONWARD.index(after) + 1]
        if before == "running" and after == "rejected":
            return "awaiting_approval", after
        return (after,)

    def _evidence(self, state: RunState) -> tuple[str, ...]:
        """The digests of what the ledger should hold of this run: its gate and its release, and people's decisions."""
        rooms = [self.workspace.root / state.rooms[room].result / STATEMENT_FILE
                 for room in ("gate", "deploy") if room in state.rooms]
        decisions = (self.workspace.approvals / self.name).glob("*.json")  # they go by their digest
        return *(sha256_file(file) for file in rooms), *(file.stem for file in decisions)

    def request(self) -> Request:
        """The pinned request."""
        return read_record(Request, self.request_file)

    def output(self, room: str, name: str) -> Path:
        """The folder of one of a room's outputs; BadInput if the room has not finished in this run."""
        done = self.state().rooms.get(room)
        if done is None:
            raise BadInput(f"run '{self.name}' has not come past '{room}'",
                           f"continue it: expunge run {self.request_file}")
        return self.workspace.root / done.result / name

    def candidate(self) -> Candidate:
        """The candidate's record."""
        return read_record(Candidate, self.output("unlearn", "candidate"))

    def report(self) -> Report:
        """The report's record."""
        return read_record(Report, self.output("evaluate", "report"))

    def verdict(self) -> Verdict:
        """The verdict's record."""
        return read_record(Verdict, self.output("gate", "verdict"))


def is_held(lock: Path) -> bool:
    """Whether another process holds a lock; the file is not made, and a lock that nobody holds stays free."""
    if not lock.exists():
        return False
    with lock.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
