"""A Kubernetes API as far as InferenceServices go, on loopback, and what KServe makes of them.

It refuses what KServe's own types do not know (kserve_types.json), writes whose `resourceVersion` is not the newest, and
patches of a kind that custom resources do not have. KServe's part is our reading of its controller: a change of what
servers are made from makes another revision; its status comes a question later, until then it speaks of the one before.
"""

import json
import threading
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

TYPES = json.loads((Path(__file__).parent / "kserve_types.json").read_text())["types"]
API, NAMESPACE, TOKEN = "serving.kserve.io/v1beta1", "models", "not-to-be-shown"
GROUP = f"/apis/{API}/namespaces/"


def check(value, kind, where="InferenceService"):
    """AssertionError for what KServe's types, or those of Kubernetes' own client, do not know."""
    if kind.startswith("list["):
        for one in value:
            check(one, kind[5:-1], where)
    elif kind.startswith("dict("):
        for key, one in value.items():
            check(one, kind[10:-1], f"{where}.{key}")
    elif kind in ("str", "int", "bool"):
        assert type(value).__name__ == kind, f"{where} is {value!r}, and not of {kind}"
    elif kind in TYPES:
        unknown = value.keys() - TYPES[kind]["fields"].keys()
        assert not unknown, f"{where} has no {unknown}"
        assert value.keys() >= {*TYPES[kind]["required"]}, f"{where} needs {TYPES[kind]['required']}"
        for key, one in value.items():
            check(one, TYPES[kind]["fields"][key], f"{where}.{key}")
    else:
        from kubernetes.client import models

        known = getattr(models, kind, None)
        if known is not None and kind.startswith("V1"):
            unknown = value.keys() - {*known.attribute_map.values()}
            assert not unknown, f"{where} has no {unknown}"


def merged(value, change):
    """As RFC 7396 has it."""
    if not isinstance(change, dict):
        return change
    result = dict(value) if isinstance(value, dict) else {}
    for key, one in change.items():
        if one is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), one)
    return result


