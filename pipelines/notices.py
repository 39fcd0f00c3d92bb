"""Telling reviewers that a run waits for them, and once more before its deadline, in the way `config.yaml` names.

They are told of a run that ended INCONCLUSIVE as well, for two of them may waive what is open; not if the request has
been tried again since. A notice says which run and model, until when and what is needed: nothing of a person or of what
is to be forgotten. Each is given once by each way; what could not be delivered is a warning, and is tried again at the
next command.
"""

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from expunge.configuration import Configuration
from expunge.configuration import Notice as Settings
from expunge.contracts import Frozen, Identifier, Record, read_record, write_record
from expunge.deciding import deadline_of, expire
from expunge.errors import ExpungeError, WorkspaceBusy
from expunge.evidence import decisions
from expunge.evidence.coherence import read_policy
from expunge.room import exclusive
from expunge.runs import Run, RunState
from expunge.settings import Workspace

TIMEOUT = 5.0  # seconds that a command or a server may take: whoever looks at a status waits for it
SENT_FILE = "notices.json"  # in a run's folder

Event = Literal["awaiting_approval", "deadline_near", "inconclusive"]
Way = Literal["command", "webhook"]


class Notice(Record):
    """What is told."""

    SCHEMA: ClassVar[str] = "expunge/notice/v1"

    event: Event
    run: Identifier
    model: Identifier
    deadline: str | None  # RFC 3339, UTC; null if the policy sets none
    approvals_needed: int  # of people other than who asked, in all
    command: str  # by which a reviewer approves, and waives what is inconclusive


class Sent(Record):
    """What was told of a run, so that it is not told again."""

    SCHEMA: ClassVar[str] = "expunge/notices/v1"

    delivered: tuple[tuple[Event, Way], ...] = ()


class Told(Frozen):
    """What came of one look at the runs that wait."""

    notices: tuple[Notice, ...] = ()  # that were delivered now
    warnings: tuple[str, ...] = ()


def look(workspace: Workspace, now: datetime | None = None) -> Told:
    """Rejects the runs that have waited beyond their deadline, and tells people of the others what is due.

    A run that cannot be read is a warning: the others still have their turn.
    """
    now = now or datetime.now(UTC)
    settings = Configuration.load(workspace).notice
    notices: list[Notice] = []
    warnings: list[str] = []
    ways = _ways(settings) if settings else {}
    runs = Run.all(workspace)
    newest = {run.state().request_id: run.name for run in runs}
    for run in runs:
        try:
            state = run.state()
            if state.state == "awaiting_approval":
                state = expire(run, now)
            waits = state.state == "awaiting_approval" or (
                state.state == "inconclusive" and newest[state.request_id] == run.name)
            if settings and waits:
                _tell(run, _due(run, state, settings, now), ways, notices, warnings)
        except WorkspaceBusy:
            continue  # whoever is at it looks as well
        except ExpungeError as error:
            warnings.append(f"{run.name}: {error.problem}")
    return Told(notices=tuple(dict.fromkeys(notices)), warnings=tuple(warnings))


def _due(run: Run, state: RunState, settings: Settings, now: datetime) -> list[Notice]:
    deadline, request = deadline_of(run, state), run.request()
    events: list[Event] = ["inconclusive" if state.state == "inconclusive" else "awaiting_approval"]
    if deadline is not None and now >= deadline - timedelta(hours=settings.before_hours):
        events.append("deadline_near")
    verdict = run.verdict()
    waiving = "".join(f" --waive {rule}" for rule in decisions.inconclusive(verdict))
    return [Notice(event=event, run=run.name, model=request.model,
                   deadline=deadline and deadline.isoformat(timespec="seconds"),
                   approvals_needed=decisions.needed(read_policy(run.policy_file), verdict),
                   command=f"expunge approve {run.name} --as REVIEWER --reason '...'{waiving}") for event in events]


def _tell(run: Run, due: list[Notice], ways: dict[Way, Callable[[bytes], str]], notices: list[Notice],
          warnings: list[str]) -> None:
    file = run.folder / SENT_FILE
    with exclusive(run.folder / "notices.lock", f"run '{run.name}': somebody is being told", "wait for it"):
        sent = read_record(Sent, file) if file.exists() else Sent()
        for notice in due:
            for way in tuple(ways):
                if (notice.event, way) in sent.delivered:
                    continue
                if problem := ways[way](json.dumps(notice.model_dump(mode="json", by_alias=True)).encode()):
                    warnings.append(f"{run.name}: nobody was told by {problem}; it is tried again")
                    del ways[way]  # the next run would fare no better, and somebody waits
                    continue
                sent = Sent(delivered=(*sent.delivered, (notice.event, way)))
                write_record(file, sent)
                notices.append(notice)


# ------------------------------------------------------------------------------------------------ the two ways


def _ways(settings: Settings) -> dict[Way, Callable[[bytes], str]]:
    """How to deliver a notice; each says what went wrong, or nothing."""
    command, webhook = settings.command, settings.webhook
    found: dict[Way, Callable[[bytes], str]] = {}
    if command is not None:
        found["command"] = lambda notice: _run(command, notice)
    if webhook is not None:
        found["webhook"] = lambda notice: _post(webhook, notice)
    return found


def _run(command: tuple[str, ...], notice: bytes) -> str:
    try:
        done = subprocess.run(command, input=notice, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"{command[0]}: it took longer than {TIMEOUT:.0f} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror or error}"
    if not done.returncode:
        return ""
    said = (done.stderr.decode(errors="replace").strip().splitlines() or ["and said nothing"])[-1]
    return f"{command[0]}: it ended with {done.returncode} ({said[:200]})"


class _NoDetour(urllib.request.HTTPRedirectHandler):
    """A redirected POST arrives as something else: that is no delivery."""

    def redirect_request(self, *_: object) -> None:
        return None


def _post(address: str, notice: bytes) -> str:
    place = urlsplit(address).hostname  # what follows it may be a secret
    request = urllib.request.Request(address, data=notice, headers={"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.build_opener(_NoDetour).open(request, timeout=TIMEOUT) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        error.close()
        return f"{place}: it answered {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        return f"{place}: {getattr(error, 'reason', None) or error}"
    return ""
