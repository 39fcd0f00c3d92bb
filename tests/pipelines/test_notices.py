"""Reviewers are told that a run waits, and once more before its deadline: by a real command and a real server."""

import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests_support import write_policy

from expunge.configuration import CONFIG_FILE
from expunge.digests import canonical_json
from expunge.errors import WorkspaceBusy
from expunge.room import exclusive
from pipelines import notices
from pipelines.cli import carry_out
from pipelines.notices import look


class _Server(ThreadingHTTPServer):
    """Keeps what it was sent; answers as it is told to."""

    def __init__(self):
        self.got, self.answers, self.slow = [], 200, threading.Event()
        self.slow.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.slow.wait(10)
                if outer.answers == 200:
                    outer.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
                self.send_response(outer.answers)
                if outer.answers == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            def do_GET(self):
                raise AssertionError("a redirect was followed")

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def server():
    with _Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.slow.set()
        made.shutdown()
        thread.join()


@pytest.fixture
def waiting(begin_run):
    """A run that waits for people, under a policy that gives them two days."""
    made = begin_run()
    write_policy(made.workspace, "debug", made.policy_file.read_bytes() + b"deadline_days: 2\n",
                 run_folder=made.policy_file.parent)
    assert made.make().gate() == "waiting"
    return made.as_run("awaiting_approval")


def configure(run, **notice):
    (run.workspace.root / CONFIG_FILE).write_bytes(canonical_json({"schema": "expunge/config/v1", "notice": notice}))


def hook(tmp_path, ends_with=0):
    script = tmp_path / "hook"
    script.write_text(f"#!/bin/sh\ncat >> {tmp_path}/told; echo >> {tmp_path}/told; echo no luck >&2; exit {ends_with}\n")
    script.chmod(stat.S_IRWXU)
    return str(script)


def told(tmp_path):
    file = tmp_path / "told"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def hours(count):
    return datetime.now(UTC) + timedelta(hours=count)


@pytest.fixture
def undecided(begin_run):
    """A run of which one rule is INCONCLUSIVE."""
    made = begin_run(residual=0.04).make()
    assert made.gate() == "closed"
    return made.as_run("inconclusive")


def test_reviewers_are_told_once_of_what_is_inconclusive_and_two_may_waive(undecided, tmp_path):
    configure(undecided, command=[hook(tmp_path)])
    for _ in range(2):
        look(undecided.workspace)
    assert told(tmp_path) == [{
        "schema": "expunge/notice/v1", "event": "inconclusive", "run": "forget-8.1", "model": "digits", "deadline": None,
        "approvals_needed": 2,
        "command": "expunge approve forget-8.1 --as REVIEWER --reason '...' --waive residual_rate"}]


def test_nobody_is_told_of_what_was_inconclusive_once_it_has_been_tried_again(undecided, begin_run, tmp_path):
    again = begin_run(name="forget-8.2", weights=b"other weights").make()
    again.gate()
    again.as_run("awaiting_approval")
    configure(undecided, command=[hook(tmp_path)])
    look(undecided.workspace)
    assert [(notice["event"], notice["run"]) for notice in told(tmp_path)] == [("awaiting_approval", "forget-8.2")]


def test_nobody_is_told_where_nothing_says_how(waiting):
    assert look(waiting.workspace) == notices.Told()
    assert not (waiting.folder / notices.SENT_FILE).exists()


def test_a_command_and_a_server_are_told_once_that_a_run_waits_and_once_more_before_its_deadline(
        waiting, tmp_path, server):
    configure(waiting, command=[hook(tmp_path)], webhook=f"http://127.0.0.1:{server.server_port}/hook", before_hours=10)
    for _ in range(2):
        look(waiting.workspace)
    for _ in range(2):
        look(waiting.workspace, hours(39))
    assert [one["event"] for one in told(tmp_path)] == ["awaiting_approval", "deadline_near"]
    assert [body for _, _, body in server.got] == told(tmp_path)
    assert {(path, kind) for path, kind, _ in server.got} == {("/hook", "application/json")}
    look(waiting.workspace, hours(49))
    assert waiting.state().state == "expired"
    assert len(server.got) == 2


