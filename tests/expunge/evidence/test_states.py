"""Where a run stands: what may follow what, who wins, and what a kill between any two writes leaves."""

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, event

from expunge.digests import sha256_bytes
from expunge.errors import BadInput, WorkspaceBusy
from expunge.evidence import states
from expunge.evidence.database import Database
from expunge.evidence.decisions import PAYLOAD_TYPE as DECISION
from expunge.evidence.envelopes import seal
from expunge.evidence.keys import OPERATOR, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import PAYLOAD_TYPE as STATEMENT
from expunge.evidence.states import GUARDS, NEXT, State
from expunge.evidence.tree import leaf_hash, root_of
from expunge.settings import Workspace
from pipelines.workspace import initialise

RUN = "forget-8.1"
STATES = get_args(State)

# Written down a second time, from the design and not from the code.
MAY_FOLLOW = {
    "running": "failed cancelled not_needed invalid inconclusive refused awaiting_approval rolled_back withdrawn",
    "failed": "running cancelled rolled_back withdrawn", "cancelled": "running rolled_back withdrawn",
    "not_needed": "", "invalid": "", "refused": "", "rejected": "", "expired": "",
    "inconclusive": "approved rejected expired",
    "awaiting_approval": "approved rejected expired failed invalid inconclusive refused rolled_back withdrawn",
    "approved": "releasing rejected expired awaiting_approval rolled_back withdrawn",
    "releasing": "released failed awaiting_approval rejected expired invalid inconclusive refused rolled_back withdrawn",
    "released": "rolled_back withdrawn", "rolled_back": "released withdrawn", "withdrawn": "released"}


KINDS = tuple(dict.fromkeys(kind for kinds in GUARDS.values() for kind in kinds))
OF_A_MODEL = {"rollback": "urn:expunge:predicate:rollback:v1", "withdrawal": "urn:expunge:predicate:withdrawal:v1"}


def evidence(workspace, kind, number=0, run=RUN, state="expired"):
    """An envelope as a room, a person who decides, time or a change of service has it signed."""
    key = SigningKey.load(workspace, OPERATOR)
    if kind == "decision":
        return seal(json.dumps({"run": run, "number": number}).encode(), DECISION, key)
    said = {"predicateType": "urn:expunge:predicate:room:v1", "predicate": {"run": run, "room": kind, "n": number}}
    if kind == "expiry":
        said = {"predicateType": "urn:expunge:predicate:run:v1", "predicate": {"run": run, "state": state, "n": number}}
    elif kind in OF_A_MODEL:
        said = {"predicateType": OF_A_MODEL[kind], "predicate": {"model": "digits", "n": number}}
    return seal(json.dumps(said).encode(), STATEMENT, key)


@contextmanager
def killed_before_statement(number, kill):
    """Has `kill` called before the numbered statement that reaches the database; none if there are fewer."""
    count = 0

    def look(*_):
        nonlocal count
        count += 1
        if count == number:
            kill()

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", look)


def start(workspace, state="running"):
    with Database(workspace).writing() as connection:
        states.begin(connection, RUN, "{}")
        connection.exec_driver_sql(f"UPDATE runs SET state = '{state}'")


def look(workspace):
    with Database(workspace).reading() as connection:
        return states.find(connection, RUN)


def change(workspace, revision, *way, because=()):
    with Database(workspace).writing() as connection:
        return states.change(connection, RUN, revision, way, "{}", because)


@pytest.mark.parametrize("before", STATES)
def test_only_what_may_follow_follows(workspace, before):
    envelopes = [evidence(workspace, kind) for kind in KINDS]
    for envelope in envelopes:
        Ledger.open(workspace).append(envelope)
    because = [sha256_bytes(envelope) for envelope in envelopes]
    start(workspace, before)
    for after in STATES:
        with Database(workspace).writing() as connection:
            connection.exec_driver_sql(f"UPDATE runs SET state = '{before}', revision = 1")
        if after == before or after in MAY_FOLLOW[before].split():
            assert change(workspace, 1, after, because=because).state == after
        else:
            with pytest.raises(BadInput, match="it cannot become"):
                change(workspace, 1, after, because=because)
            assert look(workspace).state == before


