"""A request goes to a cluster: pinned here, kept where the cluster can read it, started once."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.contracts import Request, read_record, shorten
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, DoesNotVerify
from expunge.evidence import policies
from expunge.runs import Run
from expunge.settings import Workspace
from expunge.stores import s3, sources
from expunge.stores.addresses import bucket_misfit, shown
from expunge.together import require_sharing
from pipelines import compiling
from pipelines.kubeflow import Kubeflow, KubeflowRun, RecurringRun
from pipelines.profiles import Profile
from pipelines.results import recipe

ENDED_EARLY = ("FAILED", "CANCELED", "CANCELING", "SKIPPED")  # such a run is gone on with, by a new one
DESCRIPTION = "expunge request sha256:"  # what a run says of itself in Kubeflow, before the digest
_AS = ", as run "  # what a recurring run says beyond that, for Kubeflow names what it starts itself
_DESCRIBED = re.compile(rf"{re.escape(DESCRIPTION)}(?P<sha256>[0-9a-f]{{64}})(?:{_AS}(?P<run>[A-Za-z0-9._-]+))?")
_LONGEST_NAME = 63  # characters, as of every identifier
_STORE = re.compile(r"s3://[A-Za-z0-9._-]+(/.*)?", re.DOTALL)


@dataclass(frozen=True)
class Order:
    """What a cluster is to do, before it is asked."""

    request: Request  # pinned
    sha256: str  # of its bytes
    policy: bytes
    store: str  # s3://bucket/prefix, that the cluster's steps can read

    @property
    def description(self) -> str:
        """What a run of this request says of itself in Kubeflow: by this it is found again."""
        return DESCRIPTION + self.sha256

    def description_as(self, run: str) -> str:
        """What a recurring run says of itself, all of whose starts are of the run of this name."""
        return f"{self.description}{_AS}{run}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What the plan is given."""
        return {"request_uri": self._uri("request.json"), "policy_uri": self._uri("policy.yaml"),
                **recipe(self.request)}

    def keep(self) -> None:
        """Writes request and policy to the store, under the request's digest; what is there already stays.

        Raises:
            DoesNotVerify: something else lies there.
        """
        for name, data in (("request.json", self.request.to_bytes()), ("policy.yaml", self.policy)):
            uri = self._uri(name)
            there = s3.read_with_tag(uri)
            if there is None:
                s3.write_over(uri, data, None)
            elif there[0] != data:
                raise DoesNotVerify(f"{shown(uri)}: is not what was submitted",
                                    "find out who wrote it, or name another --store")

    def _uri(self, name: str) -> str:
        return f"{self.store.rstrip('/')}/{self.sha256}/{name}"


@dataclass(frozen=True)
class Submitted:
    """A run that Kubeflow has, whether this or an earlier call began it."""

    run: str  # its name in statements and decisions
    id: str  # Kubeflow's
    address: str
    begun: bool  # by this call


def require_store(store: str) -> str:
    """The place where requests are kept for a cluster; BadInput if it can be none."""
    misfit = bucket_misfit(store)
    if misfit:
        raise BadInput(f"--store: {misfit}", "name the bucket as its server does")
    if not _STORE.fullmatch(store):
        raise BadInput(f"--store: '{shorten(shown(store))}' is nothing that a cluster can read",
                       "write s3://bucket/prefix")
    return store


def order(file: Path, workspace: Workspace, store: str) -> Order:
    """Reads and pins a request for a cluster.

    Raises:
        BadInput: the request, its policy or the store cannot be used there; a field names something that is only here.
        Refused: a source has another digest than the request pins.
    """
    require_store(store)
    named = read_record(Request, file)
    _refuse_local(named)
    request = sources.pin(named, file.parent, workspace)
    policy = Run.policy_for(workspace, request).read_bytes()
    if not policies.is_shipped(policy):
        raise BadInput(f"policy: '{request.policy}' does not ship with expunge, and a cluster takes no other yet",
                       "name one that does, or use 'expunge run'")
    return Order(request, sha256_bytes(request.to_bytes()), policy, store)


