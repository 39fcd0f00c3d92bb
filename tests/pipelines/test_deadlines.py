"""What people and time make of a run that waits: waivers, decisions that a kill cut off, deadlines."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from tests_support import key_for, write_policy

from expunge import deciding
from expunge.contracts import Release, read_record
from expunge.deciding import deadline_of, decide, expire, settle
from expunge.errors import BadInput, Refused, Rejected
from expunge.evidence import decisions
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import RunPredicate, open_statement
from expunge.evidence.verify import verify_workspace


@pytest.fixture
def waiting(begin_run):
    """A run that waits for people, under a policy that gives them two days."""
    made = begin_run()
    write_policy(made.workspace, "debug", made.policy_file.read_bytes() + b"deadline_days: 2\n",
                 run_folder=made.policy_file.parent)
    assert made.make().gate() == "waiting"
    for person in ("ada", "grace", "linus"):
        key_for(made.workspace, person, "reviewer")
    return made.as_run("awaiting_approval")


@pytest.fixture
def undecided(begin_run):
    """A run of which one rule is INCONCLUSIVE."""
    made = begin_run(residual=0.04).make()
    assert made.gate() == "closed"
    for person in ("ada", "grace", "linus"):
        key_for(made.workspace, person, "reviewer")
    return made.as_run("inconclusive")


def hours(count):
    return datetime.now(UTC) + timedelta(hours=count)


def last_said(workspace):
    ledger = Ledger.open(workspace)
    return open_statement(ledger.entry(ledger.size - 1).envelope, Keyring.load(workspace))[0].predicate


def wrong(workspace):
    return [found for found in verify_workspace(workspace) if not found.ok and "not in the ledger" not in found.message]


# ---------------------------------------------------------------------------------------------------- waivers


def test_two_people_waive_what_is_inconclusive_and_the_run_is_approved(undecided):
    with pytest.raises(BadInput, match=r"the verdict is INCONCLUSIVE: .* --waive residual_rate"):
        decide(undecided, "grace", "approve", "fine")
    with pytest.raises(BadInput, match="waive: 'pul' is not INCONCLUSIVE: what can be waived: residual_rate"):
        decide(undecided, "grace", "approve", "fine", ["residual_rate", "pul"])
    with pytest.raises(Refused, match="ada made this request"):
        decide(undecided, "ada", "approve", "fine", ["residual_rate"])
    decide(undecided, "grace", "approve", "fine", ["residual_rate"])
    assert undecided.state().state == "inconclusive"
    with pytest.raises(Refused, match=r"grace has approved this already: .* one person counts once"):
        decide(undecided, "grace", "approve", "fine", ["residual_rate"])
    decide(undecided, "linus", "approve", "fine", ["residual_rate"])
    assert (undecided.state().state, undecided.state().reason) == ("approved", "grace and linus waived residual_rate")
    assert deciding.waiver_of(undecided) == (("grace", "linus"), ("residual_rate",))


def test_what_is_inconclusive_can_be_rejected(undecided):
    with pytest.raises(BadInput, match="a rejection waives nothing"):
        decide(undecided, "grace", "reject", "no", ["residual_rate"])
    decide(undecided, "grace", "reject", "no")
    assert undecided.state().state == "rejected"


def test_nothing_is_waived_where_nothing_is_inconclusive(waiting):
    with pytest.raises(BadInput, match="waive: 'pul' is not INCONCLUSIVE: nothing is: leave --waive out"):
        decide(waiting, "grace", "approve", "fine", ["pul"])


# ------------------------------------------------------------------------------------------ what a kill cut off


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_decision_that_a_kill_kept_from_the_ledger_is_entered_with_its_consequence(waiting, decision):
    file = decisions.decide(waiting.workspace, waiting.name, "grace", decision, deciding.subject_of(waiting), "so", 1,
                            requester="ada")
    size = Ledger.open(waiting.workspace).size
    assert settle(waiting).state == {"approve": "approved", "reject": "rejected"}[decision]
    assert Ledger.open(waiting.workspace).position_of(file.stem) == size
    assert settle(waiting).state == {"approve": "approved", "reject": "rejected"}[decision]
    assert Ledger.open(waiting.workspace).size == size + 1


def test_an_entered_decision_whose_consequence_a_kill_cut_off_still_has_it(waiting):
    file = decisions.decide(waiting.workspace, waiting.name, "grace", "approve", deciding.subject_of(waiting), "so", 1,
                            requester="ada")
    Ledger.open(waiting.workspace).append(file.read_bytes())
    assert waiting.state().state == "awaiting_approval"
    assert settle(waiting).state == "approved"


# ------------------------------------------------------------------------------------------ deadlines


def test_a_run_that_nobody_decided_on_in_time_is_expired_and_the_ledger_says_so(waiting):
    assert expire(waiting).state == "awaiting_approval"
    assert expire(waiting, hours(47)).state == "awaiting_approval"
    assert expire(waiting, hours(49)).state == "expired"
    said = last_said(waiting.workspace)
    assert isinstance(said, RunPredicate)
    assert (said.run, said.state, said.note) == (waiting.name, "expired", waiting.state().reason)
    assert said.note.startswith("nobody decided until ")
    assert waiting.state().exit == 30
    size = Ledger.open(waiting.workspace).size
    assert expire(waiting, hours(99)).state == "expired"
    assert Ledger.open(waiting.workspace).size == size
    assert wrong(waiting.workspace) == []


def test_who_comes_too_late_is_told_so(waiting):
    expire(waiting, hours(49))
    with pytest.raises(Rejected, match=r"run 'forget-8\.1' is expired: nobody decided until .*: run the request again"):
        decide(waiting, "grace", "approve", "fine")
    assert decisions.decisions_of(waiting.workspace, waiting.name) == ()


def test_who_approved_in_time_has_and_the_release_may_come_later(waiting):
    decide(waiting, "grace", "approve", "fine")
    assert expire(waiting, hours(49)).state == "approved"


def test_a_deadline_counts_from_the_first_time_that_people_were_asked(begin_run, waiting):
    first = deadline_of(waiting, waiting.state())
    for _ in range(4):  # some of them within the same second
        again = begin_run()
        again.candidate, again.report = again.outputs / "candidate", again.outputs / "report"
        again.gate()
    assert len(list(waiting.workspace.results.glob("gate-*/statement.json"))) == 5
    assert deadline_of(waiting, waiting.state()) == first


def test_a_policy_without_a_deadline_waits_for_ever(begin_run):
    made = begin_run()
    assert made.make().gate() == "waiting"
    run = made.as_run("awaiting_approval")
    assert deadline_of(run, run.state()) is None
    assert expire(run, hours(24 * 365)).state == "awaiting_approval"


def test_the_gates_own_clock_is_the_one_that_was_signed(waiting):
    """Whoever changes a statement moves no deadline: it no longer counts."""
    file, = waiting.workspace.results.glob("gate-*/statement.json")
    envelope = json.loads(file.read_bytes())
    file.unlink()
    file.write_text(json.dumps(envelope))
    assert deadline_of(waiting, waiting.state()) is None
    assert wrong(waiting.workspace)


@pytest.mark.slow
def test_what_two_people_waived_is_released_and_its_page_names_them_and_the_rule(undecided, capsys):
    from pipelines import supervisor
    from pipelines.cli import carry_out

    for person in ("grace", "linus"):
        assert carry_out(["approve", "forget-8", "--as", person, "--reason", "more are not to be had", "--waive",
                          "residual_rate", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["waives"]) == ("approved", ["residual_rate"])
    released = supervisor.release(undecided.workspace, undecided, lambda event: None)
    assert (released.state, released.reason) == ("released", "grace and linus waived residual_rate")
    assert read_record(Release, undecided.output("deploy", "release")).waived == ("residual_rate",)
    assert "Waived by grace and linus: Residual rate" in undecided.page.read_text()
    assert wrong(undecided.workspace) == []
