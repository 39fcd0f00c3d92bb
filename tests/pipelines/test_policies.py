"""Whose rules a run is judged by: shipped policies, signed ones, and what happens to the rest."""

import base64
import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests_support import blocks, typed, write_policy

from expunge.contracts import (
    ClassifierSource,
    DataSource,
    Forget,
    ParentSource,
    Policy,
    Request,
    Rule,
    parse_record,
)
from expunge.digests import canonical_json, sha256_bytes
from expunge.errors import BadInput, DoesNotVerify, Refused, by_name
from expunge.evidence import policies
from expunge.evidence.envelopes import seal
from expunge.evidence.key_changes import revoke
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey, create_key
from expunge.evidence.verify import verify_workspace
from expunge.measure import words
from expunge.measure.policy import ever_shipped, preset, preset_bytes, preset_names, rules_for
from expunge.runs import Run
from expunge.settings import Workspace
from pipelines.workspace import initialise

MILD = preset_bytes("debug").replace(b"name: debug", b"name: mild").replace(b"limit: 0.05", b"limit: 0.2")


def request_for(policy, requester="ada"):
    builtin = "builtin://digits/dcgan"
    return Request(
        id="forget-8", requester=requester, reason="safety", model="digits", policy=policy,
        checkpoint=ParentSource(uri=builtin), oracle=ClassifierSource(uri=builtin),
        judge=ClassifierSource(uri=builtin), holdout=DataSource(uri="builtin://digits/holdout"), forget=Forget(classes=(8,)))


def begin(workspace, policy="mild", requester="ada"):
    return Run.create(workspace, request_for(policy, requester), [], "2026-01-01T00:00:00+00:00")


@pytest.mark.parametrize("name", preset_names())
def test_a_shipped_policy_needs_no_signature(workspace, name):
    run = begin(workspace, name)
    assert run.policy_file.read_bytes() == preset_bytes(name)
    assert not policies.signature_file(run.policy_file).exists()


def test_a_policy_of_ones_own_counts_once_an_admin_signed_it_and_the_signature_travels_with_the_run(workspace):
    file = write_policy(workspace, "mild", MILD)
    run = begin(workspace)
    assert run.policy_file.read_bytes() == MILD
    assert policies.signature_beside(run.policy_file) == policies.signature_beside(file)
    assert policies.signer_of(MILD, policies.signature_beside(run.policy_file), Keyring.load(workspace)) == "olga"


def test_an_unsigned_policy_is_refused_with_the_way_to_sign_it(workspace):
    (workspace.policies / "mild.yaml").write_bytes(MILD)
    with pytest.raises(BadInput, match=r"'mild' does not ship .* not signed: an admin other than ada must sign it: "
                                       r"expunge policies sign mild --as ADMIN"):
        begin(workspace)
    assert not Run.all(workspace)


EARLIER = (Path(__file__).parent / "debug-of-an-earlier-expunge.yaml").read_bytes()


def test_whatever_ships_today_is_on_the_list_of_what_ever_shipped():
    assert {sha256_bytes(preset_bytes(name)) for name in preset_names()} <= ever_shipped()


def test_what_an_earlier_expunge_shipped_judges_no_new_run_and_init_brings_todays(workspace):
    file = workspace.policies / "debug.yaml"
    file.write_bytes(EARLIER)
    with pytest.raises(BadInput, match=r"'debug' shipped with an earlier expunge.* 'expunge init' for today's"):
        begin(workspace, "debug")
    initialise(workspace)
    assert file.read_bytes() == preset_bytes("debug")
    begin(workspace, "debug")


def test_init_leaves_alone_what_an_admin_signed_and_what_is_ones_own(workspace):
    signed, own = write_policy(workspace, "debug", EARLIER), workspace.policies / "standard.yaml"
    own.write_bytes(MILD)
    initialise(workspace)
    assert (signed.read_bytes(), own.read_bytes()) == (EARLIER, MILD)


def test_a_run_that_was_begun_under_an_earlier_expunge_is_judged_and_verified_by_its_policy(workspace):
    run = begin(workspace, "debug")
    run.policy_file.write_bytes(EARLIER)
    policies.require_for_run(workspace, run.name, "debug", EARLIER, "ada")
    run.policy_file.write_bytes(EARLIER + b"# more\n")
    with pytest.raises(DoesNotVerify, match="does not ship"):
        policies.require_for_run(workspace, run.name, "debug", EARLIER + b"# more\n", "ada")


