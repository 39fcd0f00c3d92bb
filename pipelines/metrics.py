"""Where an installation stands, as numbers that Prometheus collects: what waits, what is late, what must not be served.

A file in Prometheus' text format, for the collector of text files of a machine's exporter, or an address to scrape.
Names and units follow its conventions: moments are timestamps, so that their age is right whenever it is asked for. No
label says who or which request. What steps tell a Pushgateway is in expunge/stores/telemetry.py.
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from expunge.contracts import Outcome, Release
from expunge.deciding import deadline_of, waiting_since
from expunge.errors import BadInput, DoesNotVerify, ExpungeError
from expunge.evidence import audits
from expunge.live import live
from expunge.runs import Run, State
from expunge.settings import Workspace
from expunge.stores.queue import Queue, Stage
from expunge.stores.releases import current, models
from pipelines import reauditing
from pipelines.summary import standing, tries

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily

PATH = "/metrics"


class Answer(NamedTuple):
    """What is answered to whoever asks for the numbers over HTTP."""

    status: HTTPStatus
    content_type: str
    body: bytes


def collected(workspace: Workspace, today: date | None = None) -> "CollectorRegistry":
    """Every number, as it is now.

    Raises:
        BadInput: a mark of taint cannot be read.
    """
    from prometheus_client import CollectorRegistry

    class Collector:
        def collect(self) -> Iterator["GaugeMetricFamily"]:
            return iter(families)

    families = [*_of_runs(workspace, today or datetime.now(UTC).date()), *_of_models(workspace), *_of_audits(workspace),
                *_of_queue(workspace), *_of_reaudits(workspace)]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return registry


def in_text(workspace: Workspace) -> str:
    """Every number in Prometheus' text format."""
    from prometheus_client import generate_latest

    return generate_latest(collected(workspace)).decode()


def answer(workspace: Workspace) -> Answer:
    """Every number for a scrape, as it is now; if they cannot be told, why in one line, and no number at all."""
    from prometheus_client import CONTENT_TYPE_LATEST

    try:
        return Answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, in_text(workspace).encode())
    except ExpungeError as error:
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", f"{error}\n".encode())


