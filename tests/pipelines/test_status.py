"""`status`: where runs stand, by when they are due, how far they are, and what comes next."""

import fcntl
import io
from datetime import UTC, date, datetime, timedelta

import pytest
from rich.console import Console
from tests_support import put

from expunge.contracts import write_record
from expunge.events import Event, events_file
from expunge.runs import Run
from expunge.settings import Workspace
from pipelines.summary import standing, summarise, tries
from pipelines.tables import show_run

TODAY = date(2026, 7, 10)


@pytest.fixture
def run(waiting):
    """The waiting run."""
    return Run.find(Workspace(waiting / ".expunge"), "forget-8")


def due_on(run, day):
    write_record(run.request_file, run.request().model_copy(update={"due": day}))


def stand(run, today=TODAY):
    return standing(run, tries(run.workspace), today)


def test_a_list_keeps_its_keys_and_gains_the_date_and_the_attempts(waiting, expunge):
    found, = expunge(waiting, "status", "--json").json
    assert found.keys() >= {"run", "request_id", "state", "reason", "rooms", "attempt", "started_at", "seconds"}
    assert (found["due"], found["overdue"], found["attempts"]) == (None, None, 1)


@pytest.mark.parametrize(("days", "overdue"), [(-1, True), (0, False), (3, False)])
def test_a_run_is_overdue_the_day_after_its_date(run, days, overdue):
    due_on(run, TODAY + timedelta(days=days))
    assert stand(run)["overdue"] is overdue


def test_what_was_released_is_not_overdue(run):
    due_on(run, TODAY - timedelta(days=9))
    for state, overdue in (("released", False), ("not_needed", False), ("rejected", True), ("failed", True)):
        put(run, state=state)
        assert stand(run)["overdue"] is overdue


def test_people_read_days_and_the_next_step(run, waiting, expunge):
    today = datetime.now(UTC).date()
    due_on(run, today + timedelta(days=3))
    shown = expunge(waiting, "status")
    assert "due in 3 days" in shown.out
    assert "expunge approve forget-8.1 --as REVIEWER" in shown.out
    assert len(shown.out.splitlines()) == 2
    due_on(run, today - timedelta(days=2))
    assert "overdue by 2 days" in expunge(waiting, "status", "forget-8").out


def test_a_run_at_work_says_its_room_and_the_time_left_and_one_that_was_cut_off_says_that(run, waiting, expunge):
    put(run, state="running")
    with events_file(run.workspace, run.name).open("a") as events:
        for event in (Event(room="unlearn", kind="started"),
                      Event(room="unlearn", kind="progress", step=120, total=300, scalars={"eta_seconds": 500.0})):
            events.write(event.model_dump_json() + "\n")
        events.write('{"room": "unl')  # as a crash leaves it
    assert stand(run)["at_work"] is False
    assert "nobody works on it" in expunge(waiting, "status").out
    with run.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        progress = stand(run)["progress"]
        assert (progress["room"], progress["step"], progress["total"]) == ("unlearn", 120, 300)
        assert 0 < progress["seconds_left"] <= 500
        shown = expunge(waiting, "status", "forget-8")
    assert "running: unlearn 120 of 300, about" in shown.out
    assert "fetch checkpoint" in shown.out, "the rooms so far"
    assert "next:" not in shown.out


def test_one_runs_summary_says_the_same(run):
    assert summarise(run).keys() >= {"due", "overdue", "attempts", "since", "at_work", "progress"}


def test_what_a_report_never_asked_keeps_nobody_from_its_status(begin_run):
    made = begin_run().make()
    made.gate()
    found = summarise(made.as_run("awaiting_approval"))
    assert (found["fid"], found["kid"], found["pul"]["estimate"], found["attempts"]) == (None, None, 0.98, 1)
    told = io.StringIO()
    show_run(Console(file=told, width=200), found)
    assert ("unlearned (PUL)" in told.getvalue(), "FID" in told.getvalue()) == (True, False)
