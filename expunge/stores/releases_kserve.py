"""Serving by KServe: an InferenceService for each model, whose servers load a release's folder from S3.

The InferenceService is what says which release is in service; the bytes lie where ``releases_s3.py`` puts them. It
names the folder, and by annotations the digests of the release's record and of its weights. A server is told the
record's in its environment, to compare with what it loaded: KServe itself compares nothing.

A change is only made on the condition that nobody has made another one: the API server refuses a write that names an
older `resourceVersion`. That rises with every status as well, so who is refused looks again, and is overtaken only if
the uid or the generation is another: a generation counts the changes of a spec and never comes again.

A rollout goes through ``canaryTrafficPercent``: the share that is configured, until the new revision is ready and
stays so; then 100, until KServe sends everything there; then none, and only by that the release is in service.
Annotations stay as they are on the way: KServe copies them to its servers, and would start others. It is Knative that
tells revisions apart and divides requests among them, so its mode is asked for. ``status.observedGeneration`` tells
nothing here: it is that of another object (kserve/kserve#6081).
"""

import os
import re
import time
from typing import Any

from expunge.configuration import CONFIG_FILE, SERVICE_NAME, KServe
from expunge.contracts import Release, StoredFile, read_record, shorten
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, NotServed, WorkspaceBusy
from expunge.settings import Workspace
from expunge.stores.releases import RELEASE_FILE, Pointed, ReleaseStore, Tell, folder_name
from expunge.stores.releases_s3 import S3Releases, record_of
from expunge.stores.s3 import asking

API = "serving.kserve.io/v1beta1"
ACCOUNT_VARIABLE = "EXPUNGE_SERVICE_ACCOUNT"  # a folder with the token and ca.crt of the account that may deploy
RELEASE_VARIABLE = "EXPUNGE_RELEASE_SHA256"  # by which a server knows what it should have loaded
POLL_SECONDS = 2.0

_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"  # where Kubernetes puts a pod's own


