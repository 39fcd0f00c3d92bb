"""Tells a Prometheus Pushgateway what a step came to.

A step ends before anybody could ask it for its numbers, so it leaves them at a gateway: one group for each pipeline and
room, never one for a run, for a gateway forgets nothing. What is there is of the room's last step. Nothing is told
unless ``config.yaml`` or ``EXPUNGE_PUSHGATEWAY`` names a gateway, and one that is dead costs a step a sentence and a
few seconds, never its result. No decision reads from it.

Names and units follow Prometheus' conventions. A label says which room, rule or set, in words of our own alone: never
who asked, which request, run or model, or what was forgotten.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

from expunge.configuration import Configuration
from expunge.contracts import RECORD_FILE, Interval, Outcome, Rule, SampleSet, read_record
from expunge.errors import ExpungeError
from expunge.settings import Workspace
from expunge.stores.addresses import shown

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

GATEWAY_VARIABLE = "EXPUNGE_PUSHGATEWAY"
PIPELINE_VARIABLE = "EXPUNGE_PIPELINE"  # which plan a step belongs to
JOB = "expunge"
PATIENCE = 5.0  # seconds that a step gives a gateway in all, its name's resolution included

DURATION, GPU = "expunge_step_duration_seconds", "expunge_step_gpu_seconds"
SAMPLES, REUSED = "expunge_step_samples", "expunge_step_reused"
SUCCESS, FAILURE = "expunge_step_last_success_timestamp_seconds", "expunge_step_last_failure_timestamp_seconds"
VERDICT, BOUND, LIMIT = "expunge_gate_verdict", "expunge_gate_bound", "expunge_gate_limit"

# Everything that a step may tell: its name, what it is, and its labels beside the group's.
NUMBERS: dict[str, tuple[str, tuple[str, ...]]] = {
    DURATION: ("Seconds that the room's own work took.", ()),
    GPU: ("Seconds that the work took, times the GPUs that it used; absent where it used none.", ()),
    SAMPLES: ("Samples in the sets that the step read or made, by their role.", ("set",)),
    REUSED: ("1 if an earlier result was taken over, whose seconds and samples then stay; else 0.", ()),
    SUCCESS: ("When a step of this room last ended well.", ()),
    FAILURE: ("When a step of this room last failed; absent if it has not, since work was last done well.", ()),
    VERDICT: ("1 for the last verdict, 0 for the others.", ("outcome",)),
    BOUND: ("The end of a metric's interval that its rule is decided by.", ("metric", "side")),
    LIMIT: ("What that end is held against.", ("metric", "side")),
}


class Figure(NamedTuple):
    """One number, by its name in `NUMBERS`."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


def of_verdict(outcome: Outcome, decided: Iterable[tuple[Rule, Interval]]) -> list[Figure]:
    """A verdict, and for each rule with a number the bound that decides it and its limit."""
    found = [Figure(VERDICT, outcome == one, (one,)) for one in get_args(Outcome)]
    for rule, interval in decided:
        labels = (rule.metric, rule.side)
        found += [Figure(BOUND, interval.upper if rule.side == "at most" else interval.lower, labels),
                  Figure(LIMIT, rule.limit, labels)]
    return found


def of_work(seconds: float, folders: Iterable[Path]) -> list[Figure]:
    """What one piece of work took, and the samples that it read or made.

    Args:
        seconds: of the room's own work.
        folders: what it read and what it wrote; those that hold no sample set count for nothing.
    """
    found = [Figure(DURATION, seconds)]
    if gpus := _gpus_used():
        found.append(Figure(GPU, seconds * gpus))
    return found + [Figure(SAMPLES, *counted) for folder in folders if (counted := _samples_in(folder))]


def done(workspace: Workspace, room: str, reused: bool, figures: Iterable[Figure]) -> str:
    """Tells of a step that ended well; what went wrong in telling, or nothing.

    New work replaces all that was known of the room. What was only taken over from an earlier run adds that it was.
    """
    return _tell(workspace, room, (*figures, Figure(REUSED, reused), Figure(SUCCESS, time.time())), replace=not reused)


def failed(workspace: Workspace, room: str) -> str:
    """Tells of a step that failed, beside what is known of its room; what went wrong in telling, or nothing."""
    return _tell(workspace, room, (Figure(FAILURE, time.time()),), replace=False)


def gateway(workspace: Workspace) -> str | None:
    """Where steps leave their numbers, if anywhere. BadInput if ``config.yaml`` cannot be read."""
    return os.environ.get(GATEWAY_VARIABLE) or Configuration.load(workspace).pushgateway


def registry_of(figures: Iterable[Figure]) -> "CollectorRegistry":
    """Figures as the Prometheus client has them, each with its help text."""
    from prometheus_client import CollectorRegistry, Gauge

    registry, gauges = CollectorRegistry(), {}
    for name, value, labels in figures:
        if name not in gauges:
            help_text, label_names = NUMBERS[name]
            gauges[name] = Gauge(name, help_text, label_names, registry=registry)
        (gauges[name].labels(*labels) if labels else gauges[name]).set(value)
    return registry


def _tell(workspace: Workspace, room: str, figures: Iterable[Figure], *, replace: bool) -> str:
    try:
        address = gateway(workspace)
    except ExpungeError as error:
        return error.problem
    if address is None:
        return ""
    problems: list[str] = []

    def push() -> None:
        from http.client import HTTPException

        from prometheus_client import push_to_gateway, pushadd_to_gateway

        group = {"pipeline": os.environ.get(PIPELINE_VARIABLE, "none"), "component": room}
        try:
            (push_to_gateway if replace else pushadd_to_gateway)(
                address, JOB, registry_of(figures), group, timeout=PATIENCE)
        except (OSError, ValueError, HTTPException) as error:
            problems.append(f"{shown(address)} was not told: {shown(str(error)) or type(error).__name__}")

    # A thread of its own, for a timeout of the connection does not hold for looking up its name.
    thread = threading.Thread(target=push, daemon=True, name="telemetry")
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        return f"{shown(address)} did not answer within {PATIENCE:.0f} s"
    return problems[0] if problems else ""


def _gpus_used() -> int:
    """How many GPUs this process has put anything on; none where no room has loaded torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(torch.cuda.memory_stats(number).get("allocation.all.allocated", 0) > 0
               for number in range(torch.cuda.device_count()))


def _samples_in(folder: Path) -> tuple[int, tuple[str]] | None:
    """Count and role of a sample set; None for any other folder."""
    try:
        record = json.loads((folder / RECORD_FILE).read_bytes())
        if not isinstance(record, dict) or record.get("schema") != SampleSet.SCHEMA:
            return None
        found = read_record(SampleSet, folder)
    except (ExpungeError, OSError, ValueError):
        return None
    return found.count, (found.role,)
