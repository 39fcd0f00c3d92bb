"""Decisions: who may sign, what counts, what it opens."""

from datetime import UTC, datetime, timedelta

import pytest

from expunge.contracts import Verdict, read_record
from expunge.digests import sha256_bytes
from expunge.errors import BadInput, DoesNotVerify, Refused
from expunge.evidence import decisions
from expunge.evidence.coherence import read_policy
from expunge.evidence.decisions import Subject, count_valid, decisions_of, token
from expunge.evidence.envelopes import seal
from expunge.evidence.keys import Keyring, SigningKey, create_key


@pytest.fixture
def run(begin_run):
    return begin_run().make()


def tally(run, now=None, needed=1, **changed):
    subject = Subject.of(**run.evidence).model_copy(update=changed)
    policy = read_policy(run.policy_file).model_copy(update={"approvals": needed})
    return count_valid(decisions_of(run.workspace, run.name), subject, policy, run.request.requester,
                       now or datetime.now(UTC))


def test_the_requester_is_told_that_somebody_else_must_sign(run):
    create_key(run.workspace, "ada", ["requester", "reviewer"])
    with pytest.raises(Refused, match="ada made this request: somebody else must sign"):
        run.sign("ada")
    create_key(run.workspace, "ADA", ["reviewer"])  # another key, the same person
    with pytest.raises(Refused):
        run.sign("ADA")
    assert decisions_of(run.workspace, run.name) == ()


def test_the_requesters_signature_does_not_count_even_if_it_got_there(run):
    file = run.sign("grace")
    assert tally(run).approved_by == ("grace",)
    run.request = run.request.model_copy(update={"requester": "Grace"})
    assert tally(run).approved_by == ()
    assert file.exists()


def test_somebody_without_the_reviewers_role_is_refused(run):
    create_key(run.workspace, "eve", ["requester", "admin"])
    with pytest.raises(Refused, match="eve is requester and admin, not reviewer"):
        run.sign("eve")


def test_a_reviewer_who_lost_the_role_no_longer_counts(run):
    run.sign("grace")
    keyring = Keyring.load(run.workspace)
    demoted = tuple(entry.model_copy(update={"roles": ("requester",)}) if entry.person == "grace" else entry
                    for entry in keyring.entries)
    run.workspace.keyring.write_bytes(Keyring(entries=demoted).to_bytes())
    found = tally(run)
    assert found.approved_by == ()
    assert found.void[0].reason == "the key is no reviewer's"


def test_a_decision_needs_a_reason_and_keeps_it_beside_itself(run):
    with pytest.raises(BadInput, match="needs a reason"):
        run.sign(reason="  ")
    file = run.sign(reason="die Bilder sind sauber — ✓")
    (decision,) = decisions_of(run.workspace, run.name)
    assert decision.reason == "die Bilder sind sauber — ✓"
    decisions.reason_file(file).write_text("something else")
    with pytest.raises(DoesNotVerify):
        _ = decision.reason


def test_one_person_counts_once_however_often_they_sign(run):
    run.sign("grace")
    run.sign("grace", reason="again")
    assert len(decisions_of(run.workspace, run.name)) == 2
    assert tally(run, needed=2).approved_by == ("grace",)
    run.sign("linus")
    assert tally(run, needed=2).approved_by in (("grace", "linus"), ("linus", "grace"))


@pytest.mark.parametrize("name", ["request_sha256", "candidate_sha256", "report_sha256", "policy_sha256"])
def test_an_approval_is_void_when_any_named_digest_changes(run, name):
    run.sign()
    assert tally(run).approved_by == ("grace",)
    found = tally(run, **{name: "e" * 64})
    assert found.approved_by == ()
    assert name.removesuffix("_sha256") in found.void[0].reason


def test_an_approval_is_void_when_the_sample_sets_change(run):
    run.sign()
    assert tally(run, sample_sets=("e" * 64,)).void[0].reason == "it names other sample sets"


def test_an_approval_runs_out_but_a_rejection_does_not(run):
    run.sign("grace", valid_days=0.5)
    run.sign("linus", "reject", "no", valid_days=0.5)
    later = tally(run, datetime.now(UTC) + timedelta(hours=13))
    assert later.approved_by == ()
    assert later.rejected_by == ("linus",)
    assert later.void[0].reason.startswith("it ran out on")


def test_an_approval_does_not_outlast_what_the_policy_allows(run):
    run.sign("grace", valid_days=3650)
    assert tally(run, datetime.now(UTC) + timedelta(hours=23)).approved_by
    assert not tally(run, datetime.now(UTC) + timedelta(hours=25)).approved_by


def test_a_decision_from_the_future_does_not_count_yet(run):
    run.sign("grace", now=datetime.now(UTC) + timedelta(days=1))
    assert "has not come yet" in tally(run).void[0].reason


def test_a_decision_on_another_run_is_refused_where_it_was_moved_to(run, begin_run):
    file = run.sign()
    other = begin_run(name="forget-8.2").make()
    moved = other.workspace.approvals / other.name / file.name
    moved.parent.mkdir()
    moved.write_bytes(file.read_bytes())
    with pytest.raises(DoesNotVerify, match=r"it decides on run forget-8\.1"):
        decisions_of(other.workspace, other.name)


def test_nobody_signs_in_another_persons_name(run):
    file = run.sign("grace")
    (signed,) = decisions_of(run.workspace, run.name)
    create_key(run.workspace, "linus", ["reviewer"])
    forged = seal(signed.approval.model_copy(update={"person": "linus"}).to_bytes(), decisions.PAYLOAD_TYPE,
                  SigningKey.load(run.workspace, "grace"))
    file.with_name(f"{sha256_bytes(forged)}.json").write_bytes(forged)
    with pytest.raises(DoesNotVerify, match="grace signed in the name of linus"):
        decisions_of(run.workspace, run.name)


def test_a_decision_under_another_name_than_its_digest_is_refused(run):
    file = run.sign()
    file.rename(file.with_name("0" * 64 + ".json"))
    with pytest.raises(DoesNotVerify, match="does not go by its own digest"):
        decisions_of(run.workspace, run.name)


def test_the_token_is_a_function_of_verdict_approvals_and_time(run):
    run.gate()
    passed = read_record(Verdict, run.verdict)
    assert token(passed, tally(run)) == "waiting"
    run.sign("grace")
    assert token(passed, tally(run)) == "open"
    assert token(passed, tally(run, needed=2)) == "waiting"
    assert token(passed, tally(run, datetime.now(UTC) + timedelta(days=2))) == "waiting"
    for outcome in ("FAIL", "INCONCLUSIVE", "INVALID"):
        assert token(passed.model_copy(update={"outcome": outcome}), tally(run)) == "closed"
    run.sign("linus", "reject", "no")
    assert token(passed, tally(run)) == "closed"
