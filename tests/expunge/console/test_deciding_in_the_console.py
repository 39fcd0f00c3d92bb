"""Decisions that were signed elsewhere come in through the console's API; every other way in is closed."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import requests
from console_served import Visitor, served, signed, waiting_runs

from expunge.console.protection import Rate
from expunge.evidence.ledger import Ledger
from expunge.evidence.verify import verify_workspace
from expunge.runs import Run

RUNS = ("first", "second", "third", "hostile", "crowded", "undecided", "seen")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return waiting_runs(tmp_path_factory.mktemp("console"), RUNS, undecided=("undecided",), seen=("seen",))


@pytest.fixture(scope="module")
def console(workspace):
    with served(workspace) as (app, address):
        app.state.console.writes = app.state.console.reads = Rate(1_000, 1_000)  # limits have a test of their own
        yield app, address


@pytest.fixture(scope="module")
def visitor(console):
    app, address = console
    return Visitor(address, app.state.console.identity.link_token)


def test_a_signature_made_elsewhere_approves_is_in_the_ledger_and_verifies(workspace, visitor):
    before = Ledger.open(workspace).size
    assert visitor.get("/api/v1/runs/first.1").json()["deciding"]["may_approve"] == ["grace", "linus"]
    answer = visitor.decide("first.1", signed(workspace, "first.1"))
    assert (answer.status_code, answer.json()["state"], answer.json()["position"]) == (201, "approved", before)
    assert Run(workspace, "first.1").state().state == "approved"
    assert [finding for finding in verify_workspace(workspace) if not finding.ok] == []
    page = visitor.get("/api/v1/runs/first.1").json()["deciding"]
    assert page["approved_by"] == ["grace"]
    assert page["decisions"][0]["reason"] == "the grids are clean"
    found = visitor.get("/api/v1/ledger/entries", params={"request": "first", "person": "grace"}).json()["entries"]
    assert [(one["index"], one["what"]) for one in found] == [(before, "approve first.1")]
    replayed = visitor.decide("first.1", (workspace.approvals / "first.1" / f"{found[0]['sha256']}.json").read_text())
    assert replayed.status_code == 403
    assert "has been entered" in replayed.json()["problem"]
    assert Ledger.open(workspace).size == before + 1


def test_a_rejection_closes_the_run(workspace, visitor):
    assert visitor.decide("second.1", signed(workspace, "second.1", "linus", "reject")).json()["state"] == "rejected"
    late = visitor.decide("second.1", signed(workspace, "second.1"))
    assert (late.status_code, late.json()["problem"]) == (400, "run 'second.1' is rejected")


def test_two_people_waive_what_is_inconclusive(workspace, visitor):
    assert visitor.get("/api/v1/runs/undecided.1").json()["verdict"]["waivable"] == ["residual_rate"]
    refused = visitor.decide("undecided.1", signed(workspace, "undecided.1"))
    assert (refused.status_code, "the verdict is INCONCLUSIVE" in refused.json()["problem"]) == (400, True)
    states = [visitor.decide("undecided.1", signed(workspace, "undecided.1", person, waives=("residual_rate",))).json()["state"]
              for person in ("grace", "linus")]
    assert states == ["inconclusive", "approved"]


OF_NOW = datetime.now(UTC)


@pytest.mark.parametrize(("person", "changes", "reason", "status", "says"), [
    ("ada", {}, None, 403, "ada made this request"),
    ("grace", {"report_sha256": "0" * 64}, None, 409, "another report"),
    ("grace", {"candidate_sha256": "0" * 64}, None, 409, "another candidate"),
    ("grace", {"run": "first.1"}, None, 409, "it is about run first.1"),
    ("grace", {"person": "linus"}, None, 409, "grace signed in the name of linus"),
    ("grace", {"decided_at": (OF_NOW - timedelta(hours=2)).isoformat(timespec="seconds")}, None, 409, "it is dated"),
    ("grace", {"decided_at": "yesterday"}, None, 409, "it is dated yesterday"),
    ("grace", {"not_after": (OF_NOW + timedelta(days=400)).isoformat(timespec="seconds")}, None, 400, "it is to hold until"),
    ("grace", {"waives": ("residual_rate",)}, None, 400, "is not INCONCLUSIVE"),
    ("grace", {}, "another reason", 409, "the reason is not the one that was signed"),
    ("grace", {"reason_sha256": "36a9e7f1c95b82ffb99743e0c5c4ce95d83c9a430aac59f84ef3cbfab6145068"}, " ", 400, "needs a reason"),
])
def test_what_would_not_count_is_not_taken_in(workspace, visitor, person, changes, reason, status, says):
    before = Ledger.open(workspace).size
    answer = visitor.decide("third.1", signed(workspace, "third.1", person, **changes), reason or "the grids are clean")
    assert (answer.status_code, says in answer.json()["problem"]) == (status, True), answer.text
    assert Ledger.open(workspace).size == before
    assert not list((workspace.approvals / "third.1").glob("*"))


def test_a_signature_that_is_none_is_refused_and_so_is_one_that_was_bent(workspace, visitor):
    good = signed(workspace, "third.1")
    for envelope in ("{}", "not json", "[" * 9_000, good.replace("sig", "gis"), good[:-3], good.replace('":"', '": "', 1)):
        assert visitor.decide("third.1", envelope).status_code == 409, envelope[:60]


def test_markup_in_a_reason_stays_text_and_the_page_may_run_nothing_of_it(workspace, visitor):
    reason = "<script>alert(1)</script><svg onload=alert(2)>"
    assert visitor.decide("hostile.1", signed(workspace, "hostile.1", "grace", "reject", reason), reason).status_code == 201
    page = visitor.get("/runs/hostile.1")
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert visitor.get("/api/v1/runs/hostile.1/page").headers["Content-Security-Policy"].startswith("sandbox;")


def test_what_is_too_large_is_cut_off(visitor, workspace):
    reason = "x" * 10_000_000
    try:
        status = visitor.decide("third.1", "{}", reason).status_code
    except requests.ConnectionError:  # it does not wait for the rest
        status = 413
    assert status == 413
    assert visitor.decide("third.1", "{}", "x" * 4_001).status_code == 422
    in_pieces = visitor.post("/api/v1/runs/third.1/decisions", data=(b"x" * 1_000 for _ in range(80)),
                             headers={"Content-Type": "application/json"})
    assert in_pieces.status_code in (400, 413)


@pytest.mark.parametrize("path", [
    "/api/v1/runs/..%2f..%2fkeyring.json", "/runs/%2e%2e/evidence", "/static/../app.py", "/static/%2e%2e/app.py",
    "/api/v1/runs/third.1/evidence/..%2f..%2fkeyring.json", "/api/v1/runs/.hidden", "/static/..%5capp.py"])
def test_no_name_leads_out_of_its_folder(console, visitor, path):
    host, port = console[1].removeprefix("http://").split(":")
    import http.client

    plain = http.client.HTTPConnection(host, int(port))  # it leaves dots in a path as they are
    plain.request("GET", path, headers={"Cookie": "; ".join(f"{one.name}={one.value}" for one in visitor.cookies)})
    answer = plain.getresponse()
    assert answer.status in (404, 422), answer.read()
    assert b"public_key" not in answer.read()
    plain.close()


def test_a_page_of_others_cannot_decide(workspace, visitor, console):
    envelope = signed(workspace, "third.1")
    for changed in ({"Origin": "https://evil.example"}, {"Origin": None}, {"X-CSRF-Token": None}, {"X-CSRF-Token": "0" * 64}):
        answer = visitor.post("/api/v1/runs/third.1/decisions", json={"envelope": envelope, "reason": "the grids are clean"},
                              headers=changed)
        assert answer.status_code == 403, (changed, answer.text)
    assert visitor.get("/", headers={"Host": "evil.example"}).status_code == 421  # a name that was bent to this machine
    assert Run(workspace, "third.1").state().state == "awaiting_approval"


def test_strangers_are_let_in_nowhere_and_a_link_opens_once(console):
    app, address = console
    stranger = Visitor(address)
    for path in ("/", "/runs/first.1", "/audit", "/live", "/key", "/api/v1/runs", "/api/v1/ledger/keyring"):
        assert stranger.get(path).status_code == 401, path
    assert stranger.get("/enter?token=guess").status_code == 403
    assert [stranger.get(path).status_code for path in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
    link = app.state.console.identity.link_token
    assert Visitor(address, link).get("/").status_code == 200
    assert stranger.get(f"/enter?token={link}").status_code == 403


@pytest.mark.thorough
def test_of_a_hundred_approvals_at_once_each_person_has_one(workspace, visitor):
    before, envelopes = Ledger.open(workspace).size, [
        signed(workspace, "crowded.1", person) for _ in range(50) for person in ("grace", "linus")]
    with ThreadPoolExecutor(10) as pool:
        statuses = sorted(answer.status_code for answer in pool.map(lambda one: visitor.decide("crowded.1", one), envelopes))
    assert statuses == [201] * 2 + [403] * 98
    assert Ledger.open(workspace).size == before + 2
    assert Run(workspace, "crowded.1").state().state == "approved"


def test_it_never_imports_torch():
    done = subprocess.run([sys.executable, "-c", (
        "import sys, expunge.console.api, expunge.console.serving, expunge.evidence.bundle.writing\n"
        "print(json.dumps([one for one in ('torch', 'kfp', 'mlflow', 'pipelines', 'components') if one in sys.modules]))"
    ).replace("import sys", "import json, sys", 1)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_pictures_are_shown_as_far_as_reason_and_policy_allow_and_only_if_they_are_the_reports(workspace, visitor):
    page = "/api/v1/runs/seen.1/pictures"
    found = visitor.get(page).json()
    assert [(group["name"], group["sides"], len(group["tiles"]) >= 6) for group in found["groups"]] == [
        ("unwanted", ["before", "after"], True), ("retained", ["before", "after"], True)]
    assert (found["groups"][0]["tiles"][0]["before"], found["groups"][0]["tiles"][0]["after"]) == ("8", "3")
    picture = visitor.get(f"{page}/unwanted/before")
    report = Run(workspace, "seen.1").output("evaluate", "report")
    assert (picture.content, picture.headers["Content-Type"], picture.headers["Cache-Control"]) == (
        (report / "unwanted-before.png").read_bytes(), "image/png", "no-store")
    assert visitor.get(f"{page}/unwanted/shown").status_code == 404
    assert visitor.get(f"{page}/unwanted/..%2f..").status_code in (404, 422)
    assert visitor.get("/api/v1/runs/third.1/pictures").json()["groups"] == []
    assert visitor.get("/api/v1/runs/third.1/pictures/unwanted/after").status_code == 404
    policy = Run(workspace, "seen.1").policy_file
    written = policy.read_bytes()
    try:
        policy.write_bytes(written.replace(b"[safety, bias]", b"[bias]"))
        narrowed = visitor.get(page).json()
        assert narrowed["groups"][0]["sides"] == ["after"]
        assert "does not allow it" in narrowed["not_shown"][0]
        assert visitor.get(f"{page}/unwanted/before").status_code == 404
    finally:
        policy.write_bytes(written)
    after = report / "unwanted-after.png"
    as_reported = after.read_bytes()
    try:
        after.write_bytes((report / "retained-after.png").read_bytes())
        assert visitor.get(f"{page}/unwanted/after").status_code == 409
    finally:
        after.write_bytes(as_reported)