def submit(ordered: Order, kubeflow: Kubeflow, image: str, profile: Profile, experiment: str | None = None,
           service_account: str | None = None, again: bool = False) -> Submitted:
    """Starts a run of a request, or finds the one that there is.

    The same request is run once: a run of it that waits, works or has come to its end is what is returned. One that
    failed or was stopped is gone on with, under its name, and takes over what it had made. `again` makes another
    attempt.

    Raises:
        BadInput: the profile has several processes train, and the request's method trains in one.
    """
    if profile.training.together:
        require_sharing(ordered.request.method.name)
    inside = None if experiment is None else kubeflow.experiment(experiment)
    taken = names(ordered.request.id, kubeflow)
    latest = latest_name(ordered, taken)
    alive = [run for run in runs(kubeflow, latest) if run.state not in ENDED_EARLY] if latest else []
    if alive and not again:
        return _submitted(kubeflow, alive[0], begun=False)
    name = latest if latest and not again else next_name(ordered, taken)
    document = compiling.compile_plan("unlearning", image, profile, run=name)
    ordered.keep()
    begun = kubeflow.start(name, ordered.description, document, ordered.parameters, inside, service_account)
    return _submitted(kubeflow, KubeflowRun(begun.id, name, ordered.description, begun.state), begun=True)


def request_of(description: str) -> str | None:
    """The digest of the request that a run in Kubeflow says it is of; None if it is none of ours."""
    said = _DESCRIBED.fullmatch(description)
    return said["sha256"] if said else None


def runs(kubeflow: Kubeflow, name: str | None = None) -> list[KubeflowRun]:
    """Kubeflow's runs of submitted and of scheduled requests, or those of one name, as our statements know them.

    What a schedule has started goes by the schedule's name and description, for as long as Kubeflow has the schedule.
    """
    said = {found.id: (run, found.description) for run, found in _schedules(kubeflow, name)}
    started = [replace(run, name=said[run.recurring][0], description=said[run.recurring][1])
               for run in kubeflow.runs_of_recurring() if run.recurring in said] if said else []
    return started + [run for run in kubeflow.runs_named_like(name or ".")
                      if request_of(run.description) and name in (None, run.name)]


def names(request_id: str, kubeflow: Kubeflow) -> dict[str, set[str]]:
    """The names of the runs that are of a request of this id, of whatever content, and which contents it is.

    A schedule's name is taken from the moment when it is made.
    """
    wanted = re.compile(rf"{re.escape(request_id)}\.\d{{1,9}}")
    found = [(run.name, run.description) for run in kubeflow.runs_named_like(f"{request_id}.")]
    found += [(run, one.description) for run, one in _schedules(kubeflow, None)]
    taken: dict[str, set[str]] = {}
    for name, description in found:
        if wanted.fullmatch(name):
            taken.setdefault(name, set()).add(request_of(description) or "")
    return taken


def latest_name(ordered: Order, taken: dict[str, set[str]]) -> str | None:
    """The name of the latest attempt at just this request, if there was one."""
    return max((name for name, contents in taken.items() if ordered.sha256 in contents), key=_number, default=None)


def next_name(ordered: Order, taken: dict[str, set[str]]) -> str:
    """The name of the next attempt; BadInput if it would be too long."""
    name = f"{ordered.request.id}.{max(map(_number, taken), default=0) + 1}"
    if len(name) > _LONGEST_NAME:
        raise BadInput(f"id: its run would be called '{name}', longer than {_LONGEST_NAME} characters",
                       "give it a shorter id")
    return name


def _schedules(kubeflow: Kubeflow, name: str | None) -> Iterator[tuple[str, RecurringRun]]:
    """The recurring runs of requests, or those of one run's name, with the name of the run that they start."""
    for found in kubeflow.recurring_named_like(" "):  # as `scheduling.schedule` names them: request id and digest
        said = _DESCRIBED.fullmatch(found.description)
        if said and said["run"] and name in (None, said["run"]):
            yield said["run"], found


def _number(name: str) -> int:
    return int(name.rpartition(".")[2])


def _submitted(kubeflow: Kubeflow, run: KubeflowRun, begun: bool) -> Submitted:
    return Submitted(run.name, run.id, f"{kubeflow.endpoint}/#/runs/details/{run.id}", begun)


def _refuse_local(request: Request) -> None:
    """BadInput for the first field that names a file or folder of this machine."""
    for field, found in sources.names_of_this_machine(request):
        raise BadInput(f"{field}: {shorten(shown(found))} is on this machine, where a cluster cannot read it",
                       "use what is in a store or built in (docs/cluster.md)")
