"""A run that a cluster has carried out comes into the ledger: what its rooms signed, and what it came to.

Kubeflow says how a run ended, and is believed in nothing else. Which results are the run's is read off the rooms'
signed statements: from its verdict back to its request, each names the digests of what it was made from. It is done in
the workspace that the cluster's steps share.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from expunge.contracts import Request, parse_record
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify
from expunge.events import TITLES, Event
from expunge.room import RoomStatement
from expunge.runs import Run
from expunge.settings import Workspace
from expunge.stores import s3
from expunge.stores.addresses import shown
from pipelines import submitting, supervisor
from pipelines.kubeflow import Kubeflow, KubeflowRun
from pipelines.results import TRAINING, outputs, recipe, statements, tree
from pipelines.supervisor import Ended, Watcher

ASK_EVERY = 10.0  # seconds between questions about a run that is waited for
OF_ONE_RUN = ("gate", "deploy")  # rooms whose results belong to the run that they were made in, and to no other


@dataclass(frozen=True)
class _Result:
    """A room's result that may be part of a run."""

    folder: str  # relative to the workspace
    statement: RoomStatement
    outputs: frozenset[str]  # as later rooms know them

    def preference(self, run: str) -> tuple[bool, str]:
        """Of several that fit equally, this run's own is taken, and of these the latest."""
        return self.statement.predicate.run == run, self.statement.predicate.started_at


def collect(workspace: Workspace, kubeflow: Kubeflow, store: str, name: str | None, watch: Watcher,
            wait: bool = False) -> list[Run]:
    """Enters what a run has done, or every run that was submitted; with `wait`, until it has ended.

    Raises:
        BadInput: no such run was submitted, or it is not of this workspace.
        DoesNotVerify: its request in the store, or a result, is not what it was.
    """
    store = submitting.require_store(store)
    while True:
        attempts = _attempts(kubeflow, name)
        found = [_collected(workspace, store, attempts[each], watch) for each in sorted(attempts)]
        if not wait or not any(_ended(attempts[each]) is None for each in attempts):
            return found
        time.sleep(ASK_EVERY)


def _attempts(kubeflow: Kubeflow, name: str | None) -> dict[str, list[KubeflowRun]]:
    """Kubeflow's runs that were submitted or scheduled from expunge, by the name that statements know them by."""
    found: dict[str, list[KubeflowRun]] = {}
    for run in submitting.runs(kubeflow, name):
        found.setdefault(run.name, []).append(run)
    if name is not None and not found:
        raise BadInput(f"run '{name}' was not submitted to {kubeflow.endpoint}",
                       "see 'expunge submit'; what a schedule is to start is there once it has started it")
    return found


def _collected(workspace: Workspace, store: str, attempts: list[KubeflowRun], watch: Watcher) -> Run:
    name, requests = attempts[0].name, {submitting.request_of(run.description) for run in attempts}
    if len(requests) > 1:
        raise DoesNotVerify(f"run '{name}' is of {len(requests)} requests in Kubeflow",
                            "somebody began one by hand: delete it there")
    sha256 = requests.pop()
    assert sha256 is not None
    request, policy = _from_store(store, sha256)
    run = Run.adopt(workspace, name, request, policy, datetime.now(UTC).isoformat(timespec="milliseconds"))
    finished = [Event(room=room, kind="finished", result=one.folder, seconds=one.statement.predicate.seconds,
                      reused=one.statement.predicate.run != name) for room, one in made_in(run)]
    supervisor.take_over(run, finished, _ended(attempts), watch)
    return run


def _from_store(store: str, sha256: str) -> tuple[Request, bytes]:
    """The request of that digest, and the policy that was submitted with it."""
    found = {}
    for file in ("request.json", "policy.yaml"):
        uri = f"{store.rstrip('/')}/{sha256}/{file}"
        there = s3.read_with_tag(uri)
        if there is None:
            raise BadInput(f"{shown(uri)}: is not there", "name the --store that it was submitted with")
        found[file] = there[0]
    if sha256_bytes(found["request.json"]) != sha256:
        raise DoesNotVerify(f"{shown(store)}/{sha256[:12]}/request.json: is not what was submitted",
                            "find out who wrote it")
    return parse_record(Request, json.loads(found["request.json"]), "request"), found["policy.yaml"]


def _ended(attempts: list[KubeflowRun]) -> Ended | None:
    """How a run of which these were begun ended; None while one is at work. One that went well is enough."""
    if any(run.state == "SUCCEEDED" for run in attempts):
        return Ended(None)
    if any(run.state not in submitting.ENDED_EARLY for run in attempts):
        return None
    last = max((run for run in attempts if run.state == "FAILED"), key=lambda run: run.created, default=None)
    remedy = ("its schedule's next start continues it" if attempts[0].recurring else
              "the same 'expunge submit' continues it")
    if last is None:
        return Ended("cancelled", "stopped in Kubeflow", remedy)
    return Ended("failed", f"Kubeflow: {last.failed or 'a step failed'}", f"see {last.id} there; {remedy}")


def made_in(run: Run) -> Iterator[tuple[str, _Result]]:
    """The rooms' results of a run, in their order, as far as it has come.

    A room's result is this run's if it was made from nothing but the run's request and policy and outputs of such
    results, with its parameters; and, seen from the last, if a later one was made from it.
    """
    request = run.request()
    asked = recipe(request)
    known = {tree({file.name: sha256_file(file)}) for file in (run.request_file, run.policy_file)}
    fitting: dict[str, list[_Result]] = {}
    signed = list(statements(run.workspace))
    for room in TITLES:
        found = [_Result(folder, statement, frozenset(outputs(statement, folder))) for folder, statement in signed
                 if _fits(room, statement, run.name, known, asked)]
        if not found:
            break
        fitting[room] = found
        known = known.union(*(one.outputs for one in found))
    chosen: dict[str, _Result] = {}
    needed: set[str] = set()
    for room in reversed(fitting):
        wanted = [one for one in fitting[room] if not chosen or one.outputs & needed]
        if not wanted:
            raise DoesNotVerify(f"run '{run.name}': nothing of '{room}' is what later rooms were given",
                                "see 'expunge audit verify'")
        chosen[room] = max(wanted, key=lambda one: one.preference(run.name))
        needed |= set(chosen[room].statement.predicate.inputs.values())
    yield from ((room, chosen[room]) for room in TITLES if room in chosen)


def _fits(room: str, statement: RoomStatement, run: str, known: set[str], asked: dict[str, Any]) -> bool:
    said = statement.predicate
    return (said.room == room and set(said.inputs.values()) <= known
            and (said.run == run or room not in OF_ONE_RUN)
            and said.params == (asked if room in TRAINING else {}))
