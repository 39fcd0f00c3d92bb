"""An S3 server on loopback, asked by the real client, and what may stand between the two."""

import http.client
import os
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

SECRET = "not-to-be-shown"


@pytest.fixture(scope="session")
def s3_server():
    """The address of a server."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@cache
def _descriptions():
    """What the client knows of S3: reading it is most of what a test would take."""
    import botocore.session

    return botocore.session.Session().get_component("data_loader")


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Nothing of the AWS configuration of whoever runs the tests."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return monkeypatch


@pytest.fixture
def bucket(s3_server, environment):
    """An empty bucket called `models`, and the environment that leads to it."""
    import boto3
    import botocore.session

    environment.setenv("AWS_ENDPOINT_URL", s3_server)
    environment.setenv("AWS_ACCESS_KEY_ID", "key")
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    session = botocore.session.Session()
    session.register_component("data_loader", _descriptions())
    made = boto3.Session(botocore_session=session).resource("s3").Bucket("models")
    made.create()
    yield made
    for left in made.multipart_uploads.all():
        left.abort()
    made.objects.delete()
    made.delete()


class Between(ThreadingHTTPServer):
    """Hands requests on to a server, and does to some of them what a network does.

    `trouble` is asked for each: a function of its method, path and headers that answers None, or what happens to it:
    "busy" (503), "cut" (half of the answer), "lost" (done, and no answer), "refused" (hung up on, not done), "gone" (404, no
    such upload). It may change the headers that go on.
    """

    daemon_threads = True

    def __init__(self, server):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(server).netloc
        self.trouble = lambda method, path, headers: None
        self.seen = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        """Where clients find it."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _hand_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = dict(self.headers)
        what = self.server.trouble(self.command, self.path, headers)
        self.server.seen.append((self.command, self.path, what))
        self.close_connection = True
        if what == "refused":
            return
        if what == "busy":
            self.wfile.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        if what == "gone":
            said = b"<Error><Code>NoSuchUpload</Code></Error>"
            self.wfile.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                             % (len(said), said))
            return
        headers.pop("Expect", None)
        asking = http.client.HTTPConnection(self.server.behind)
        asking.request(self.command, self.path, body, headers)
        answer = asking.getresponse()
        data = answer.read()
        asking.close()
        if what == "lost":
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if what == "cut" else data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _hand_on

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def between(bucket, s3_server, environment):
    """What stands between the client and the server; both wait no longer than they must."""
    from expunge.stores.s3 import asking

    standing = Between(s3_server)
    environment.setenv("AWS_ENDPOINT_URL", standing.address)
    environment.setattr(asking, "FIRST_WAIT", 0.001)
    environment.setattr(asking, "LONGEST_WAIT", 0.01)
    yield standing
    standing.shutdown()
    standing.server_close()
