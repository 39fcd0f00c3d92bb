"""Where an installation stands, as numbers that Prometheus collects: what waits, what is late, what must not be served.

A file in Prometheus' text format, for the collector of text files of a machine's exporter. Names and units follow its
conventions; no label says who or which request.
"""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, get_args

from expunge import live
from expunge.runs import Run, State
from expunge.settings import Workspace
from pipelines.summary import standing

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def collected(workspace: Workspace, today: date | None = None) -> "CollectorRegistry":
    """Every number, as it is now.

    Raises:
        BadInput: a mark of taint cannot be read.
    """
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()
    runs = Run.all(workspace)
    standings = [standing(run, runs, today or datetime.now(UTC).date()) for run in runs]
    states = Gauge("expunge_runs", "Runs, by the state that they are in.", ["state"], registry=registry)
    for state in get_args(State):  # one that no run is in is said as well: absent is not zero
        states.labels(state).set(sum(one["state"] == state for one in standings))
    served = live.live(workspace, by_bytes=False).served  # minute by minute: gigabytes are for 'audit live'
    for name, help_text, number in (
            ("expunge_requests_overdue", "Requests past the day that they were due, and not answered.",
             _requests(standings, "overdue")),
            ("expunge_requests_kept_too_long", "Requests whose images are still kept after the day that was promised.",
             _requests(standings, "retention_overdue")),
            ("expunge_models_served", "Models of which something is in service.",
             sum(one.path is not None for one in served)),
            ("expunge_models_tainted", "Models in service that a request forbids.",
             sum(one.standing == "tainted" for one in served)),
            ("expunge_models_changed", "Models in service with a file missing, or of another size than was released.",
             sum(one.standing == "not what was released" for one in served))):
        Gauge(name, help_text, registry=registry).set(number)
    return registry


def _requests(standings: list[dict[str, Any]], what: str) -> int:
    return len({one["request_id"] for one in standings if one[what]})


def in_text(workspace: Workspace) -> str:
    """Every number in Prometheus' text format."""
    from prometheus_client import generate_latest

    return generate_latest(collected(workspace)).decode()
