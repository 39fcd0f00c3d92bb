"""Kubeflow's API: the only file that speaks to it, by the generated client of `kfp-server-api`.

Not by `kfp.Client`, which reads files of the user's, asks the cluster's own services for credentials, probes the server
again and again before the first question, and prints.
"""

import ipaddress
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from expunge.contracts import shorten
from expunge.errors import BadInput, ExpungeError

TOKEN_VARIABLE = "EXPUNGE_KUBEFLOW_TOKEN"
TRUST_VARIABLE = "SSL_CERT_FILE"  # as everywhere: whose certificates are trusted, in the place of the usual ones
CONNECT_SECONDS, READ_SECONDS = 5, 30  # of one answer
PAGE = 100  # entries of a listing
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a plan is long: the first is ten times as fast


@dataclass(frozen=True)
class KubeflowRun:
    """A run, as Kubeflow lists it."""

    id: str
    name: str
    description: str
    state: str
    failed: str = ""  # of a failed one: what Kubeflow says of its steps
    recurring: str = ""  # the id of the recurring run that started it
    created: str = ""  # ISO 8601


@dataclass(frozen=True)
class RecurringRun:
    """A run that Kubeflow starts by itself, again and again."""

    id: str
    name: str
    description: str
    cron: str


class Kubeflow:
    """One Kubeflow Pipelines API. Every method can raise what `_explaining` says."""

    def __init__(self, endpoint: str, namespace: str | None = None) -> None:
        self.endpoint, self._namespace = _address(endpoint), namespace
        import kfp_server_api as api
        import urllib3

        told = api.Configuration()
        told.host, told.ssl_ca_cert = self.endpoint, os.environ.get(TRUST_VARIABLE)
        if told.ssl_ca_cert and not os.access(told.ssl_ca_cert, os.R_OK):
            raise BadInput(f"{TRUST_VARIABLE}: {shorten(told.ssl_ca_cert)} cannot be read", "name a PEM file")
        told.retries = urllib3.Retry(total=None, connect=0, read=0, other=0, redirect=3)  # each retry would be printed
        token = os.environ.get(TOKEN_VARIABLE)
        if token:
            _refuse_open_channel(self.endpoint)
            told.api_key["authorization"], told.api_key_prefix["authorization"] = token, "Bearer"
        self._api, self._client = api, api.ApiClient(told)

    def experiment(self, name: str) -> str:
        """The id of the experiment of that name; BadInput if there is none."""
        asking = self._api.ExperimentServiceApi(self._client).experiment_service_list_experiments
        for found in self._listed(asking, "experiments", _named("EQUALS", name)):
            return str(found["experiment_id"])
        raise BadInput(f"--experiment: '{shorten(name)}' is not known to {self.endpoint}",
                       "make it in Kubeflow, name another, or leave it out")

    def runs_named_like(self, part: str) -> list[KubeflowRun]:
        """All runs with these words in their name."""
        return [_run(found) for found in self._runs(_named("IS_SUBSTRING", part))]

    def runs_of_recurring(self) -> list[KubeflowRun]:
        """All runs that recurring ones started.

        Every run is looked at. Kubeflow gives these names of its own, and its filter by who started a run asks for a
        column that its database calls otherwise (`RecurringRunId` and `JobUUID` in its `model/run.go`).
        """
        return [run for run in map(_run, self._runs(None)) if run.recurring]

    def start(self, name: str, description: str, document: str, parameters: dict[str, Any], experiment: str | None,
              service_account: str | None) -> KubeflowRun:
        """Starts a run of a compiled plan."""
        wanted = self._api.V2beta1Run(
            display_name=name, description=description, experiment_id=experiment, service_account=service_account,
            pipeline_spec=_both_documents(document),
            runtime_config=self._api.V2beta1RuntimeConfig(parameters=parameters))
        return _run(self._asked(self._api.RunServiceApi(self._client).run_service_create_run, run=wanted))

    def recurring_named(self, name: str) -> RecurringRun | None:
        """The recurring run of that name, if there is one."""
        return next(self._recurring_runs(_named("EQUALS", name)), None)

    def recurring_named_like(self, part: str) -> list[RecurringRun]:
        """All recurring runs with these words in their name."""
        return list(self._recurring_runs(_named("IS_SUBSTRING", part)))

    def schedule(self, name: str, description: str, document: str, parameters: dict[str, Any], cron: str,
                 experiment: str | None, service_account: str | None) -> RecurringRun:
        """Has a compiled plan started at given times: one at a time, and what was missed is not made up for."""
        wanted = self._api.V2beta1RecurringRun(
            display_name=name, description=description, experiment_id=experiment, service_account=service_account,
            namespace=self._namespace, pipeline_spec=_both_documents(document),
            runtime_config=self._api.V2beta1RuntimeConfig(parameters=parameters), max_concurrency="1",
            no_catchup=True, mode="ENABLE",
            trigger=self._api.V2beta1Trigger(cron_schedule=self._api.V2beta1CronSchedule(cron=cron)))
        return _recurring(self._asked(
            self._api.RecurringRunServiceApi(self._client).recurring_run_service_create_recurring_run,
            recurring_run=wanted))

    def _runs(self, wanted: str | None) -> Iterator[dict[str, Any]]:
        return self._listed(self._api.RunServiceApi(self._client).run_service_list_runs, "runs", wanted)

    def _recurring_runs(self, wanted: str | None) -> Iterator[RecurringRun]:
        asking = self._api.RecurringRunServiceApi(self._client).recurring_run_service_list_recurring_runs
        return map(_recurring, self._listed(asking, "recurringRuns", wanted))

    def _listed(self, asking: Callable[..., Any], what: str, wanted: str | None) -> Iterator[dict[str, Any]]:
        """Every entry that a filter lets through, over all pages."""
        more = {key: value for key, value in (("namespace", self._namespace), ("filter", wanted)) if value}
        page = ""
        while True:
            answer = self._asked(asking, page_size=PAGE, page_token=page, **more)
            yield from answer.get(what) or ()
            page = answer.get("next_page_token") or ""
            if not page:
                return

    def _asked(self, asking: Callable[..., Any], **given: Any) -> dict[str, Any]:
        with self._explaining():
            answer = asking(**given, _preload_content=False, _request_timeout=(CONNECT_SECONDS, READ_SECONDS))
            try:
                read = json.loads(answer.data)
            except ValueError:
                read = None
        if not isinstance(read, dict):
            raise BadInput(f"--endpoint: what answers at {self.endpoint} is not Kubeflow's API",
                           f"check the address; a page to log in asks for a token in {TOKEN_VARIABLE}")
        return read

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """What goes wrong between here and Kubeflow, in words for whoever gave the address.

        Raises:
            BadInput: it does not let us in, knows nothing of what was asked for, or does not accept what it was given.
            ExpungeError: it cannot be reached, or fails.
        """
        import urllib3
        from kfp_server_api.exceptions import ApiException

        again = "check the address and the network; the same command again finds what was begun"
        try:
            yield
        except ApiException as error:
            status = error.status or 0
            if status in (401, 403):
                raise BadInput(f"--endpoint: Kubeflow at {self.endpoint} does not allow it ({status})",
                               f"put a token that may into {TOKEN_VARIABLE}") from None
            if status == 404:
                raise BadInput(f"--endpoint: there is no Kubeflow API of version 2 at {self.endpoint} (404)",
                               "give its address without /apis or /#/") from None
            if 400 <= status < 500:
                raise BadInput(f"Kubeflow does not accept it ({status}): {_message(error.body)}",
                               "correct what it names") from None
            if status == 0:  # the generated client's number for it
                raise _untrusted(self.endpoint) from None
            raise ExpungeError(f"Kubeflow at {self.endpoint} fails ({status})", again) from None
        except urllib3.exceptions.HTTPError as error:
            if isinstance(getattr(error, "reason", None), urllib3.exceptions.SSLError):
                raise _untrusted(self.endpoint) from None
            raise ExpungeError(f"Kubeflow at {self.endpoint} cannot be reached ({type(error).__name__})",
                               again) from None


