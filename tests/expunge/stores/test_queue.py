"""The queue of filed requests: filed by content, held by one worker at a time, given up after so many attempts."""

import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from s3_server import between, bucket, environment, s3_server  # noqa: F401 - fixtures

from expunge.contracts import Request, parse_record
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, Refused, WorkspaceBusy
from expunge.settings import Workspace
from expunge.stores import queue, s3
from expunge.stores.queue import ATTEMPTS, LocalTickets, Queue, S3Tickets, Ticket, file_request

PREFIX = "s3://models/asked/here"
REQUEST = {
    "id": "forget-8", "requester": "ada", "reason": "safety", "model": "digits", "policy": "debug",
    "checkpoint": {"uri": "builtin://digits/dcgan"}, "oracle": {"uri": "builtin://digits/oracle"},
    "judge": {"uri": "builtin://digits/judge"}, "holdout": {"uri": "builtin://digits/holdout"},
    "forget": {"classes": [8]}, "method": {"name": "adapt_then_unlearn", "preset": "debug"}}


def asked_for(**changes):
    return parse_record(Request, {**REQUEST, **changes}, "request")


def file(workspace, again=False, folder=Path("/"), **changes):
    return file_request(workspace, asked_for(**changes), folder, again=again)


@pytest.fixture
def on_s3(workspace, bucket):  # noqa: F811
    """A workspace whose queue is on S3."""
    (workspace.root / "config.yaml").write_text(f"requests: {PREFIX}\n")
    return workspace


@pytest.fixture(params=["here", pytest.param("on s3", marks=pytest.mark.thorough)])
def place(request, workspace):
    """A workspace whose queue is in it, and one whose queue is on S3."""
    return request.getfixturevalue("on_s3") if request.param == "on s3" else workspace


def aged(workspace, seconds):
    """Makes the only ticket of a local queue older."""
    make_older(workspace.root / "requests", seconds)


def make_older(folder, seconds):
    ticket, = folder.glob("*/ticket.json")
    written = ticket.stat().st_mtime - seconds
    os.utime(ticket, (written, written))


# ---------------------------------------------------------------------------------------------- filing


def test_the_same_request_is_filed_once_and_what_is_filed_is_its_content(place):
    ticket, begun = file(place)
    assert begun
    assert file(place, folder=Path("/tmp")) == (ticket, False)
    queued = Queue.of(place)
    seen, = queued.all()
    assert (seen.ticket.stage, seen.ticket.filed_by, seen.ticket.attempts) == ("filed", "ada", 0)
    filed = queued.request(seen.ticket)
    assert all(len(getattr(filed, name).sha256) == 64 for name in ("checkpoint", "oracle", "judge", "holdout"))
    assert file(place, seed=5)[1]
    assert len(queued.all()) == 2
    assert queued.find("forget-8").ticket.request_sha256 != ticket.request_sha256, "the newest of that name"
    assert queued.find(ticket.request_sha256[:8]).ticket == seen.ticket


