"""Whatever is asked of the API, by its own description: the server never fails."""

import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from console_served import served, waiting_runs

from expunge.configuration import ApiToken, ConsoleSettings
from expunge.console.protection import Rate
from expunge.digests import sha256_bytes


@pytest.mark.thorough
@pytest.mark.parametrize("person", ["grace", "ada"])  # who decides, and who files
def test_no_request_that_the_description_allows_or_forbids_makes_the_server_fail(tmp_path, person):
    workspace, token = waiting_runs(tmp_path, ["only"]), secrets.token_hex(32)
    known = ApiToken(person=person, sha256=sha256_bytes(token.encode()))
    settings = ConsoleSettings(address="http://127.0.0.1", tokens=(known,))
    with served(workspace, settings, metrics=lambda: "") as (app, address):
        app.state.console.reads = app.state.console.writes = Rate(1_000_000, 1_000_000)
        headers = {"Authorization": f"Bearer {token}", "Host": "127.0.0.1"}
        assert requests.get(f"{address}/api/v1/me", headers=headers, timeout=60).status_code == 200  # it gets past the door
        done = subprocess.run([
            Path(sys.executable).with_name("schemathesis"), "run", f"{address}/api/openapi.json", "--checks",
            "not_a_server_error", "--max-examples", "8", "--seed", "1", "--generation-database", "none", "--no-color",
            "--exclude-path-regex", "/bundle$", *(word for one in headers.items() for word in ("--header", ": ".join(one))),
        ], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