class KServeReleases(ReleaseStore):
    """Served by InferenceServices of one namespace, from under a prefix of a bucket."""

    def __init__(self, workspace: Workspace, prefix: str, settings: KServe) -> None:
        super().__init__(workspace)
        self._settings = settings
        self._objects = S3Releases(workspace, prefix)  # its `current` says what was served before KServe did
        self._services = _InferenceServices(settings.namespace)

    def require_ready(self) -> None:
        """ExpungeError as for S3: by its `current` two tell that a service came and went between them."""
        self._objects.require_ready()

    def pointer(self, model: str) -> str:
        """Namespace and name of the InferenceService."""
        return f"kserve://{self._settings.namespace}/{self._name(model)}"

    def served_at(self, release: Release, name: str) -> str:
        """Where its servers load it from."""
        return self._objects.served_at(release, name)

    def newest_generation(self, model: str) -> int:
        """By what lies on S3."""
        return self._objects.newest_generation(model)

    def place(self, release: Release) -> None:
        """Uploads it."""
        self._objects.place(release)

    def discard(self, release: Release) -> None:
        """Removes its objects."""
        self._objects.discard(release)

    def require_whole(self, release: Release) -> None:
        """Of the workspace's copy, and of the objects."""
        self._objects.require_whole(release)

    def digest(self, release: Release, file: StoredFile, by_bytes: bool = True) -> str | None:
        """Of the object. What servers have loaded of it nobody is asked."""
        return self._objects.digest(release, file, by_bytes)

    def pointed(self, model: str) -> Pointed:
        """What the InferenceService says; as long as there is none, what `current` on S3 does."""
        return self._pointed(model, self._services.get(self._name(model)))

    def serve(self, model: str, release: Release | None, before: Pointed) -> None:
        """Begins a rollout, or removes the service; both on the condition that it is what it was."""
        while True:
            found = self._services.get(self._name(model))
            if release is not None and found is not None and self._is_of(found, release):
                return  # begun already: by who was killed, or by a request whose answer was lost
            now = self._pointed(model, found)
            if now.tag != before.tag:
                raise self._overtaken(model)
            if release is None:
                self._leave_objects(model, always=True)  # first: who has seen neither service nor this is overtaken
                done = found is None or self._services.delete(found)
            else:
                done = self._begin(model, release, now, found)
            if done:
                return

    def settle(self, model: str, release: Release | None, tell: Tell) -> None:
        """Takes a rollout through its shares; or waits until the service is gone."""
        if release is None:
            self._wait_until_gone(model)
        else:
            self._roll_out(model, release, tell)
            self._leave_objects(model)

    def _roll_out(self, model: str, release: Release, tell: Tell) -> None:
        stage, well_since, ill_since, told = -1, 0.0, 0.0, ""
        while True:
            found = self._services.get(self._name(model))
            if found is None or not self._is_of(found, release):
                raise self._overtaken(model)
            percent, now = _percent(found), time.monotonic()
            if percent is None:
                return
            if percent != stage:
                stage, well_since, ill_since = percent, 0.0, now
            well = _gets_everything(found) if percent == 100 else _is_ready(found)
            if well:
                ill_since, well_since = now, well_since or now
                if now - well_since >= (60 * self._settings.canary_minutes if 0 < percent < 100 else 0):
                    self._services.patch(found, {"spec": {"predictor": {
                        "canaryTrafficPercent": None if percent == 100 else 100}}})
                    continue  # whether or not it was written: what is there now says it
            else:
                well_since = 0.0
                if now - ill_since >= 60 * self._settings.deadline_minutes and self._take_back(model, release, found):
                    raise NotServed(
                        f"{self.pointer(model)}: generation {release.generation} was not ready within "
                        f"{self._settings.deadline_minutes:g} minutes ({_state(found)})",
                        f"see 'kubectl describe inferenceservice {self._name(model)}'; what was in service still is")
            text = f"{self.pointer(model)}: generation {release.generation} gets {percent} % of the requests; " + (
                "ready" if well else f"not ready ({_state(found)})")
            if text != told:
                tell(text)
                told = text
            time.sleep(POLL_SECONDS)

    def _take_back(self, model: str, release: Release, found: dict[str, Any]) -> bool:
        """Gives every request to the revision before, and names its release again; False if it changed meanwhile."""
        previous = _said(found, "previous")
        if previous == folder_name(release):
            return True  # it is the one before, and its earlier servers get every request
        if not previous or not _said(found, "after-revision"):  # there was no service before
            if not self._services.delete(found):
                return False
            self._wait_until_gone(model)
            return True
        file = self.workspace.releases / model / previous / RELEASE_FILE
        return self._services.patch(found, self._body(model, read_record(Release, file), previous, found, 0))

    def _begin(self, model: str, release: Release, now: Pointed, found: dict[str, Any] | None) -> bool:
        earlier = now.folder is not None and release.generation <= int(now.folder.partition("-")[0])
        body = self._body(model, release, now.folder or "", found, 0 if earlier else self._settings.canary_percent)
        if found is not None:
            return self._services.patch(found, body)
        return self._services.create(body)

    def _body(self, model: str, release: Release, previous: str, found: dict[str, Any] | None,
              percent: int) -> dict[str, Any]:
        """What the InferenceService is to be, beside what KServe adds of its own."""
        settings, digest = self._settings, record_of(self.workspace, release).sha256
        return {
            "apiVersion": API, "kind": "InferenceService",
            "metadata": {
                "name": self._name(model), "namespace": settings.namespace,
                "labels": {"app.kubernetes.io/managed-by": "expunge"},
                "annotations": {
                    "serving.kserve.io/deploymentMode": "Serverless",
                    "expunge/model": model, "expunge/release": folder_name(release), "expunge/release-sha256": digest,
                    "expunge/weights-sha256": release.weights.sha256, "expunge/previous": previous,
                    "expunge/after-revision": _predictor(found).get("latestCreatedRevision", "") if found else ""}},
            "spec": {"predictor": {
                "minReplicas": settings.min_replicas, "serviceAccountName": settings.service_account,
                "canaryTrafficPercent": percent,
                "model": {"modelFormat": {"name": settings.model_format}, "runtime": settings.runtime,
                          "storageUri": self._objects.folder(release),
                          "env": [{"name": RELEASE_VARIABLE, "value": digest}]}}}}

    def _pointed(self, model: str, found: dict[str, Any] | None) -> Pointed:
        if found is None:
            return self._objects.pointed(model)
        target, previous, digest = (_said(found, key) for key in ("release", "previous", "release-sha256"))
        asked = found["spec"].get("predictor", {}).get("model") or {}
        if _said(found, "model") != model or not target:
            raise DoesNotVerify(f"{self.pointer(model)}: is not what expunge made for {model}",
                                f"see who did, or name another in {CONFIG_FILE}: 'kserve.services'")
        pinned = [one.get("value") for one in asked.get("env", ()) if one.get("name") == RELEASE_VARIABLE]
        if not str(asked.get("storageUri")).endswith(f"/{model}/{target}") or pinned != [digest]:
            raise DoesNotVerify(f"{self.pointer(model)}: serves something else than {target}, which it should",
                                "see who changed it, and put it back or remove it with kubectl")
        tag = f"{found['metadata']['uid']}/{found['metadata']['generation']}"
        if _percent(found) is None:
            return Pointed(target, digest, tag)
        return Pointed(previous or None, None, tag, underway=target if target != previous else None)

    def _is_of(self, found: dict[str, Any], release: Release) -> bool:
        return _said(found, "release-sha256") == record_of(self.workspace, release).sha256

    def _leave_objects(self, model: str, always: bool = False) -> None:
        """From now on `current` on S3 says that nothing is served from there."""
        earlier = self._objects.pointed(model)
        if always or earlier.folder is not None:
            self._objects.serve(model, None, earlier)

    def _wait_until_gone(self, model: str) -> None:
        until = time.monotonic() + 60 * self._settings.deadline_minutes
        while self._services.get(self._name(model)) is not None:
            if time.monotonic() >= until:
                raise ExpungeError(f"{self.pointer(model)}: is to be removed, and is not gone yet",
                                   f"see 'kubectl describe inferenceservice {self._name(model)}' for what holds it")
            time.sleep(POLL_SECONDS)

    def _name(self, model: str) -> str:
        name = self._settings.services.get(model, model)
        if not re.fullmatch(SERVICE_NAME, name):
            raise BadInput(f"model: '{model}' cannot be the name of an InferenceService",
                           f"give it one in {CONFIG_FILE}, as 'kserve: {{services: {{{model}: another-name}}}}'")
        return name

    def _overtaken(self, model: str) -> WorkspaceBusy:
        return WorkspaceBusy(f"{self.pointer(model)}: somebody else has changed what is served meanwhile",
                             "nothing was changed; give the same command again")


