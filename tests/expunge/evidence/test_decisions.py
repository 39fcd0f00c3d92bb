"""Decisions: who may sign, what counts, what it opens."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests_support import key_for

from expunge.contracts import Approval, Report, Verdict, read_record
from expunge.digests import canonical_json, sha256_bytes
from expunge.errors import BadInput, DoesNotVerify, Refused
from expunge.evidence import decisions
from expunge.evidence.coherence import read_policy
from expunge.evidence.decisions import Subject, count_valid, decisions_of, token
from expunge.evidence.envelopes import seal
from expunge.evidence.key_changes import revoke, rotate
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey, create_key
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import KeyringPredicate, Statement, sign_statement
from expunge.measure.policy import decide


@pytest.fixture
def run(begin_run):
    return begin_run().make()


def verdict_of(run):
    return decide(read_record(Report, run.report), read_policy(run.policy_file), report_sha256="a" * 64,
                  policy_sha256="b" * 64)


def tally(run, now=None, needed=1, found=None, **changed):
    subject = Subject.of(**run.evidence).model_copy(update=changed)
    policy = read_policy(run.policy_file).model_copy(update={"approvals": needed})
    return count_valid(decisions_of(run.workspace, run.name) if found is None else found, subject, policy,
                       run.request.requester, now or datetime.now(UTC), verdict_of(run))


def why_void(run, **more):
    (void,) = tally(run, **more).void
    return void.reason


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
    signed, = decisions_of(run.workspace, run.name)
    found = tally(run, found=[replace(signed, signer=signed.signer.model_copy(update={"roles": ("requester",)}))])
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


# ------------------------------------------------------------------------------- each refused with its reason


def by_hand(run, person="grace", key=None, /, **changed):
    """Somebody's envelope, made without asking `decide`, in the place where decisions lie; it is not entered."""
    subject = Subject.of(**run.evidence)
    now = datetime.now(UTC)
    said = Approval(**{
        **subject.model_dump(), "run": run.name, "person": person, "decision": "approve", "reason_sha256": "f" * 64,
        "decided_at": now.isoformat(), "not_after": (now + timedelta(days=1)).isoformat(), "nonce": "0" * 32, **changed})
    envelope = seal(said.to_bytes(), decisions.PAYLOAD_TYPE, key or SigningKey.load(run.workspace, person))
    file = run.workspace.approvals / run.name / f"{sha256_bytes(envelope)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(envelope)
    return file


@pytest.fixture
def grace(run):
    create_key(run.workspace, "grace", ["reviewer"])
    return SigningKey.load(run.workspace, "grace")


def test_a_decision_by_hand_counts_as_one_by_the_command_does(run, grace):
    by_hand(run)
    assert tally(run).approved_by == ("grace",)


@pytest.mark.parametrize("wrong", [timedelta(days=1), timedelta(minutes=6)])
def test_a_clock_that_is_ahead_is_refused(run, grace, wrong):
    ahead = (datetime.now(UTC) + wrong).isoformat()
    by_hand(run, decided_at=ahead, not_after=(datetime.now(UTC) + timedelta(days=9)).isoformat())
    assert why_void(run) == f"it is dated {ahead}, which has not come yet"
    assert tally(run, datetime.now(UTC) + wrong).approved_by == ("grace",)


def test_a_clock_that_is_behind_shortens_how_long_it_holds(run, grace):
    behind = datetime.now(UTC) - timedelta(days=1, minutes=1)
    by_hand(run, decided_at=behind.isoformat())  # the policy lets it hold for a day
    assert why_void(run).startswith("it ran out on")


def test_the_same_envelope_again_counts_once(run, grace):
    file = by_hand(run)
    (found,) = decisions_of(run.workspace, run.name)
    again = tally(run, found=(found, found), needed=2)
    assert again.approved_by == ("grace",)
    assert [void.reason for void in again.void] == ["grace has decided so already, and counts once"]
    file.with_name("1" * 64 + ".json").write_bytes(file.read_bytes())
    with pytest.raises(DoesNotVerify, match="does not go by its own digest"):
        decisions_of(run.workspace, run.name)


def test_the_same_person_again_counts_once(run, grace):
    by_hand(run)
    by_hand(run, nonce="1" * 32)
    assert (tally(run, needed=2).approved_by, why_void(run)) == (
        ("grace",), "grace has decided so already, and counts once")