def test_a_shipped_policy_that_was_changed_needs_a_signature(workspace):
    file = workspace.policies / "standard.yaml"
    file.write_bytes(file.read_bytes().replace(b"limit: 0.01", b"limit: 0.1"))
    with pytest.raises(BadInput, match="'standard' does not ship"):
        begin(workspace, "standard")


def test_a_policy_under_anothers_name_is_none(workspace):
    (workspace.policies / "mild.yaml").write_bytes(preset_bytes("debug"))
    with pytest.raises(BadInput, match=r"mild\.yaml calls itself 'debug'"):
        begin(workspace)


def test_the_requesters_own_signature_does_not_count_for_their_request_but_for_others(workspace):
    write_policy(workspace, "mild", MILD, admin="ada")
    with pytest.raises(Refused, match="'mild' is signed by ada, who made this request"):
        begin(workspace)
    with pytest.raises(Refused):
        begin(workspace, requester="Ada")
    assert begin(workspace, requester="bob").policy_file.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), of_the_policy=st.booleans())
def test_one_flipped_bit_in_policy_or_signature_is_noticed(workspace, place, bit, of_the_policy):
    file = write_policy(workspace, "mild", MILD)
    policy, signature = MILD, policies.signature_beside(file)
    spoiled = bytearray(policy if of_the_policy else signature)
    spoiled[int(place * len(spoiled))] ^= 1 << bit
    with pytest.raises(DoesNotVerify, match="signature of 'mild' does not verify"):
        policies.require_standing("mild", bytes(spoiled) if of_the_policy else policy,
                                  signature if of_the_policy else bytes(spoiled), Keyring.load(workspace), "ada")


def test_a_signature_by_somebody_who_is_no_admin_or_by_a_stranger_does_not_verify(workspace, tmp_path):
    elsewhere = Workspace(tmp_path / "elsewhere")
    create_key(elsewhere, OPERATOR, ["operator"])
    for place in (workspace, elsewhere):
        create_key(place, "grace", ["reviewer"])
    file = write_policy(workspace, "mild", MILD)
    payload = base64.b64decode(json.loads(policies.signature_beside(file))["payload"])
    for place, why in ((workspace, "grace signed in the name of olga"), (elsewhere, "in nobody's name")):
        forged = seal(payload, policies.PAYLOAD_TYPE, SigningKey.load(place, "grace"))
        with pytest.raises(DoesNotVerify, match=why):
            policies.require_standing("mild", MILD, forged, Keyring.load(workspace), "ada")
    own = json.loads(payload) | {"person": "grace"}
    forged = seal(json.dumps(own).encode(), policies.PAYLOAD_TYPE, SigningKey.load(workspace, "grace"))
    with pytest.raises(DoesNotVerify, match="signed by grace, who is not admin"):
        policies.require_standing("mild", MILD, forged, Keyring.load(workspace), "ada")


def test_what_an_admin_signed_counts_after_their_key_ended_and_what_it_signs_then_does_not(workspace):
    file = write_policy(workspace, "mild", MILD)
    old = SigningKey.load(workspace, "olga")
    create_key(workspace, "peter", ["admin"], by="olga")
    revoke(workspace, "olga", by="peter", reason="left")
    assert begin(workspace).policy_file.exists()
    signed = json.loads(base64.b64decode(json.loads(policies.signature_beside(file))["payload"]))
    again = {**signed, "signed_at": "2026-01-01T00:00:00+00:00"}
    policies.signature_file(file).write_bytes(seal(canonical_json(again), policies.PAYLOAD_TYPE, old))
    with pytest.raises(DoesNotVerify, match=r"olga's key [0-9a-f]+ was revoked \(left\) and does not count"):
        begin(workspace)


