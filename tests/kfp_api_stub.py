"""Kubeflow's API as far as it is asked for, on loopback: remembers what it was sent, and refuses what Kubeflow could not read.

Bodies are held against the generated models of `kfp-server-api`, plans against Kubeflow's own protocol, so that what a server
would drop without a word is an error here. It runs nothing.
"""

import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

BASE = "/apis/v2beta1/"


class Stub:
    """What the server has, and what it was asked."""

    def __init__(self):
        self.runs, self.recurring, self.experiments = [], [], [{"experiment_id": "e-1", "display_name": "nightly"}]
        self.requests = []  # (method, path, body, authorization)
        self.answer = None  # (status, bytes) instead of everything
        self.page = 2  # entries of a listing's page
        self.endpoint = ""

    @property
    def sent(self):
        """The bodies of what was to be made."""
        return [body for method, _, body, _ in self.requests if method == "POST"]

    def list(self, kind, query):
        found = getattr(self, kind)
        if "filter" in query:
            predicate, = json.loads(query["filter"][0])["predicates"]
            assert predicate.keys() == {"operation", "key", "stringValue"}, predicate
            assert predicate["key"] == "display_name"
            fits = {"EQUALS": str.__eq__, "IS_SUBSTRING": str.__contains__}[predicate["operation"]]
            found = [one for one in found if fits(one["display_name"], predicate["stringValue"])]
        begin = int(query.get("page_token", ["0"])[0] or 0)
        more = {"next_page_token": str(begin + self.page)} if len(found) > begin + self.page else {}
        return {{"recurring": "recurringRuns"}.get(kind, kind): found[begin:begin + self.page], **more}

    def make(self, kind, body):
        made = {**body, "run_id": f"r-{len(self.runs) + 1}", "state": "PENDING"} if kind == "runs" else {
            **body, "recurring_run_id": f"rr-{len(self.recurring) + 1}"}
        getattr(self, kind).append(made)
        return made

    def start(self, recurring):
        """What a recurring run starts: Kubeflow names it itself, and says nothing of it but who started it."""
        number = len(self.runs) + 1
        begun = {"run_id": f"r-{number}", "display_name": f"forget8{'a' * 12}-{number}-77", "state": "RUNNING",
                 "recurring_run_id": recurring["recurring_run_id"], "created_at": f"2026-11-0{number}T02:00:00Z"}
        self.runs.append(begun)
        return begun


def check_body(body, model):
    """AssertionError for what the generated model does not know, or Kubeflow's own protocol cannot read."""
    import kfp_server_api
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    client = kfp_server_api.ApiClient()
    read = client.sanitize_for_serialization(client._ApiClient__deserialize(body, model))
    assert read == body, f"{model} knows nothing of {[key for key in body if body[key] != read.get(key)]}"
    documents = body["pipeline_spec"]
    assert documents.keys() == {"pipeline_spec", "platform_spec"}
    plan = json_format.ParseDict(documents["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(documents["platform_spec"], pipeline_spec_pb2.PlatformSpec())
    known = plan.root.input_definitions.parameters
    given = body["runtime_config"]["parameters"].keys()
    assert given <= set(known), f"the plan has no parameter {given - set(known)}"
    missing = {name for name, one in known.items() if not one.is_optional} - given
    assert not missing, f"the plan needs {missing}"


@contextmanager
def kfp_api(certificate=None):
    """A running stub; over TLS with a file that holds a certificate and its key."""
    stub = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._do("GET", None)

        def do_POST(self):
            self._do("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _do(self, method, body):
            parts = urlsplit(self.path)
            stub.requests.append((method, parts.path, body, self.headers.get("authorization")))
            if stub.answer is not None:
                return self._say(*stub.answer)
            try:
                what = {"runs": "runs", "recurringruns": "recurring", "experiments": "experiments"}[
                    parts.path.removeprefix(BASE)]
                if method == "GET":
                    found = stub.list(what, parse_qs(parts.query))
                else:
                    check_body(body, {"runs": "V2beta1Run", "recurring": "V2beta1RecurringRun"}[what])
                    found = stub.make(what, body)
            except (AssertionError, LookupError, ValueError) as error:
                return self._say(400, json.dumps({"code": 3, "message": f"{type(error).__name__}: {error}"}).encode())
            return self._say(200, json.dumps(found).encode())

        def _say(self, status, data):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.endpoint = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