def test_filing_imports_no_torch(workspace):
    done = subprocess.run(
        [sys.executable, "-c", "import json, sys; from pathlib import Path; from expunge.settings import Workspace; "
         "from expunge.contracts import Request; from expunge.stores.queue import file_request; "
         f"file_request(Workspace(Path({str(workspace.root)!r})), Request(**json.loads(sys.argv[1])), Path('/')); "
         "print([name for name in ('torch', 'mlflow', 'boto3', 'kfp') if name in sys.modules])", json.dumps(REQUEST)],
        capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(("changes", "error", "problem"), [
    ({"policy": "ours"}, BadInput, r"^policy: 'ours' is not known"),
    ({"checkpoint": {"uri": "nowhere.safetensors"}}, BadInput, r"^checkpoint\.uri: .*nowhere\.safetensors: no such file"),
    ({"holdout": {"uri": "builtin://digits/holdout", "sha256": "0" * 64}}, Refused, r"^holdout\.sha256: "),
])
def test_what_cannot_be_used_is_told_and_nothing_is_filed(workspace, changes, error, problem):
    with pytest.raises(error, match=problem):
        file(workspace, **changes)
    assert not list(workspace.root.glob("requests/*/*"))


def test_a_request_about_this_machine_is_not_filed_where_others_read_it(on_s3, bucket):  # noqa: F811
    with pytest.raises(BadInput, match=r"^checkpoint\.uri: here\.safetensors is on one machine, and others read"):
        file(on_s3, checkpoint={"uri": "here.safetensors"})
    assert not list(bucket.objects.all())


def test_nor_is_one_carried_out_that_somebody_put_there_past_us(on_s3):
    queued, store = Queue.of(on_s3), queue.store_of(on_s3)
    for written in (asked_for(checkpoint={"uri": "builtin://digits/dcgan", "architecture": "/tmp/a.py:build"}).to_bytes(),
                    b"not even JSON"):
        sha256 = sha256_bytes(written)
        store.write(f"{sha256}/request.json", written, None)
        put = Ticket(request_sha256=sha256, request_id="x", model="m", filed_by="ada", filed_at="2026-01-01")
        with pytest.raises(BadInput, match=r"checkpoint\.architecture: /tmp/a\.py:build is on one machine|is no request"):
            queued.request(put)


def test_a_request_that_names_no_method_leaves_it_to_its_model(workspace):
    plain = {name: value for name, value in REQUEST.items() if name != "method"}
    file_request(workspace, parse_record(Request, plain, "request"), Path("/"))
    queued = Queue.of(workspace)
    assert "method" not in queued.request(queued.all()[0].ticket).model_fields_set
    assert file(workspace)[1], "one that names a method is another request"


def test_the_queue_of_another_workspace_is_left_alone(on_s3, tmp_path):
    from pipelines.workspace import initialise

    file(on_s3)
    other = initialise(Workspace(tmp_path / "other"))
    (other.root / "config.yaml").write_text(f"requests: {PREFIX}\n")
    for asked in (lambda: file(other), lambda: Queue.of(other)):
        with pytest.raises(Refused, match="is the queue of another workspace"):
            asked()


def test_what_was_changed_in_the_queue_is_told(place):
    ticket, _ = file(place)
    store, queued = queue.store_of(place), Queue.of(place)
    other, _ = file(place, seed=5)
    for name, asked in (("request.json", lambda: queued.request(ticket)),
                        ("ticket.json", lambda: queued.seen(ticket.request_sha256))):
        _, tag, _ = store.read(f"{ticket.request_sha256}/{name}")
        store.write(f"{ticket.request_sha256}/{name}", b'{"schema": "expunge/ticket/v1"}', tag)
        with pytest.raises(DoesNotVerify, match=r"is not what was filed|is no ticket of ours"):
            asked()
    assert [seen.ticket for seen in queued.all()] == [other], "one that is spoiled keeps no other from its worker"
    assert len(queued.spoiled()) == 1


def test_what_was_cut_while_it_was_filed_is_completed_by_filing_it_again(place, monkeypatch):
    write = type(queue.store_of(place)).write

    def cut(store, name, *given):
        if name.endswith("ticket.json"):
            raise KeyboardInterrupt
        return write(store, name, *given)

    with monkeypatch.context() as patched:
        patched.setattr(type(queue.store_of(place)), "write", cut)
        with pytest.raises(KeyboardInterrupt):
            file(place)
    assert Queue.of(place).all() == []
    assert file(place)[1]


# ---------------------------------------------------------------------------------------------- leases


def test_of_two_workers_who_saw_the_same_only_one_has_it(place):
    file(place)
    first, second = Queue.of(place), Queue.of(place)
    seen, same = first.all()[0], second.all()[0]
    held = first.claim(seen, "a")
    assert held.ticket.stage == "claimed"
    assert second.claim(same, "b") is None
    assert second.claim(second.all()[0], "b") is None
    assert first.came_to(held, "waiting", "forget-8.1", "awaiting_approval").ticket.attempts == 0
    with pytest.raises(WorkspaceBusy):
        first.renew(held)


def test_a_lease_that_ran_out_is_taken_over_and_whoever_had_it_is_told(workspace):
    file(workspace)
    queued = Queue.of(workspace)
    held = queued.claim(queued.all()[0], "a", lease=100)
    aged(workspace, 99)
    assert queued.claim(queued.all()[0], "b") is None
    held = queued.renew(held)
    aged(workspace, 99)
    assert queued.claim(queued.all()[0], "b") is None, "a sign of life began it anew"
    aged(workspace, 1.5)
    taken = queued.claim(queued.all()[0], "b")
    assert (taken.ticket.attempts, taken.ticket.last_error) == (2, "a was lost while it worked on it")
    for late in (lambda: queued.renew(held), lambda: queued.failed(held, "x", "filed"),
                 lambda: queued.came_to(held, "released", "forget-8.1", "released")):
        with pytest.raises(WorkspaceBusy):
            late()


def saying(headers):
    """An answer of the server with these headers, as its client gives it."""
    return {"ResponseMetadata": {"HTTPHeaders": headers}}


def test_ages_are_told_by_the_servers_clock_and_no_workers(on_s3, monkeypatch):
    """Of a server whose clock is a day behind ours, nothing is taken over that was written a second ago."""
    real, day = s3._age, timedelta(days=1)

    def a_day_behind(uri, answer, written):
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return real(uri, saying({"date": format_datetime(now - day)}), written - day)

    file(on_s3)
    queued = Queue.of(on_s3)
    assert queued.claim(queued.all()[0], "a", lease=600)
    monkeypatch.setattr(s3, "_age", a_day_behind)
    seen = queued.all()[0]
    assert seen.age < 60
    assert queued.claim(seen, "b") is None


def test_a_server_that_does_not_say_what_time_it_is_is_refused(on_s3, monkeypatch):
    file(on_s3)
    real = s3._age
    monkeypatch.setattr(s3, "_age", lambda uri, answer, written: real(uri, saying({}), written))
    with pytest.raises(ExpungeError, match=r"does not say what time it is"):
        Queue(queue.store_of(on_s3)).all()


def test_whoever_looks_again_reads_what_has_changed_since_and_nothing_else(on_s3, between):  # noqa: F811
    for seed in range(4):
        file(on_s3, seed=seed)
    queue._read_before.cache_clear()  # as a process that has read nothing yet

    def look():
        between.seen.clear()
        found = Queue.of(on_s3).all()
        paths = [path for _, path, _ in between.seen]
        return found, sum(path.endswith("/ticket.json") for path in paths), len(paths)

    first, read, questions = look()
    assert (len(first), read, questions) == (4, 4, 6), "whose queue it is, one listing, and each ticket"
    again, read, questions = look()
    assert (read, questions) == (0, 2)
    assert [(seen.ticket, seen.tag) for seen in again] == [(seen.ticket, seen.tag) for seen in first]
    assert all(0 <= seen.age < 60 for seen in again)
    changed = Queue.of(on_s3).claim(again[1], "here:1")
    S3Tickets(PREFIX).remove_all(again[2].ticket.request_sha256)
    after, read, _ = look()
    assert read == 1
    assert [seen.ticket for seen in after] == [first[0].ticket, changed.ticket, first[3].ticket]
    assert after[1].tag == changed.tag, "what was listed can be changed"


def test_a_server_that_is_busy_half_of_the_time_loses_nothing_and_doubles_nothing(on_s3, between):  # noqa: F811
    turn = iter(range(10**6))
    between.trouble = lambda method, path, headers: ("busy", "lost", None)[next(turn) % 3]
    file(on_s3)
    queued = Queue.of(on_s3)
    seen = queued.all()[0]
    held = queued.claim(seen, "a")
    assert held is not None
    assert queued.claim(seen, "b") is None
    assert queued.renew(queued.renew(held)).ticket.change == 4
    assert {what for *_, what in between.seen} == {"busy", "lost", None}


def test_one_that_loses_all_its_workers_is_given_up(workspace):
    file(workspace)
    queued = Queue.of(workspace)
    for number in range(1, ATTEMPTS + 1):
        assert queued.claim(queued.all()[0], "a", lease=10).ticket.attempts == number
        aged(workspace, 11)
    assert queued.claim(queued.all()[0], "a") is None
    given_up = queued.all()[0].ticket
    assert (given_up.stage, given_up.last_error) == ("failed", "a was lost while it worked on it")
    again, begun = file(workspace, again=True)
    assert (again.stage, again.attempts, again.round, again.last_error, begun) == ("filed", 0, 2, None, True)


def test_attempts_are_bounded_and_wait_ever_longer(workspace):
    file(workspace)
    queued, waits = Queue.of(workspace), []
    for _ in range(ATTEMPTS):
        held = queued.claim(queued.all()[0], "a")
        ticket = queued.failed(held, "the store\nis away", "filed").ticket
        assert queued.claim(queued.all()[0], "a") is None, "it waits"
        waits.append(ticket.wait)
        aged(workspace, ticket.wait + 1)
    assert (ticket.stage, ticket.last_error) == ("failed", "the store\N{REPLACEMENT CHARACTER}is away")
    assert waits[:2] == [60, 240]


@pytest.mark.parametrize("stage", ["claimed", "waiting", "released"])
def test_what_is_worked_on_or_over_is_not_taken_back(workspace, stage):
    file(workspace)
    queued = Queue.of(workspace)
    held = queued.claim(queued.all()[0], "a")
    if stage != "claimed":
        queued.came_to(held, stage, "forget-8.1", "x")
    with pytest.raises(BadInput, match=rf"^request 'forget-8' is {stage}"):
        queued.withdraw(queued.find("forget-8"))


def test_what_waits_is_taken_back_and_can_be_filed_again(workspace):
    file(workspace)
    queued = Queue.of(workspace)
    assert queued.withdraw(queued.find("forget-8")).stage == "withdrawn"
    assert queued.claim(queued.all()[0], "a") is None
    assert file(workspace)[1] is False
    assert file(workspace, again=True)[0].stage == "filed"


class Workers(RuleBasedStateMachine):
    """Three workers in any order, any of them dying at any moment or acting on what it saw long ago."""

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))
        store = LocalTickets(Path(self._folder.name))
        sha256 = sha256_bytes(b"{}")
        store.write(f"{sha256}/ticket.json", Ticket(request_sha256=sha256, request_id="x", model="m", filed_by="ada",
                                                    filed_at="2026-01-01").to_bytes(), None)
        self.queue, self.sha256 = Queue(store), sha256
        self.holder, self.since, self.now = None, 0.0, 0.0  # who truly has it, and when it last said so
        self.holds, self.views = {}, dict.fromkeys("abc", self.queue.seen(sha256))
        self.changes, self.tries, self.over = 1, 0, False

    def teardown(self):
        self._folder.cleanup()

    def _wrote(self, seen):
        assert seen.ticket.change == self.changes + 1, "somebody's version was lost"
        self.changes, self.since = seen.ticket.change, self.now
        self.over = seen.ticket.is_over
        return seen

    @rule(worker=st.sampled_from("abc"))
    def look(self, worker):
        self.views[worker] = self.queue.seen(self.sha256)

    @rule(seconds=st.sampled_from([1, 40, 101, 10_000]))
    def pass_time(self, seconds):
        self.now += seconds
        make_older(Path(self._folder.name), seconds)

    @rule(worker=st.sampled_from("abc"))
    def claim(self, worker):
        before = self.queue.seen(self.sha256)
        held = self.queue.claim(self.views[worker], worker, lease=100)
        if held is None:
            after = self.queue.seen(self.sha256).ticket
            if after.change != before.ticket.change:
                assert after.stage == "failed"
                assert before.ticket.attempts == ATTEMPTS
                self.changes, self.over, self.holder = after.change, True, None
            return
        assert not self.over
        assert self.holder is None or self.now - self.since >= 100, "two have it at once"
        if before.ticket.stage == "filed" and before.ticket.wait:
            assert self.now - self.since >= before.ticket.wait
        self.tries += 1
        self.holder, self.holds[worker] = worker, self._wrote(held)

    @rule(worker=st.sampled_from("abc"))
    def come_much_later(self, worker):
        self.pass_time(10_000)
        self.look(worker)
        self.claim(worker)

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), what=st.sampled_from(["renew", "fail", "fail for good", "put back", "wait", "release", "die"]))
    def go_on(self, data, what):
        worker = data.draw(st.sampled_from(sorted(self.holds)))
        held = self.holds.pop(worker)
        act = {"renew": lambda: self.queue.renew(held), "fail": lambda: self.queue.failed(held, "no", "filed"),
               "fail for good": lambda: self.queue.failed(held, "no", "filed", for_good=True),
               "put back": lambda: self.queue.put_back(held, "filed"),
               "wait": lambda: self.queue.came_to(held, "waiting", "x.1", "awaiting_approval"),
               "release": lambda: self.queue.came_to(held, "released", "x.1", "released")}.get(what)
        if act is None:
            return  # it was killed: nobody is told
        try:
            seen = act()
        except WorkspaceBusy:
            assert self.holder != worker, "who has it was refused"
            return
        assert self.holder == worker, "who has lost it was let"
        self._wrote(seen)
        if what == "renew":
            self.holds[worker] = seen
            return
        self.holder = None
        self.tries = {"put back": self.tries - 1, "wait": 0}.get(what, self.tries)

    @invariant()
    def attempts_are_bounded(self):
        ticket = self.queue.seen(self.sha256).ticket
        assert ticket.change == self.changes
        assert self.tries <= ATTEMPTS
        assert ticket.attempts in (self.tries, 0)


Workers.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None,
                                     suppress_health_check=[HealthCheck.too_slow])
TestWorkers = Workers.TestCase


def test_the_settings_name_a_prefix(workspace):
    from expunge.configuration import Configuration

    (workspace.root / "config.yaml").write_text("requests: /srv/requests\n")
    with pytest.raises(BadInput, match=re.escape("'requests' must be s3://bucket/prefix")):
        Configuration.load(workspace)
    assert isinstance(queue.S3Tickets(PREFIX), S3Tickets)
