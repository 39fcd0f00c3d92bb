"""Prometheus' own programs for tests, from the system's packages: a real Pushgateway on loopback, promtool, a server."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from debian_packages import install

# A server lives as long as somebody holds the other end of its standard input, even if that somebody is killed.
_FOR_AS_LONG = '"$@" </dev/null & cat >/dev/null; kill $!; wait'


def program(name, package):
    """Where a program is; its package is installed where that is possible. Skips, or fails in CI, if it is not."""
    if shutil.which(name) is None:
        install(package)
    found = shutil.which(name)
    if found is None:
        because = f"{name} is not installed ({package}), and only root could install it"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(because)
    return found


@contextmanager
def serving(folder, *words, ready="/-/ready"):
    """Runs a server with `{port}` in its words; gives its address once it says that it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(["sh", "-c", _FOR_AS_LONG, "sh", *(word.format(port=port) for word in words)], cwd=folder,
                                  stdin=subprocess.PIPE, stdout=log, stderr=log)
    until = time.monotonic() + 60
    while True:
        try:
            fetch(address + ready)
            break
        except OSError:
            if server.poll() is not None or time.monotonic() > until:
                pytest.fail((folder / "server.log").read_text())
            time.sleep(0.05)
    try:
        yield address
    finally:
        server.stdin.close()
        server.wait()


@contextmanager
def prometheus(folder, gateway, exporter):
    """A Prometheus with our alert rules that looks at a Pushgateway and an exporter every few seconds; asks it queries.

    `ask(query)` is what it answers; it is there once both have been looked at.
    """
    (folder / "prometheus.yml").write_text(yaml.safe_dump({
        "global": {"scrape_interval": "5s", "evaluation_interval": "1s"},  # an answer may take as long
        "rule_files": [str(Path(__file__).parent.parent / "deploy" / "monitoring" / "rules.yaml")],
        "scrape_configs": [
            {"job_name": "gateway", "honor_labels": True, "static_configs": [{"targets": [gateway.split("/")[2]]}]},
            {"job_name": "expunge", "static_configs": [{"targets": [exporter.split("/")[2]]}]}]}))
    with serving(folder, program("prometheus", "prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                 "--web.listen-address=127.0.0.1:{port}") as server:
        def ask(query):
            return json.loads(fetch(f"{server}/api/v1/query?query={quote(query)}"))["data"]["result"]

        until = time.monotonic() + 120
        while not (ask("expunge_runs") and ask("expunge_gate_verdict")):
            assert time.monotonic() < until
            time.sleep(0.2)
        yield ask


def fetch(url):
    """What stands at an address, as text; nothing on the way is asked."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return answer.read().decode()


@pytest.fixture(scope="session")
def pushgateway_server(tmp_path_factory):
    """The address of a real Pushgateway."""
    found = program("prometheus-pushgateway", "prometheus-pushgateway")
    with serving(tmp_path_factory.mktemp("pushgateway"), found, "--web.listen-address=127.0.0.1:{port}",
                 "--web.enable-admin-api") as address:
        yield address


@pytest.fixture
def pushgateway(pushgateway_server, monkeypatch):
    """An empty one, and steps told of it."""
    urllib.request.urlopen(urllib.request.Request(f"{pushgateway_server}/api/v1/admin/wipe", method="PUT"), timeout=10)
    monkeypatch.setenv("EXPUNGE_PUSHGATEWAY", pushgateway_server)
    monkeypatch.setenv("EXPUNGE_PIPELINE", "unlearning")
    return pushgateway_server
