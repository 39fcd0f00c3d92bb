"""Work at given times: a recurring run of Kubeflow, or the lines for this machine's own scheduler.

The work is a request, the queue of filed ones, or another look at what is live.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.contracts import shorten
from expunge.errors import BadInput
from expunge.settings import KEYS_VARIABLE, Workspace
from pipelines import compiling, submitting
from pipelines.cron import Cron
from pipelines.kubeflow import Kubeflow
from pipelines.profiles import Profile
from pipelines.submitting import Order

# What can be done at given times beside a request, and the verb that does it.
VERBS: dict[str, tuple[str, ...]] = {"queue": ("queue", "work"), "audit": ("audit", "again")}


@dataclass(frozen=True)
class Scheduled:
    """A recurring run that Kubeflow has, whether this or an earlier call made it."""

    run: str  # the name of what it starts, in statements and decisions
    id: str  # Kubeflow's
    address: str
    cron: str
    begun: bool  # by this call


@dataclass(frozen=True)
class Lines:
    """What to enter on this machine; nothing is entered by us."""

    crontab: str | None  # None where a crontab cannot say it
    service: str  # of systemd
    timer: str


def schedule(ordered: Order, kubeflow: Kubeflow, cron: Cron, image: str, profile: Profile,
             experiment: str | None = None, service_account: str | None = None) -> Scheduled:
    """Has Kubeflow start a request's run at given times, or finds that it does already.

    Every start is of the same run: what it has made is taken over, and the gate asks again. One start at a time, and
    none is made up for.

    Raises:
        BadInput: this request is scheduled at other times.
    """
    inside = None if experiment is None else kubeflow.experiment(experiment)
    name = f"{ordered.request.id} {ordered.sha256[:12]}"
    there = kubeflow.recurring_named(name)
    taken = submitting.names(ordered.request.id, kubeflow)
    run = submitting.latest_name(ordered, taken) or submitting.next_name(ordered, taken)
    if there is not None:
        if there.cron != cron.text:
            raise BadInput(f"--cron: this request is scheduled already, at '{there.cron}'",
                           f"delete the recurring run '{name}' in Kubeflow first")
        return Scheduled(run, there.id, _address(kubeflow, there.id), cron.text, begun=False)
    document = compiling.compile_plan("unlearning", image, profile, run=run)
    ordered.keep()
    made = kubeflow.schedule(name, ordered.description_as(run), document, ordered.parameters, cron.text, inside,
                             service_account)
    return Scheduled(run, made.id, _address(kubeflow, made.id), cron.text, begun=True)


def schedule_upkeep(work: str, kubeflow: Kubeflow, cron: Cron, image: str, profile: Profile,
                    experiment: str | None = None, service_account: str | None = None) -> Scheduled:
    """Has Kubeflow do one of `VERBS` at given times; or finds that it does already.

    It is done on the workspace of the profile's cluster, in one step.

    Raises:
        BadInput: this is scheduled at other times.
    """
    inside = None if experiment is None else kubeflow.experiment(experiment)
    name = f"expunge {work} {profile.cluster.workspace_claim}"
    there = kubeflow.recurring_named(name)
    if there is not None:
        if there.cron != cron.text:
            raise BadInput(f"--cron: this is scheduled already, at '{there.cron}'",
                           f"delete the recurring run '{name}' in Kubeflow first")
        return Scheduled(name, there.id, _address(kubeflow, there.id), cron.text, begun=False)
    # It works for no run of its own: those that it carries out have names.
    document = compiling.compile_plan("upkeep", image, profile, run="-")
    made = kubeflow.schedule(name, f"expunge {' '.join(VERBS[work])}", document, {"work": work}, cron.text, inside,
                             service_account)
    return Scheduled(name, made.id, _address(kubeflow, made.id), cron.text, begun=True)


def lines(verb: Sequence[str], workspace: Workspace, cron: Cron) -> Lines:
    """The lines that give a verb on this machine. Two at once do no harm: the second ends with exit code 75.

    Raises:
        BadInput: a path has a line break or the like in it, which neither scheduler can be told.
    """
    keys = os.environ.get(KEYS_VARIABLE)
    command = [*(["/usr/bin/env", f"{KEYS_VARIABLE}={Path(keys).absolute()}"] if keys else []),
               str(Path(sys.executable).parent / "expunge"), "--workspace", str(workspace.root), *verb]
    if not "".join(command).isprintable():
        raise BadInput(f"{shorten(' '.join(verb))}: cannot be written into a crontab", "give its file another name")
    try:
        # In a crontab % begins a new line.
        crontab = f"{cron.crontab} {shlex.join(command)}".replace("%", r"\%")
    except BadInput:
        crontab = None
    times = "".join(f"OnCalendar={each}\n" for each in cron.calendar)
    quoted = " ".join(_for_systemd(word) for word in command)
    title = f"expunge {' '.join((*verb[:-1], Path(verb[-1]).name))}"
    return Lines(
        crontab=crontab,
        service=f"[Unit]\nDescription={title}\n\n[Service]\nType=oneshot\nExecStart={quoted}\n",
        timer=f"[Unit]\nDescription={title}\n\n[Timer]\n{times}AccuracySec=1s\nPersistent=false\n\n"
              "[Install]\nWantedBy=timers.target\n")


def _for_systemd(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _address(kubeflow: Kubeflow, identifier: str) -> str:
    return f"{kubeflow.endpoint}/#/recurringrun/details/{identifier}"
