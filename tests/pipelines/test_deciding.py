"""The gate as people meet it: who may open it, and what closes it."""

import json

from tests_support import write_policy

from expunge.evidence.ledger import Ledger


def approve(expunge, folder, person, decision="approve"):
    return expunge(folder, decision, "forget-8", "--as", person, "--reason", "looked at it")


def test_a_run_awaits_approval_and_says_what_comes_next(waiting, expunge):
    shown = expunge(waiting, "status", "forget-8")
    assert "awaiting approval" in shown.out
    assert "expunge approve forget-8.1 --as REVIEWER" in shown.out


def test_running_a_decided_request_again_does_nothing_twice(waiting, expunge, workspace_of):
    before = Ledger.open(workspace_of(waiting)).size
    again = expunge(waiting, "run", "request.yaml")
    assert again.code == 10
    assert Ledger.open(workspace_of(waiting)).size == before


def test_without_a_signature_nothing_is_released(waiting, expunge):
    released = expunge(waiting, "release", "forget-8", "--json")
    assert released.code == 10
    assert released.json["state"] == "awaiting_approval"
    assert not (waiting / ".expunge" / "releases").exists()


def test_the_requester_may_not_approve_even_with_a_reviewers_key(waiting, expunge):
    refused = approve(expunge, waiting, "ada")
    assert refused.code == 41
    assert refused.err == "expunge: approve: ada made this request: somebody else must sign\n"
    assert expunge(waiting, "release", "forget-8").code == 10


def test_a_second_persons_signature_opens_the_gate(waiting, expunge):
    assert approve(expunge, waiting, "grace").code == 0
    assert expunge(waiting, "status", "forget-8", "--json").json["state"] == "approved"
    released = expunge(waiting, "release", "forget-8", "--json")
    assert released.code == 0, released.err
    assert released.json["approval"]["by"] == "grace"
    assert (waiting / ".expunge" / "releases" / "digits" / "current" / "model.safetensors").exists()
    assert expunge(waiting, "audit", "verify").code == 0
    assert expunge(waiting, "release", "forget-8").code == 0, "a second release of the same thing is harmless"


def test_a_rejection_closes_the_gate_for_good(waiting, expunge):
    assert approve(expunge, waiting, "grace", "reject").code == 0
    assert expunge(waiting, "release", "forget-8").code == 2
    assert expunge(waiting, "status", "forget-8", "--json").json["state"] == "rejected"
    assert approve(expunge, waiting, "grace").code == 2
    assert expunge(waiting, "audit", "verify").code == 0


def test_an_approval_is_void_once_the_approved_bytes_have_changed(waiting, expunge):
    assert approve(expunge, waiting, "grace").code == 0
    weights, = waiting.glob(".expunge/results/unlearn-*/candidate/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    released = expunge(waiting, "release", "forget-8")
    assert released.code == 40
    assert "candidate: its weights are" in released.err
    assert not list((waiting / ".expunge").glob("releases/*/current"))


def test_a_policy_changed_after_the_run_does_not_verify(waiting, expunge):
    assert approve(expunge, waiting, "grace").code == 0
    policy, = waiting.glob(".expunge/runs/*/policy.yaml")
    policy.write_text(policy.read_text() + "\n# softer\n")
    released = expunge(waiting, "release", "forget-8")
    assert released.code == 40, released.out
    assert "'debug' does not ship with expunge and is not signed" in released.err


def test_a_policy_changed_after_the_run_and_signed_opens_nothing(waiting, expunge, workspace_of):
    assert approve(expunge, waiting, "grace").code == 0
    policy, = waiting.glob(".expunge/runs/*/policy.yaml")
    write_policy(workspace_of(waiting), "debug", policy.read_bytes() + b"\n# softer\n", run_folder=policy.parent)
    released = expunge(waiting, "release", "forget-8", "--json")
    assert released.code == 10, released.out
    log, = waiting.glob(".expunge/runs/*/events.jsonl")
    assert "grace's decision to approve does not count: it names another policy" in log.read_text()


def test_withdrawing_takes_the_model_out_of_service_and_rollback_never_serves_the_parent(waiting, expunge):
    approve(expunge, waiting, "grace")
    assert expunge(waiting, "release", "forget-8").code == 0
    back = expunge(waiting, "rollback", "digits", "--as", "grace", "--reason", "a complaint", "--json")
    assert back.code == 0
    assert json.loads(back.out)["now"] is None
    assert "tainted by request forget-8" in json.loads(back.out)["text"]
    assert not (waiting / ".expunge" / "releases" / "digits" / "current").exists()
    assert expunge(waiting, "status", "forget-8", "--json").json["state"] == "withdrawn"
    assert expunge(waiting, "withdraw", "digits", "--as", "grace", "--reason", "x").code == 2
    assert expunge(waiting, "audit", "verify").code == 0