def test_a_notice_holds_run_model_deadline_and_what_is_needed_and_no_person(waiting, tmp_path):
    configure(waiting, command=[hook(tmp_path)])
    notice, = look(waiting.workspace).notices
    assert told(tmp_path) == [notice.model_dump(mode="json", by_alias=True)]
    assert {**told(tmp_path)[0], "deadline": None} == {
        "schema": "expunge/notice/v1", "event": "awaiting_approval", "run": "forget-8.1", "model": "digits",
        "deadline": None, "approvals_needed": 1, "command": "expunge approve forget-8.1 --as REVIEWER --reason '...'"}
    assert notice.deadline == notices.deadline_of(waiting, waiting.state()).isoformat(timespec="seconds")
    assert "ada" not in json.dumps(told(tmp_path))


@pytest.mark.parametrize("answers", [302, 404, 500])
def test_what_the_server_does_not_take_is_a_warning_and_is_tried_again(waiting, server, answers):
    server.answers = answers
    configure(waiting, webhook=f"http://127.0.0.1:{server.server_port}/s3cret")
    assert look(waiting.workspace) == notices.Told(
        warnings=(f"forget-8.1: nobody was told by 127.0.0.1: it answered {answers}; it is tried again",))
    server.answers = 200
    assert len(look(waiting.workspace).notices) == 1
    assert len(server.got) == 1


def test_a_server_that_does_not_answer_holds_nobody_up_for_long(waiting, server, monkeypatch):
    monkeypatch.setattr(notices, "TIMEOUT", 0.2)
    server.slow.clear()
    configure(waiting, webhook=f"http://127.0.0.1:{server.server_port}/")
    warning, = look(waiting.workspace).warnings
    assert "timed out" in warning


def test_a_server_that_is_not_there_and_a_command_that_fails_are_warnings(waiting, tmp_path, server):
    port = server.server_port
    configure(waiting, command=["/nonexistent/hook"], webhook=f"http://127.0.0.1:{port}/")
    assert look(waiting.workspace).warnings == (
        "forget-8.1: nobody was told by /nonexistent/hook: No such file or directory; it is tried again",)
    assert len(server.got) == 1, "the other way is not held up"
    configure(waiting, command=[hook(tmp_path, 3)])
    warning, = look(waiting.workspace).warnings
    assert "it ended with 3 (no luck)" in warning
    configure(waiting, command=[hook(tmp_path)], webhook=f"http://127.0.0.1:{port}/")
    look(waiting.workspace)
    assert len(server.got) == 1, "who has been told is not told again"
    assert len(told(tmp_path)) == 2


def test_a_command_that_takes_too_long_is_stopped(waiting, tmp_path, monkeypatch):
    monkeypatch.setattr(notices, "TIMEOUT", 0.2)
    configure(waiting, command=["/bin/sleep", "60"])
    warning, = look(waiting.workspace).warnings
    assert "/bin/sleep: it took longer than" in warning


def test_two_who_look_at_once_tell_once(waiting, tmp_path):
    configure(waiting, command=[hook(tmp_path)])
    with exclusive(waiting.folder / "notices.lock", "x", "y"):
        with pytest.raises(WorkspaceBusy), exclusive(waiting.folder / "notices.lock", "x", "y"):
            pass
        assert look(waiting.workspace) == notices.Told()
    assert len(look(waiting.workspace).notices) == 1


def test_a_run_that_cannot_be_read_is_a_warning_and_the_status_is_still_said(waiting, tmp_path, capsys):
    configure(waiting, command=[hook(tmp_path)])
    waiting.policy_file.write_text("rules: [")
    assert carry_out(["status", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)[0]["state"] == "awaiting_approval"
    assert printed.err.startswith("expunge: warning: forget-8.1: policy: not a readable document")


def test_a_cron_line_says_what_was_sent_and_fails_if_something_could_not_be(waiting, tmp_path, capsys):
    configure(waiting, command=[hook(tmp_path, 1)])
    assert carry_out(["status", "--remind"]) == 1
    assert capsys.readouterr().out == ""
    configure(waiting, command=[hook(tmp_path)])
    assert carry_out(["status", "--remind"]) == 0
    assert capsys.readouterr().out == "forget-8.1: awaiting approval\n"
    assert carry_out(["status", "--remind", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_whichever_command_looks_first_finds_a_run_expired(waiting, capsys, monkeypatch):
    now = hours(49)
    monkeypatch.setattr(notices, "datetime", type("Later", (datetime,), {"now": classmethod(lambda *_: now)}))
    assert carry_out(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "expired"
    for verb in (["approve", "forget-8", "--as", "grace", "--reason", "late"], ["release", "forget-8"]):
        assert carry_out(verb) == 30
        assert capsys.readouterr().err.startswith("expunge: run 'forget-8.1' is expired: nobody decided until ")