@pytest.mark.parametrize("other", ["GRACE", "ｇｒａｃｅ"])
def test_one_person_with_two_keys_counts_once(run, grace, other):
    create_key(run.workspace, other, ["reviewer"])
    assert len(Keyring.load(run.workspace).entries) == 3
    by_hand(run)
    by_hand(run, other)
    found = tally(run, needed=2)
    assert len(found.approved_by) == 1
    assert found.void[0].reason.endswith("has decided so already, and counts once")


def test_one_person_with_a_rotated_and_a_new_key_counts_once(run, grace):
    by_hand(run)
    rotate(run.workspace, "grace")  # which enters what the old one signed
    by_hand(run, nonce="1" * 32)
    found = tally(run, needed=2)
    assert (found.approved_by, found.void[0].reason) == (("grace",), "grace has decided so already, and counts once")


def test_a_decision_by_a_revoked_key_is_refused_whatever_date_it_bears(run, grace):
    revoke(run.workspace, "grace", reason="stolen laptop")
    by_hand(run, "grace", grace, decided_at=(datetime.now(UTC) - timedelta(hours=1)).isoformat())
    assert why_void(run) == (f"grace's key {grace.key_id[:12]} was revoked (stolen laptop) and does not count from "
                             f"ledger position {Ledger.open(run.workspace).size} on")
    by_hand(run, "grace", grace, decision="reject")
    assert tally(run).rejected_by == ()


def test_a_decision_by_a_rotated_key_is_refused_and_one_entered_before_counts(run, grace):
    file = by_hand(run)
    rotate(run.workspace, "grace")
    assert tally(run).approved_by == ("grace",)
    file.unlink()
    by_hand(run, "grace", grace, nonce="2" * 32)
    assert f"grace's key {grace.key_id[:12]} was rotated and does not count" in why_void(run)


def test_a_signature_from_before_a_revocation_that_was_not_entered_is_worth_nothing(run, grace):
    file = by_hand(run)
    assert tally(run).approved_by == ("grace",)
    revoke(run.workspace, "grace", reason="left")
    assert "was revoked (left)" in why_void(run)
    Ledger.open(run.workspace).append(file.read_bytes())
    assert "was revoked (left)" in why_void(run)


def test_a_decision_entered_before_its_key_was_revoked_stays_one(run, grace):
    Ledger.open(run.workspace).append(by_hand(run).read_bytes())
    revoke(run.workspace, "grace", reason="left")
    assert tally(run).approved_by == ("grace",)


@pytest.mark.parametrize("role", ["requester", "operator", "admin"])
def test_a_key_of_the_wrong_role_is_refused(run, role):
    create_key(run.workspace, "eve", [role])
    by_hand(run, "eve")
    assert why_void(run) == "the key is no reviewer's"


def test_a_decision_for_another_run_is_refused(run, grace):
    by_hand(run, run="forget-8.7")
    with pytest.raises(DoesNotVerify, match=r"it decides on run forget-8\.7"):
        tally(run)


def test_a_decision_for_another_candidate_is_refused(run, grace):
    by_hand(run, candidate_sha256="e" * 64)
    assert why_void(run) == "it names another candidate"


# --------------------------------------------------------------------------------------------------- waivers


@pytest.fixture
def undecided(begin_run):
    """A run of which one rule is INCONCLUSIVE."""
    run = begin_run(residual=0.04).make()
    assert decisions.inconclusive(verdict_of(run)) == ("residual_rate",)
    return run


def token_of(run, **more):
    return token(verdict_of(run), tally(run, **more))


def test_an_inconclusive_verdict_is_released_by_two_people_who_name_the_rule(undecided):
    undecided.sign("grace", waives=["residual_rate"])
    assert (tally(undecided).needed, token_of(undecided)) == (2, "closed")
    undecided.sign("linus", waives=["residual_rate"])
    found = tally(undecided)
    assert set(found.approved_by) == {"grace", "linus"}
    assert (found.waived, token_of(undecided)) == (("residual_rate",), "open")
    assert token_of(undecided, needed=3) == "closed", "the policy may ask for more"


@pytest.mark.parametrize(("waives", "why"), [
    ((), "residual_rate is INCONCLUSIVE, and it does not waive that"),
    (("pul",), "it waives pul, which is not INCONCLUSIVE"),
    (("residual_rate", "pul"), "it waives pul, which is not INCONCLUSIVE"),
    (("real images",), "it waives real images, which is not INCONCLUSIVE"),
])
def test_a_waiver_that_does_not_name_what_is_inconclusive_and_only_that_is_void(undecided, waives, why):
    undecided.sign("grace", waives=["residual_rate"])
    undecided.sign("linus", waives=waives)
    assert (why_void(undecided), token_of(undecided)) == (why, "closed")