def test_only_an_admin_signs_and_only_what_can_be_read_under_its_own_name(workspace):
    create_key(workspace, "grace", ["reviewer"])
    create_key(workspace, "olga", ["admin"])
    with pytest.raises(BadInput, match="'mild' is not known"):
        policies.sign(workspace, "mild", "olga")
    file = workspace.policies / "mild.yaml"
    file.write_bytes(MILD)
    with pytest.raises(Refused, match="grace is reviewer, not admin"):
        policies.sign(workspace, "mild", "grace")
    file.write_bytes(preset_bytes("debug"))
    with pytest.raises(BadInput, match="name is 'debug'"):
        policies.sign(workspace, "mild", "olga")
    file.write_bytes(b"rules: [")
    with pytest.raises(BadInput, match="policy mild: not a readable document"):
        policies.sign(workspace, "mild", "olga")
    assert not policies.signature_file(file).exists()


# ------------------------------------------------------------------------------------------- the audit


def what_is_wrong(workspace):
    return {found.object: found.message for found in verify_workspace(workspace) if not found.ok}


def test_the_audit_names_a_run_by_rules_that_nobody_vouches_for(begin_run):
    run = begin_run()
    folder = run.policy_file.parent
    write_policy(run.workspace, "debug", run.policy_file.read_bytes() + b"# ours\n", run_folder=folder)
    run.release()
    assert what_is_wrong(run.workspace) == {}
    (folder / "policy.signature.json").unlink()
    assert what_is_wrong(run.workspace) == {
        f"runs/{run.name}/policy.yaml": "'debug' does not ship with expunge and is not signed"}


def test_the_audit_names_a_run_by_rules_that_its_requester_signed(begin_run):
    run = begin_run()
    folder = run.policy_file.parent
    ours = run.policy_file.read_bytes() + b"# ours\n"
    write_policy(run.workspace, "debug", ours, run_folder=folder)
    run.release()
    write_policy(run.workspace, "debug", ours, admin="ada", run_folder=folder)
    assert what_is_wrong(run.workspace) == {
        f"runs/{run.name}/policy.yaml": "'debug' is signed by ada, who made this request"}


# ------------------------------------------------------------------------------------------- the verbs