@pytest.mark.parametrize("after", GUARDS)
def test_no_state_that_people_rely_on_without_an_entry_that_says_so(workspace, after):
    before = next(before for before, following in MAY_FOLLOW.items() if after in following.split())
    start(workspace, before)
    envelope = evidence(workspace, GUARDS[after][0])
    others = [evidence(workspace, "decision", run="another.1"), evidence(workspace, "expiry", run="another.1"),
              evidence(workspace, "expiry", state="failed"), evidence(workspace, "adapt"),
              *(evidence(workspace, kind) for kind in KINDS if kind not in GUARDS[after])]
    ledger = Ledger.open(workspace)
    for other in others:
        ledger.append(other)
    for because in ((), (sha256_bytes(envelope),), [sha256_bytes(other) for other in others]):
        with pytest.raises(BadInput, match="is in the ledger"):
            change(workspace, 1, after, because=because)
    ledger.append(envelope, with_change=lambda connection: states.change(
        connection, RUN, 1, (after,), "{}", [sha256_bytes(envelope)]))
    assert look(workspace).state == after


def test_of_two_who_saw_the_same_only_the_first_changes_it(workspace):
    start(workspace)
    assert change(workspace, 1, "failed").revision == 2
    with pytest.raises(WorkspaceBusy, match="it is failed"):
        change(workspace, 1, "cancelled")
    with pytest.raises(BadInput, match="there already"), Database(workspace).writing() as connection:
        states.begin(connection, RUN, "{}")


def test_no_state_on_the_way_is_skipped(workspace):
    start(workspace)
    with pytest.raises(BadInput):
        change(workspace, 1, "released")
    gate, decision, deploy = (evidence(workspace, kind) for kind in ("gate", "decision", "deploy"))
    ledger, way = Ledger.open(workspace), ("awaiting_approval", "approved", "releasing", "released")
    because = [sha256_bytes(envelope) for envelope in (gate, decision, deploy)]
    for envelope in (gate, deploy):
        ledger.append(envelope)
    with pytest.raises(BadInput, match="no decision of it"):
        change(workspace, 1, *way, because=because)
    ledger.append(decision)
    assert change(workspace, 1, *way, because=because).state == "released"


def test_a_kill_between_any_two_writes_leaves_the_entry_and_the_change_or_neither(workspace):
    start(workspace)
    before, last = Ledger.open(workspace).size, 40
    for number in range(1, last):
        envelope = evidence(workspace, "gate", number)
        seen = look(workspace)
        after = "failed" if seen.state == "running" else "running"
        child = os.fork()
        if not child:
            with killed_before_statement(number, lambda: os._exit(9)):
                Ledger(workspace).append(envelope, with_change=lambda connection, seen=seen, after=after: states.change(
                    connection, RUN, seen.revision, (after,), "{}"))
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        now, size = look(workspace), Ledger.open(workspace).size
        if died == 0:
            assert (now.state, size) == (after, before + 1)
            assert number > 5, "there were writes to be killed between"
            return
        assert (now, size) == (seen, before)
    raise AssertionError("it was killed every time")


class Killed(BaseException):
    """What stands for the death of a process: its transaction is taken back."""


def die():
    raise Killed