def test_the_requester_does_not_waive_and_one_person_with_two_keys_is_one(undecided):
    undecided.sign("grace", waives=["residual_rate"])
    create_key(undecided.workspace, "GRACE", ["reviewer"])
    by_hand(undecided, "GRACE", waives=("residual_rate",))
    create_key(undecided.workspace, "ada", ["reviewer"])
    by_hand(undecided, "ada", waives=("residual_rate",))
    assert (tally(undecided).approved_by, token_of(undecided)) == (("grace",), "closed")


def test_a_rejection_closes_what_two_have_waived(undecided):
    undecided.sign("grace", waives=["residual_rate"])
    undecided.sign("linus", waives=["residual_rate"])
    undecided.sign("mary", "reject", "not with my name")
    assert token_of(undecided) == "closed"


def test_what_passed_cannot_be_waived_nor_what_failed_or_cannot_be_trusted(run, begin_run):
    run.sign("grace", waives=["residual_rate"])
    assert why_void(run) == "it waives residual_rate, which is not INCONCLUSIVE"
    failed = begin_run(name="forget-9.1", request_id="forget-9", residual=0.4).make()
    for person in ("grace", "linus"):
        failed.sign(person, waives=["residual_rate"])
    assert (len(tally(failed).void), token_of(failed)) == (2, "closed")
    broken = verdict_of(failed).model_copy(update={"outcome": "INVALID"})
    assert decisions.inconclusive(broken) == ()
    assert token(broken, tally(failed)) == "closed"


# ------------------------------------------------------------------------------------- the keyring's history


@pytest.mark.parametrize("spoil", [
    lambda entries: entries[-1].update(created_at="2020-01-01T00:00:00+00:00"),
    lambda entries: entries[-1].update(valid_from=entries[-1]["valid_from"] - 1),
    lambda entries: entries[-1].update(roles=["reviewer", "admin"]),
    lambda entries: entries[1].update(person="adam"),
    lambda entries: [entries[1].pop(name) for name in ("valid_until", "ended", "ended_because")],
    lambda entries: entries.append({**entries[1], "key_id": sha256_bytes(bytes(32)), "public_key": "00" * 32,
                                    "person": "mallory", "valid_from": 0}),
], ids=["a date", "a position", "a role", "a name", "an end taken back", "a key slipped in"])
def test_a_keyring_that_the_ledger_does_not_give_opens_nothing(run, spoil):
    key_for(run.workspace, "linus", "reviewer")
    run.sign("grace")
    revoke(run.workspace, "linus", reason="left")
    key_for(run.workspace, "barbara", "reviewer")
    assert run.gate() == "open"
    good = run.workspace.keyring.read_bytes()
    data = json.loads(good)
    spoil(data["entries"])
    run.workspace.keyring.write_bytes(canonical_json(data))
    for enters in (run.gate, run.deploy, lambda: decisions_of(run.workspace, run.name)):
        with pytest.raises(DoesNotVerify, match=r"^keyring\.json: "):
            enters()
    run.workspace.keyring.write_bytes(good)
    run.deploy()


def test_a_keyring_put_back_as_it_was_once_opens_nothing(run):
    run.sign("grace")
    earlier = run.workspace.keyring.read_bytes()
    revoke(run.workspace, "grace", reason="it was stolen")
    run.workspace.keyring.write_bytes(earlier)
    with pytest.raises(DoesNotVerify, match=r"keyring\.json: not the keyring that its last change made"):
        run.gate()


def test_what_the_operator_enters_in_an_admins_place_opens_nothing(run):
    """Two statements, of which the second is signed by whom the first made an admin: the first is looked at as well."""
    key_for(run.workspace, "olga", "admin")
    run.sign("grace")
    ledger = Ledger.open(run.workspace)
    keyring, position = Keyring.load(run.workspace), ledger.size
    forged = keyring.entries[0].model_copy(update={"person": "mallory", "roles": ("admin", "reviewer"), "public_key": "00" * 32,
                                                   "key_id": sha256_bytes(bytes(32)), "valid_from": position + 1})
    after = Keyring(entries=(*keyring.entries, forged)).to_bytes()
    said = KeyringPredicate(change="entered", person="mallory", roles=forged.roles, key_id=forged.key_id, position=position,
                            by="operator", reason="", at="2026-01-01T00:00:00+00:00")
    ledger.append(sign_statement(Statement.over({"keyring.json": sha256_bytes(after)}, said),
                                 SigningKey.load(run.workspace, OPERATOR)))
    run.workspace.keyring.write_bytes(after)
    with pytest.raises(DoesNotVerify, match=r"keyring\.json: operator is operator, not admin"):
        run.gate()