def _untrusted(endpoint: str) -> ExpungeError:
    return ExpungeError(f"Kubeflow at {endpoint} shows a certificate that is not trusted here",
                        f"name the certificates of its authority in {TRUST_VARIABLE}")


def _address(endpoint: str) -> str:
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.password or parts.query or parts.fragment:
        raise BadInput("--endpoint: is no address of Kubeflow's API",
                       f"write https://host/path, without a user and password; a token goes into {TOKEN_VARIABLE}")
    return endpoint.rstrip("/")


def _refuse_open_channel(endpoint: str) -> None:
    """A token goes over the network only where nobody can read it; to this very machine it may go as it is."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    try:
        here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = host == "localhost"
    if parts.scheme == "http" and not here:
        raise BadInput(f"--endpoint: {endpoint} would show the token in {TOKEN_VARIABLE} to the whole network",
                       "use https://, or kubectl port-forward and http://localhost:PORT")


def _both_documents(compiled: str) -> dict[str, Any]:
    """What Kubeflow takes in one field: the pipeline, and what Kubernetes is told of it."""
    pipeline, platform = yaml.load_all(compiled, _LOADER)
    return {"pipeline_spec": pipeline, "platform_spec": platform}


def _named(operation: str, name: str) -> str:
    """A filter by name, in JSON's own spelling, which the generated models do not write."""
    return json.dumps({"predicates": [{"operation": operation, "key": "display_name", "stringValue": name}]})


def _run(found: dict[str, Any]) -> KubeflowRun:
    return KubeflowRun(id=str(found.get("run_id")), name=found.get("display_name") or "",
                       description=found.get("description") or "", state=found.get("state") or "",
                       failed=_failed(found), recurring=found.get("recurring_run_id") or "",
                       created=found.get("created_at") or "")


def _failed(found: dict[str, Any]) -> str:
    """Which steps of a run failed, or what Kubeflow says of all of it; cut to a line."""
    tasks = (found.get("run_details") or {}).get("task_details") or ()
    names = dict.fromkeys(str(task.get("display_name")) for task in tasks if task.get("state") == "FAILED")
    return shorten(", ".join(names) or str((found.get("error") or {}).get("message") or ""), 200)


def _recurring(found: dict[str, Any]) -> RecurringRun:
    cron = ((found.get("trigger") or {}).get("cron_schedule") or {}).get("cron") or ""
    return RecurringRun(id=str(found.get("recurring_run_id")), name=found.get("display_name") or "",
                        description=found.get("description") or "", cron=cron)


def _message(body: Any) -> str:
    """What a refusal says, cut to a line."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    with suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["message"])
    return shorten(text, 300) or "without a word"
