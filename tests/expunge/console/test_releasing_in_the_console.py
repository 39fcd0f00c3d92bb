"""An approved run is released from its page: by a worker, once, for whoever may, and the ledger says who asked."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from console_served import Visitor, served, signed, waiting_runs
from tests_support import key_for

from expunge.configuration import ConsoleSettings
from expunge.console.protection import Rate
from expunge.digests import sha256_bytes, write_atomically
from expunge.evidence.ledger import Ledger
from expunge.evidence.verify import verify_workspace
from expunge.runs import Run
from expunge.stores.queue import Queue, Ticket, now, numbered

PEOPLE = ("ada", "grace", "linus", "olga")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    made = waiting_runs(tmp_path_factory.mktemp("releasing"), ["first", "second", "third"])
    key_for(made, "olga", "requester")
    return made


@pytest.fixture(scope="module")
def visitors(workspace):
    """Each of the people, as a program that shows their token: many at one console."""
    settings = ConsoleSettings(address="http://console.test", proxies=("127.0.0.1",), tokens=tuple(
        {"person": person, "sha256": sha256_bytes(person.encode())} for person in PEOPLE))
    with served(workspace, settings) as (app, address):
        app.state.console.writes = app.state.console.reads = Rate(1_000, 1_000)
        found = {}
        for person in PEOPLE:
            found[person] = Visitor(address)
            found[person].headers.update({"Host": "console.test", "Authorization": f"Bearer {person}"})
        for run in ("first", "second"):
            assert found["grace"].decide(f"{run}.1", signed(workspace, f"{run}.1")).status_code == 201
        yield found


def ask(visitor, run="first.1"):
    return visitor.post(f"/api/v1/runs/{run}/release")


def test_who_may_not_is_told_before_they_try_and_nothing_is_asked_for(workspace, visitors):
    before = Ledger.open(workspace).size
    for person, why in (("ada", "ada made this request"), ("olga", "olga is neither reviewer nor admin")):
        assert why in visitors[person].get("/api/v1/runs/first.1").json()["release"]["why_not"]
        page = visitors[person].get("/runs/first.1").text
        assert why in page
        assert "ask-release" not in page
        refused = ask(visitors[person])
        assert (refused.status_code, why in refused.json()["problem"]) == (403, True)
    waits = ask(visitors["linus"], "third.1")
    assert (waits.status_code, waits.json()["problem"]) == (400, "run 'third.1' is awaiting approval")
    assert ask(visitors["linus"], "unknown.1").status_code == 404
    assert ask(visitors["linus"], "..%2ffirst.1").status_code in (404, 422)
    assert "release" not in visitors["linus"].get("/runs/third.1").text.partition('id="trail"')[0].partition('id="decide"')[2]
    stranger = Visitor(visitors["linus"].address)
    stranger.headers.update({"Host": "console.test", "X-Forwarded-User": "linus"})  # as a page of others would: no token of ours
    assert ask(stranger).status_code == 403
    assert (Ledger.open(workspace).size, Queue.of(workspace).all()) == (before, [])


def test_of_many_who_ask_at_once_one_is_entered_and_the_page_says_so(workspace, visitors):
    before = Ledger.open(workspace).size
    assert "ask-release" in visitors["linus"].get("/runs/first.1").text
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda person: ask(visitors[person]), ["linus", "grace"] * 5))
    assert {answer.status_code for answer in answers} == {202}
    assert sum(answer.json()["asked_now"] for answer in answers) == 1
    by, = {answer.json()["asked_by"] for answer in answers}
    assert Ledger.open(workspace).size == before + 1
    line, = [one for one in visitors["linus"].get("/api/v1/runs/first.1/trail").json()["entries"] if one["index"] == before]
    assert line["what"] == f"first.1: {by} asked that it be released"
    page = visitors["ada"].get("/runs/first.1").text
    assert f"Asked by {by}" in page
    assert "ask-release" not in page
    assert Run(workspace, "first.1").state().state == "approved"  # the console starts nothing


def test_what_was_changed_on_the_way_is_not_asked_for(workspace, visitors):
    run = Run(workspace, "second.1")
    written = run.request_file.read_bytes()
    try:
        write_atomically(run.request_file, written.replace(b'"second"', b'"others"'))
        before = Ledger.open(workspace).size
        assert ask(visitors["linus"], "second.1").status_code == 409
        assert Ledger.open(workspace).size == before
    finally:
        write_atomically(run.request_file, written)


@pytest.mark.thorough
def test_the_next_worker_releases_it_once(workspace, visitors):
    from pipelines.queueing import Engine, work

    ask(visitors["linus"])
    done = work(workspace, Engine())
    assert [(one.request_id, one.stage, one.run, one.outcome) for one in done] == [("first", "released", "first.1", "released")]
    assert visitors["linus"].get("/api/v1/runs/first.1").json()["release"] is None
    size = Ledger.open(workspace).size
    assert work(workspace, Engine()) == []
    again = ask(visitors["linus"])
    assert (again.status_code, again.json()["problem"]) == (400, "run 'first.1' is released")
    assert Ledger.open(workspace).size == size
    assert [finding for finding in verify_workspace(workspace) if not finding.ok] == []
    assert visitors["linus"].get("/api/v1/live").json()["served"][0]["standing"] == "clean"


@pytest.mark.parametrize("entered", [False, True])
def test_a_run_that_came_by_the_queue_keeps_its_one_ticket(workspace, visitors, monkeypatch, entered):
    queue, filed = Queue.of(workspace), "f" * 64
    if queue.seen(filed) is None:
        queue.file(numbered(Ticket(request_sha256=filed, request_id="second", model="digits", filed_by="ada", filed_at=now(),
                                   stage="waiting", run="second.1", outcome="awaiting_approval")), None)
    before = Ledger.open(workspace).size
    if not entered:
        monkeypatch.setattr(Ledger, "append", lambda *_, **__: 1 / 0)
    assert "ask-release" in visitors["linus"].get("/runs/second.1").text
    answer = ask(visitors["linus"], "second.1")
    ticket, = (seen.ticket for seen in queue.all() if seen.ticket.run == "second.1")
    assert (ticket.request_sha256, ticket.filed_by, ticket.stage) == (filed, "ada", "waiting")
    if not entered:
        assert (answer.status_code, ticket.asked_by) == (500, None), "nothing is asked for without an entry"
        return
    assert (answer.status_code, answer.json()["asked_now"], ticket.asked_by) == (202, True, "linus")
    again = ask(visitors["grace"], "second.1").json()
    assert (again["asked_now"], again["asked_by"]) == (False, "linus")
    assert "Asked by linus" in visitors["ada"].get("/runs/second.1").text
    assert Ledger.open(workspace).size == before + 1
