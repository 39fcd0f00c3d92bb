"""The gate as a room: verdict, token and refusals, on real files."""

import json

import pytest
from tests_support import write_policy

from expunge.contracts import Verdict, read_record, write_record
from expunge.digests import canonical_json, sha256_file
from expunge.errors import DoesNotVerify, Refused


def test_the_gate_waits_until_somebody_else_signs_and_then_opens(begin_run):
    run = begin_run().make()
    assert run.gate() == "waiting"
    run.sign()
    assert run.gate() == "open"
    verdict = read_record(Verdict, run.verdict)
    assert verdict.outcome == "PASS"
    assert verdict.report_sha256 == sha256_file(run.report / "record.json")
    assert verdict.policy_sha256 == sha256_file(run.policy_file)


def test_a_rejection_closes_the_gate_whoever_else_approved(begin_run):
    run = begin_run().make()
    run.sign("grace")
    run.sign("linus", "reject", "I still see eights")
    assert run.gate() == "closed"


def test_a_candidate_that_fails_its_policy_stays_shut_even_when_approved(begin_run):
    run = begin_run(residual=0.4).make()
    run.sign()
    assert run.gate() == "closed"
    assert read_record(Verdict, run.verdict).outcome == "FAIL"


def test_an_approval_is_void_once_the_policy_changed(begin_run):
    run = begin_run().make()
    run.sign()
    write_policy(run.workspace, "debug", run.policy_file.read_bytes() + b"# another day\n",
                 run_folder=run.policy_file.parent)
    assert run.gate() == "waiting"


def test_a_policy_that_nobody_signed_decides_nothing(begin_run):
    run = begin_run().make()
    run.policy_file.write_bytes(run.policy_file.read_bytes() + b"# another day\n")
    with pytest.raises(DoesNotVerify, match="'debug' does not ship with expunge and is not signed"):
        run.gate()


def test_a_policy_that_is_not_the_one_signed_decides_nothing(begin_run):
    run = begin_run().make()
    write_policy(run.workspace, "debug", run.policy_file.read_bytes() + b"# another day\n",
                 run_folder=run.policy_file.parent)
    run.policy_file.write_bytes(run.policy_file.read_bytes().replace(b"limit: 0.05", b"limit: 0.5 "))
    with pytest.raises(DoesNotVerify, match="the policy is not the one that was signed"):
        run.gate()


def test_the_requester_cannot_sign_the_rules_they_are_judged_by(begin_run):
    run = begin_run().make()
    write_policy(run.workspace, "debug", run.policy_file.read_bytes() + b"# another day\n", admin=run.request.requester,
                 run_folder=run.policy_file.parent)
    with pytest.raises(Refused, match="'debug' is signed by ada, who made this request"):
        run.gate()


def test_the_gate_reads_a_policy_whatever_its_file_is_called(begin_run, tmp_path):
    run = begin_run().make()
    run.policy_file.rename(tmp_path / "policy")
    run.policy_file = tmp_path / "policy"
    assert run.gate() == "waiting"


@pytest.mark.parametrize(("change", "named"), [
    ({"candidate_sha256": "a" * 64}, "report: it measured the candidate"),
    ({"request_sha256": "a" * 64}, "report: it answers the request"),
    ({"parent_sha256": "a" * 64}, "report: it compares with the parent"),
    ({"latent_seed": "a" * 64}, "report: it drew its latents"),
    ({"unwanted": [3]}, "report: unwanted"),
])
def test_the_gate_refuses_a_report_on_something_else(begin_run, change, named):
    run = begin_run().make()
    file = run.report / "record.json"
    changed = json.loads(file.read_bytes()) | change
    file.unlink()  # it is a link to the kept result
    file.write_bytes(canonical_json(changed))
    with pytest.raises(DoesNotVerify, match=named):
        run.gate()


def test_the_gate_refuses_weights_that_are_not_the_candidates(begin_run):
    run = begin_run().make()
    (run.candidate / "model.safetensors").unlink()
    (run.candidate / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(DoesNotVerify, match="candidate: its weights"):
        run.gate()


def test_the_gate_refuses_scores_that_are_not_the_reports(begin_run):
    run = begin_run().make()
    (run.report / "scores.csv").unlink()
    with pytest.raises(DoesNotVerify, match=r"scores.csv is missing"):
        run.gate()


def test_the_gate_refuses_another_method_than_the_request_names(begin_run):
    run = begin_run()
    method = run.request.method.model_copy(update={"name": "retrain"})
    run.make()
    write_record(run.request_file, run.request.model_copy(update={"method": method}))
    with pytest.raises(DoesNotVerify):
        run.gate()


def test_the_gate_refuses_another_policy_than_the_request_names(begin_run):
    run = begin_run().make()
    run.policy_file = run.workspace.policies / "standard.yaml"
    with pytest.raises(DoesNotVerify, match="policy: the one at hand is standard, not debug"):
        run.gate()


def test_a_decision_that_was_tampered_with_stops_the_gate_for_it_may_have_been_a_rejection(begin_run):
    run = begin_run().make()
    file = run.sign("linus", "reject", "no")
    file.write_bytes(file.read_bytes().replace(b"a", b"b", 1))
    with pytest.raises(DoesNotVerify, match=file.name):
        run.gate()


@pytest.mark.parametrize("spoiled", [b"{", b"[]", None])
def test_evidence_that_can_no_longer_be_read_does_not_verify_in_one_line(begin_run, spoiled):
    run = begin_run().make()
    for file in (run.request_file, run.candidate / "record.json", run.report / "record.json", run.policy_file):
        data = file.read_bytes()
        file.unlink()
        if spoiled is not None:
            file.write_bytes(spoiled)
        with pytest.raises(DoesNotVerify, match=f"{file.stem if file.stem != 'record' else file.parent.name}.*: ") as it:
            run.gate()
        assert len(str(it.value).splitlines()) == 1
        assert it.value.remedy
        file.unlink(missing_ok=True)
        file.write_bytes(data)
    assert run.gate() == "waiting"