def _said(found: dict[str, Any], key: str) -> str:
    said: str = found["metadata"].get("annotations", {}).get(f"expunge/{key}", "")
    return said


def _percent(found: dict[str, Any]) -> int | None:
    percent: int | None = found["spec"]["predictor"].get("canaryTrafficPercent")
    return percent


def _predictor(found: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = found.get("status", {}).get("components", {}).get("predictor", {})
    return said


def _is_ready(found: dict[str, Any]) -> bool:
    """Whether a revision was made for the last change and is ready: `Ready` alone may speak of the one before."""
    newest = _predictor(found).get("latestCreatedRevision")
    return (newest not in (None, "", _said(found, "after-revision"))
            and _predictor(found).get("latestReadyRevision") == newest
            and any(one["type"] == "Ready" and one["status"] == "True" for one in _conditions(found)))


def _gets_everything(found: dict[str, Any]) -> bool:
    return _is_ready(found) and (
        _predictor(found).get("latestRolledoutRevision") == _predictor(found)["latestCreatedRevision"])


def _conditions(found: dict[str, Any]) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = found.get("status", {}).get("conditions", [])
    return said


def _state(found: dict[str, Any]) -> str:
    """Why it is not ready, by KServe's words for kinds of reasons: its messages may quote a server's output."""
    status = found.get("status", {})
    reasons = [one.get("reason", "") for one in _conditions(found) if one["status"] != "True"]
    reasons.append((status.get("modelStatus", {}).get("lastFailureInfo") or {}).get("reason", ""))
    mode = status.get("deploymentMode")
    reasons.append(f"KServe runs it as {mode}, which has no revisions"
                   if mode not in (None, "", "Serverless", "Knative") else "")
    return shorten(", ".join(dict.fromkeys(filter(None, reasons))) or "KServe gives no reason")


class _Conflict(Exception):
    """What was to be changed is not what it was, or what was to be made is there."""


class _InferenceServices:
    """InferenceServices of one namespace, as the Kubernetes API has them."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._client: Any = None

    def get(self, name: str) -> dict[str, Any] | None:
        """The InferenceService of that name, None if there is none; raises as `_ask`."""
        return self._ask("GET", name)

    def create(self, body: dict[str, Any]) -> bool:
        """Makes one; False if there is one of its name already."""
        return self._done("POST", body["metadata"]["name"], _without_nulls(body))

    def patch(self, found: dict[str, Any], change: dict[str, Any]) -> bool:
        """Changes one, a null takes away; False if it is not as it was found."""
        metadata = {**change.get("metadata", {}), "resourceVersion": found["metadata"]["resourceVersion"]}
        return self._done("PATCH", found["metadata"]["name"], {**change, "metadata": metadata})

    def delete(self, found: dict[str, Any]) -> bool:
        """Removes one; False if it is not as it was found."""
        same = {key: found["metadata"][key] for key in ("uid", "resourceVersion")}
        return self._done("DELETE", found["metadata"]["name"],
                          {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": same})

    def _done(self, verb: str, name: str, body: dict[str, Any]) -> bool:
        try:
            self._ask(verb, name, body)
        except _Conflict:
            return False
        return True

    def _ask(self, verb: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """What the API server answers, once it does; None if there is no such InferenceService.

        Raises:
            BadInput: no cluster is named, it has no KServe or no such namespace, or does not let us in.
            ExpungeError: it cannot be reached, is busy for long, or answers with something else.
        """
        try:
            from kubernetes.client.exceptions import ApiException
            from urllib3.exceptions import HTTPError
        except ImportError:
            raise BadInput("kserve needs a package that is not installed", "pip install 'expunge[kserve]'") from None
        self._client = self._client or _connect()
        path = f"/apis/{API}/namespaces/{self._namespace}/inferenceservices" + ("" if verb == "POST" else f"/{name}")
        # The client's own method for this says of a patch that it is one of a kind that these objects do not have.
        kind = "application/merge-patch+json" if verb == "PATCH" else "application/json"
        busy = lost = 0
        while True:
            try:
                answer: dict[str, Any] = self._client.call_api(
                    path, verb, header_params={"Accept": "application/json", "Content-Type": kind}, body=body,
                    response_type="object", auth_settings=["BearerToken"], _return_http_data_only=True,
                    _request_timeout=(asking.CONNECT_SECONDS, asking.READ_SECONDS))
                return answer
            except ApiException as error:
                if error.status == 404 and _names_one(error):
                    return None
                busy, lost = busy + 1, 0
                if busy >= asking.BUSY_ATTEMPTS or not (error.status == 429 or error.status >= 500):
                    raise self._explained(error, verb, name) from None
            except HTTPError as error:
                lost += 1
                if lost >= asking.ATTEMPTS:
                    raise ExpungeError(
                        f"kserve: the Kubernetes API cannot be reached ({type(error).__name__})",
                        "check the network and KUBECONFIG, then give the same command again") from None
            asking.wait(busy + lost)

    def _explained(self, error: Any, verb: str, name: str) -> Exception:
        status, reason = error.status, shorten(str(error.reason or ""), 60)
        if status == 409:
            return _Conflict()
        if status == 401:
            return BadInput("kserve: the Kubernetes API does not accept who asks (401)",
                            f"check KUBECONFIG, or the account's token that {ACCOUNT_VARIABLE} leads to")
        if status == 403:
            return BadInput(f"kserve: may not {verb} inferenceservices in namespace '{self._namespace}' (403)",
                            "bind the Role of deploy/kserve to who deploys, or correct 'kserve.namespace'")
        if status == 404 and _details(error).get("kind") == "namespaces":
            return BadInput(f"kserve.namespace: there is no namespace '{self._namespace}'", f"correct {CONFIG_FILE}")
        if status == 404:
            return BadInput(f"kserve: the cluster knows no InferenceService of {API}",
                            "install KServe there, or correct KUBECONFIG")
        if status == 0:
            return ExpungeError(f"kserve: the Kubernetes API cannot be trusted ({reason})",
                                "check the certificate authority that KUBECONFIG names")
        if status == 429 or status >= 500:
            return ExpungeError(f"kserve: the Kubernetes API is busy or broken ({status} {reason})",
                                "give the same command again later")
        said = shorten(_read(error).get("message", reason))
        return ExpungeError(f"kserve://{self._namespace}/{name}: the Kubernetes API answers {status}: {said}",
                            f"check 'kserve' in {CONFIG_FILE}, and KUBECONFIG")


def _names_one(error: Any) -> bool:
    """Whether a 404 speaks of one InferenceService. Without KServe the server knows of no kind."""
    return _details(error).get("kind") in ("inferenceservices", "InferenceService")


def _details(error: Any) -> dict[str, Any]:
    details: dict[str, Any] = _read(error).get("details") or {}
    return details


def _read(error: Any) -> dict[str, Any]:
    import json

    try:
        said = json.loads(error.body)
    except (TypeError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _connect() -> Any:
    """A client for the cluster that the environment names: by a kubeconfig, or as the pod's account."""
    from kubernetes import client, config
    from kubernetes.config.incluster_config import InClusterConfigLoader

    configuration = client.Configuration()
    configuration.retries = False  # see `_ask`
    folder = os.environ.get(ACCOUNT_VARIABLE)
    try:
        if folder or ("KUBECONFIG" not in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ):
            InClusterConfigLoader(f"{folder or _ACCOUNT}/token", f"{folder or _ACCOUNT}/ca.crt").load_and_set(
                configuration)
        else:
            config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=configuration)
    except Exception as error:  # noqa: BLE001 - of a file that is none it raises whatever its parser does
        raise BadInput(f"kserve: no cluster is known ({shorten(type(error).__name__, 60)})",
                       f"set KUBECONFIG; in a pod, {ACCOUNT_VARIABLE} to the folder of an account's token") from None
    return client.ApiClient(configuration)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return value