def serve(workspace: Workspace, address: str, ready: Callable[[str], None]) -> None:
    """Answers scrapes of ``/metrics`` until the process is told to end (SIGTERM, SIGINT).

    Args:
        workspace: Whose numbers.
        address: ``host:port`` to listen at; port 0 takes a free one.
        ready: Told the address of the numbers once they are there.

    Raises:
        BadInput: the address is none, or cannot be listened at.
    """
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    from prometheus_client.exposition import ThreadingWSGIServer

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            """A scrape every few seconds is no news."""

    def application(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        there = environment.get("PATH_INFO") == PATH
        told = answer(workspace) if there else Answer(HTTPStatus.NOT_FOUND, "text/plain", f"see {PATH}\n".encode())
        start_response(f"{told.status.value} {told.status.phrase}", [("Content-Type", told.content_type)])
        return [told.body]

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadInput(f"--serve: '{address}' is no address to listen at", "write HOST:PORT, such as 127.0.0.1:9464")
    try:
        server = make_server(host, int(port), application, ThreadingWSGIServer, Quiet)
    except OSError as error:
        raise BadInput(f"--serve: {address}: {error.strerror or error}", "name another address") from None
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the first process of a container ignores it otherwise
    with server:
        ready(f"http://{host}:{server.server_port}{PATH}")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def _of_runs(workspace: Workspace, today: date) -> Iterator["GaugeMetricFamily"]:
    runs = Run.all(workspace)
    tried = tries(workspace)
    standings = [standing(run, tried, today) for run in runs]
    # A state that no run is in is said as well: absent is not zero.
    yield _gauge("expunge_runs", "Runs, by the state that they are in.",
                 {(state,): sum(one["state"] == state for one in standings) for state in get_args(State)}, "state")
    yield _gauge("expunge_requests_overdue", "Requests past the day that they were due, and not answered.",
                 _requests(standings, "overdue"))
    yield _gauge("expunge_requests_kept_too_long",
                 "Requests whose images are still kept after the day that was promised.",
                 _requests(standings, "retention_overdue"))
    waiting = [run for run in runs if run.state().state == "awaiting_approval"]
    yield _gauge("expunge_approvals_waiting", "Runs that wait for people to decide.", len(waiting))
    yield _gauge("expunge_approvals_waiting_since_timestamp_seconds",
                 "Since when the run has waited that has waited longest; absent if none waits.",
                 _earliest(waiting_since(workspace, run.name) for run in waiting))
    yield _gauge("expunge_approvals_deadline_timestamp_seconds",
                 "The nearest deadline of a run that waits; absent if none that waits has one.",
                 _earliest(deadline_of(run, run.state()) for run in waiting))


def _of_models(workspace: Workspace) -> Iterator["GaugeMetricFamily"]:
    served = live(workspace, by_bytes=False).served  # minute by minute: gigabytes are for 'audit live'
    yield _gauge("expunge_models_served", "Models of which something is in service.",
                 sum(one.path is not None for one in served))
    yield _gauge("expunge_models_tainted", "Models in service that a request forbids.",
                 sum(one.standing == "tainted" for one in served))
    yield _gauge("expunge_models_changed",
                 "Models in service with a file missing, or of another size than was released.",
                 sum(one.standing == "not what was released" for one in served))


def _of_audits(workspace: Workspace) -> Iterator["GaugeMetricFamily"]:
    done = audits.known(workspace)
    yield _gauge("expunge_audit_last_timestamp_seconds",
                 "When 'expunge audit verify' or 'audit live' was last done here; absent if never.",
                 {(audit,): one.last for audit, one in done.items()}, "audit")
    yield _gauge("expunge_audit_last_success_timestamp_seconds",
                 "When it last found nothing wrong; absent if never.",
                 {(audit,): one.last_success for audit, one in done.items() if one.last_success}, "audit")


def _of_queue(workspace: Workspace) -> Iterator["GaugeMetricFamily"]:
    tickets = [seen.ticket for seen in Queue.of(workspace).all()]
    yield _gauge("expunge_queue_requests", "Filed requests, by how far they have come.",
                 {(stage,): sum(ticket.stage == stage for ticket in tickets) for stage in get_args(Stage)}, "stage")
    yield _gauge("expunge_queue_oldest_timestamp_seconds",
                 "When the oldest of those was filed that no worker has finished; absent if there is none.",
                 _earliest(datetime.fromisoformat(ticket.filed_at) for ticket in tickets
                           if ticket.stage in ("filed", "claimed")))


def _of_reaudits(workspace: Workspace) -> Iterator["GaugeMetricFamily"]:
    served: dict[str, Release] = {}
    for model in models(workspace):
        with suppress(DoesNotVerify):  # it is counted as changed
            if (release := current(workspace, model)) is not None:
                served[model] = release
    said = {model: reauditing.latest(workspace, release) for model, release in served.items()}
    yield _gauge("expunge_model_evaluated_timestamp_seconds",
                 "When what is in service of a model was last evaluated: by 'expunge audit again', or for its release.",
                 {(model,): datetime.fromisoformat(audit.at if audit else served[model].released_at).timestamp()
                  for model, audit in said.items()}, "model")
    yield _gauge("expunge_model_reaudit", "What 'expunge audit again' last came to, of what is in service.",
                 {(model, outcome): float(audit.outcome == outcome) for model, audit in said.items() if audit
                  for outcome in get_args(Outcome)}, "model", "outcome")


def _gauge(name: str, help_text: str, value: float | dict[tuple[str, ...], Any] | None,
           *labels: str) -> "GaugeMetricFamily":
    """One number, or one for each value of its labels. None is said by its help text alone, without a number."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, help_text, labels=labels)
    for given, number in value.items() if isinstance(value, dict) else (((), value),):
        if number is not None:
            family.add_metric(given, number)
    return family


def _earliest(moments: Iterable[datetime | None]) -> float | None:
    return min((moment.timestamp() for moment in moments if moment is not None), default=None)


def _requests(standings: list[dict[str, Any]], what: str) -> int:
    return len({one["request_id"] for one in standings if one[what]})