class TwoProcesses(RuleBasedStateMachine):
    """Two who work on the same run, each with what it saw last, and a model of what must be there."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.workspace = initialise(Workspace(self.folder / ".expunge"))
        self.state, self.revision = "running", 1
        self.entries = [entry.envelope for entry in Ledger.open(self.workspace).entries()]
        self.kinds = {}  # digest of what was signed, whether entered or not
        self.views, self.releases, self.number = {}, 0, 0

    @initialize()
    def both_see_it_begin(self):
        start(self.workspace)
        self.views = {"one": look(self.workspace), "other": look(self.workspace)}

    who = st.sampled_from(["one", "other"])

    @rule(who=who)
    def looks(self, who):
        self.views[who] = look(self.workspace)
        assert (self.views[who].state, self.views[who].revision) == (self.state, self.revision)

    @rule(kind=st.sampled_from([*KINDS, "adapt"]), entered=st.booleans(), again=st.booleans(),
          kill=st.integers(1, 25))
    def a_room_or_a_person_signs(self, kind, entered, again, kill):
        self.number += not again
        envelope = evidence(self.workspace, kind, self.number)
        self.kinds[sha256_bytes(envelope)] = kind
        if entered:
            try:
                with killed_before_statement(kill, die):
                    Ledger(self.workspace).append(envelope)
            except Killed:
                return
            if envelope not in self.entries:
                self.entries.append(envelope)

    @rule(who=who, after=st.sampled_from(STATES), kill=st.integers(1, 40))
    def changes(self, who, after, kill):
        self.attempt(who, after, kill)

    @precondition(lambda self: self.state in ("approved", "releasing"))
    @rule(who=who, kill=st.integers(1, 40))
    def releases_it(self, who, kill):
        self.attempt(who, "releasing" if self.state == "approved" else "released", kill)

    @precondition(lambda self: MAY_FOLLOW[self.state])
    @rule(who=who, data=st.data(), looks_first=st.booleans())
    def tries(self, who, data, looks_first):
        """A change that may follow, whether or not it is of what was seen and its guard has what it asks for."""
        if looks_first:
            self.views[who] = look(self.workspace)
        self.attempt(who, data.draw(st.sampled_from(MAY_FOLLOW[self.state].split())), 99)

    @precondition(lambda self: MAY_FOLLOW[self.state])
    @rule(who=who, data=st.data())
    def goes_on(self, who, data):
        """A change that may follow, with all that its guard asks for: so that machines come far."""
        self.views[who] = look(self.workspace)
        after = data.draw(st.sampled_from(MAY_FOLLOW[self.state].split()))
        for kind in GUARDS.get(after, ()):
            self.a_room_or_a_person_signs(kind, True, False, 99)
        self.attempt(who, after, 99)

    def attempt(self, who, after, kill):
        view = self.views[who]
        said = evidence(self.workspace, "end", self.number + 1_000_000)
        in_ledger = {self.kinds[sha256_bytes(entry)] for entry in self.entries if sha256_bytes(entry) in self.kinds}
        guarded = after == self.state or not GUARDS.get(after) or bool(in_ledger & set(GUARDS[after]))
        may = after == self.state or after in MAY_FOLLOW[self.state].split()
        fresh = view.revision == self.revision
        self.number += 1
        try:
            with killed_before_statement(kill, die):
                Ledger(self.workspace).append(said, with_change=lambda connection: states.change(
                    connection, RUN, view.revision, (after,), "{}", self.kinds))
        except Killed:
            return
        except WorkspaceBusy:
            assert not fresh
            return
        except BadInput:
            assert fresh
            assert not (guarded and may)
            return
        assert fresh
        assert guarded
        assert may
        self.releases += after == "released" and self.state == "releasing"
        self.entries.append(said)
        self.state, self.revision = after, self.revision + 1

    @invariant()
    def the_run_stands_where_it_was_brought(self):
        if self.views:
            now = look(self.workspace)
            assert (now.state, now.revision) == (self.state, self.revision)
            assert self.releases <= 1

    @invariant()
    def no_entry_is_lost_or_doubled(self):
        ledger = Ledger.open(self.workspace)
        assert [entry.envelope for entry in ledger.entries()] == self.entries
        assert ledger.root == root_of([leaf_hash(entry) for entry in self.entries]).hex()
        assert all(ledger.position_of(sha256_bytes(entry)) == place for place, entry in enumerate(self.entries))

    def teardown(self):
        shutil.rmtree(self.folder)


def test_whatever_two_processes_do_and_whenever_they_die():
    run_state_machine_as_test(TwoProcesses, settings=settings(
        max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)))


def test_every_state_that_people_rely_on_has_a_guard():
    assert set(STATES) - set(GUARDS) == {"running", "failed", "cancelled", "not_needed"}


def test_the_states_are_those_of_the_design():
    assert set(NEXT) == set(STATES) == set(MAY_FOLLOW)