@pytest.fixture
def say(workspace, capsys):
    """Carries out a command line in this process: exit code, standard output, standard error."""

    def carry_out(*arguments):
        from pipelines.cli import carry_out

        code = carry_out([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return carry_out


def standings(say):
    return {line["name"]: line["standing"] for line in json.loads(say("policies", "list", "--json")[1])}


def test_the_verbs_say_whose_each_policy_is_and_let_an_admin_sign(workspace, say):
    shipped = dict.fromkeys(preset_names(), "shipped")
    assert standings(say) == shipped
    (workspace.policies / "mild.yaml").write_bytes(MILD)
    assert "mild  unsigned" in say("policies", "list")[1]
    assert say("policies", "sign", "mild", "--as", "olga")[0] == 2
    say("keys", "new", "grace", "--role", "reviewer")
    code, _, error = say("policies", "sign", "mild", "--as", "grace")
    assert (code, len(error.splitlines())) == (41, 1)
    say("keys", "new", "olga", "--role", "admin")
    code, out, _ = say("policies", "sign", "mild", "--as", "olga", "--json")
    assert code == 0
    assert (json.loads(out)["standing"], json.loads(out)["signed_by"]) == ("signed", "olga")
    assert "mild  signed by olga; for classifier, flow, gan" in say("policies", "list")[1]
    (workspace.policies / "mild.yaml").write_bytes(MILD + b"#\n")
    (workspace.policies / "torn.yaml").write_bytes(b"rules: [")
    assert standings(say) == {**shipped, "mild": "does not verify", "torn": "unreadable"}


@pytest.mark.parametrize(("make", "code", "said"), [
    (lambda workspace: (workspace.policies / "mild.yaml").write_bytes(MILD), 2, "is not signed"),
    (lambda workspace: write_policy(workspace, "mild", MILD).write_bytes(MILD + b"#\n"), 40, "does not verify"),
    (lambda workspace: write_policy(workspace, "mild", MILD, admin="ada"), 41, "signed by ada, who made this request"),
])
def test_a_run_by_rules_that_nobody_vouches_for_ends_in_one_line(workspace, tmp_path, say, make, code, said):
    make(workspace)
    (tmp_path / "request.json").write_bytes(request_for("mild").to_bytes())
    for arguments in (("run", tmp_path / "request.json"), ("run", tmp_path / "request.json", "--plan")):
        ended, _, error = say(*arguments)
        assert ended == code, error
        assert said in error
        assert "expunge policies sign mild --as ADMIN" in error
        assert len(error.splitlines()) == 1
    assert not workspace.runs.exists()


# ------------------------------------------------------------------------------------------- the page

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()


def test_the_policy_on_the_page_is_one_and_every_field_of_it_is_explained():
    explained, = blocks(PAGE, "yaml")
    policy = parse_record(Policy, yaml.safe_load(explained), "docs")
    assert yaml.safe_load(explained).keys() == policy.model_dump(by_alias=True).keys()
    assert {name for rule in yaml.safe_load(explained)["rules"] for name in rule} == set(Rule.model_fields)


def test_the_page_says_what_every_rule_of_a_shipped_policy_means():
    explained = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    for name in preset_names():
        assert name in explained
        for rule in preset(name).rules:
            assert rule.metric in explained, rule.metric
            assert words.find(rule.metric), rule.metric


def test_the_exit_codes_on_the_page_are_those_of_the_errors():
    said = dict(re.findall(r"^\| (INVALID|FAIL|INCONCLUSIVE) \|.*\| (\d+) \|$", PAGE, re.MULTILINE))
    errors = by_name()
    assert said == {"INVALID": str(errors["Invalid"].exit_code), "FAIL": str(errors["Failed"].exit_code),
                    "INCONCLUSIVE": str(errors["Inconclusive"].exit_code)}
    assert [int(code) for code in re.findall(r"^\| [a-z].*\| (\d+) \|$", PAGE, re.MULTILINE)] == [
        errors[name].exit_code for name in ("BadInput", "DoesNotVerify", "Refused")]


@pytest.mark.slow
def test_the_page_can_be_followed_line_by_line(tmp_path, expunge):
    *_, said = typed(blocks(PAGE, "bash"), tmp_path)
    assert "ours  signed by olga" in said
    ours = yaml.safe_load((tmp_path / ".expunge" / "policies" / "ours.yaml").read_text())
    assert ours["rules"][0]["limit"] == 0.02


# ------------------------------------------------------------------------------------------- the plan


def planned(workspace, policy, **sampling):
    from pipelines import planning

    asked = request_for(policy)
    asked = asked.model_copy(update={"sampling": asked.sampling.model_copy(update=sampling)})
    return planning.plan(workspace, asked, asked)


def test_the_plan_asks_the_rules_for_the_models_family_only(workspace):
    assert {rule.metric for rule in planned(workspace, "standard").samples.rules} == {
        rule.metric for rule in rules_for(preset("standard"), "gan")}


def test_the_plan_of_a_second_request_asks_for_what_came_before_and_says_what_is_lacking(workspace):
    from pipelines import planning

    asked = request_for("standard")
    asked = asked.model_copy(update={"forget": Forget(classes=(3,), earlier=(8,))})
    found = planning.plan(workspace, asked, asked)
    rules = {rule.metric: rule for rule in found.samples.rules}
    assert found.earlier == (8,)
    assert rules["residual_rate_earlier"].samples == rules["residual_rate"].samples
    assert rules["drift"].can_pass is False
    assert "names no origin" in rules["drift"].note


def test_the_plan_says_that_strict_needs_a_reference(workspace):
    found = planned(workspace, "strict")
    taught = next(rule for rule in found.samples.rules if rule.metric == "relearning_ratio")
    assert taught.can_pass is False
    assert "the request names no reference" in taught.note
    assert found.samples.can_pass is False
    assert any("cannot pass 'strict'" in warning for warning in found.warnings)


def test_the_plan_counts_the_starts_of_the_search_and_what_stopping_early_costs(workspace):
    def rule(metric, **sampling):
        policy = "strict" if metric == "search_rate" else "standard"
        return next(one for one in planned(workspace, policy, **sampling).samples.rules if one.metric == metric)

    assert rule("search_rate").remaining == 1
    assert rule("search_rate", search=50).can_pass is False
    assert "sampling.search" in rule("search_rate", search=0).note
    assert rule("residual_rate", sequential=True).samples > rule("residual_rate").samples == 368