class Cluster:
    """What the server has, what it was asked, and how KServe fares."""

    def __init__(self):
        self.services, self.written, self.requests, self.shares = {}, {}, [], []
        self.works = lambda folder: True  # whether servers of a release's folder become ready
        self.trouble = lambda verb, path: None  # (status, body) instead of an answer; "lost" after it was done
        self.versions = 0
        self.lock = threading.Lock()
        self.made = {}  # name: template, and the folder of each revision

    def touch(self, one):
        self.versions += 1
        one["metadata"]["resourceVersion"] = str(self.versions)

    def write(self, verb, name, body):
        """Status and what is there then."""
        there = self.services.get(name)
        if verb == "POST":
            if there is not None:
                return 409, {"reason": "AlreadyExists"}
            assert "resourceVersion" not in body["metadata"]
            there, body = {"metadata": {"uid": f"uid-{self.versions}", "generation": 0}}, body
            self.made[name] = (None, [])
        elif there is None:
            return self.missing(name)
        elif verb == "DELETE":
            same = body["preconditions"]
            if any(there["metadata"][key] != value for key, value in same.items()):
                return 409, {"reason": "Conflict"}
            there["metadata"]["deletionTimestamp"] = "2026-11-23T00:00:00Z"
            self.touch(there)
            return 200, {}
        elif body["metadata"]["resourceVersion"] != there["metadata"]["resourceVersion"]:
            return 409, {"reason": "Conflict"}
        result = merged(there, body)
        check(result, "V1beta1InferenceService")
        if result["spec"] != there.get("spec"):
            result["metadata"]["generation"] += 1
        self.touch(result)
        self.services[name] = result
        return 200, result

    @staticmethod
    def missing(name):
        return 404, {"reason": "NotFound", "details": {"name": name, "group": "serving.kserve.io",
                                                       "kind": "inferenceservices"}}

    def reconcile(self, name):
        """KServe takes a step."""
        one = self.services[name]
        if "deletionTimestamp" in one["metadata"]:
            del self.services[name]
            return
        before, (known, folders) = deepcopy(one.get("status")), self.made[name]
        assert one["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Serverless"
        predictor, status = one["spec"]["predictor"], one.setdefault("status", {})
        said = status.setdefault("components", {}).setdefault("predictor", {})
        percent = predictor.get("canaryTrafficPercent")
        template = json.dumps([one["metadata"]["annotations"], {**predictor, "canaryTrafficPercent": None}], sort_keys=True)
        if template != known:
            folders.append(predictor["model"]["storageUri"].rpartition("/")[2])
            self.made[name] = (template, folders)
            said["latestCreatedRevision"] = f"{name}-predictor-{len(folders):05}"
        elif self.works(folders[-1]):
            said["latestReadyRevision"] = said["latestCreatedRevision"]
        ready = said.get("latestReadyRevision") == said["latestCreatedRevision"]
        if template == known:  # what it says of a new revision comes with the next step
            status["conditions"] = [{"type": "Ready", "status": "True"} if ready else
                                    {"type": "Ready", "status": "False", "reason": "RevisionFailed"}]
        status["modelStatus"] = {"transitionStatus": "UpToDate"} if ready else {
            "transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": {"reason": "ModelLoadFailed"}}
        if ready and (percent in (None, 100) or "latestRolledoutRevision" not in said):
            said["latestRolledoutRevision"] = said["latestReadyRevision"]
        check(one, "V1beta1InferenceService")
        if status != before:
            self.touch(one)
        share = self.traffic(name)
        if not self.shares or self.shares[-1] != share:
            self.shares.append(share)

    def traffic(self, name):
        """How many percent of the requests go to which release."""
        one, folders = self.services[name], self.made[name][1]
        said = one.get("status", {}).get("components", {}).get("predictor", {})
        percent = one["spec"]["predictor"].get("canaryTrafficPercent")
        found = {}
        for key, share in (("latestReadyRevision", 100 if percent is None else percent),
                           ("latestRolledoutRevision", 0 if percent is None else 100 - percent)):
            if key in said and share:
                folder = folders[int(said[key][-5:]) - 1]
                found[folder] = found.get(folder, 0) + share
        return found


@contextmanager
def kubernetes_api():
    """A running server."""
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
            with cluster.lock:
                trouble = cluster.trouble(self.command, self.path)
                answer = trouble if isinstance(trouble, tuple) else self._answer(body)
                cluster.requests.append((self.command, self.path, body, answer[0]))
            if trouble == "lost":
                self.close_connection = True
                return
            status, said = answer
            data = said if isinstance(said, bytes) else json.dumps(
                said if status == 200 else {"kind": "Status", "code": status, "message": "", **said}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _answer(self, body):
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return 401, {"reason": "Unauthorized"}
            namespace, kind, *name = self.path.removeprefix(GROUP).split("/")
            if not self.path.startswith(GROUP) or kind != "inferenceservices":
                return 404, b"404 page not found\n"
            if self.command == "POST" and namespace != NAMESPACE:
                return 404, {"reason": "NotFound", "details": {"name": namespace, "kind": "namespaces"}}
            if self.command == "PATCH" and self.headers["Content-Type"] != "application/merge-patch+json":
                return 415, {"reason": "UnsupportedMediaType"}
            if self.command == "GET":
                found = deepcopy(cluster.services.get(*name))
                if found is not None:
                    cluster.reconcile(*name)
                return (200, found) if found is not None else cluster.missing(*name)
            try:
                return cluster.write(self.command, name[0] if name else body["metadata"]["name"], body)
            except AssertionError as error:
                return 422, {"reason": "Invalid", "message": str(error)}

        do_GET = do_POST = do_PATCH = do_DELETE = _do

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    cluster.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def kserve(environment, tmp_path):
    """A cluster with KServe, and the environment that leads to it."""
    from expunge.stores import releases_kserve
    from expunge.stores.s3 import asking

    environment.setattr(releases_kserve, "POLL_SECONDS", 0.01)
    environment.setattr(asking, "FIRST_WAIT", 0.001)
    environment.setattr(asking, "LONGEST_WAIT", 0.01)
    with kubernetes_api() as cluster:
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": cluster.endpoint}}],
            "users": [{"name": "deployer", "user": {"token": TOKEN}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "deployer"}}]}))
        environment.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield cluster
