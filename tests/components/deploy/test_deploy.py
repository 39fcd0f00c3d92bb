"""Deploy as a room: what it refuses whatever led there, and what it leaves behind."""

import json

import pytest
from tests_support import write_policy

from components.deploy import step
from expunge import serving
from expunge.configuration import CONFIG_FILE
from expunge.contracts import Verdict, read_record, write_record
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import DoesNotVerify, NotServed, Refused
from expunge.evidence.verify import verify_workspace
from expunge.live import live
from expunge.stores import releases, taint


def events(run):
    return [json.loads(line) for line in (run.workspace.runs / run.name / "events.jsonl").read_text().splitlines()]


def test_an_approved_candidate_goes_into_service_and_its_parent_is_marked(begin_run):
    run = begin_run().release()
    served = run.workspace.releases / "digits" / "current"
    assert (served / "model.safetensors").read_bytes() == run.weights
    assert (served / "release.json").read_bytes() == (run.outputs / "release" / "record.json").read_bytes()
    assert run.released.generation == 1
    assert run.released.verdict_sha256 == sha256_file(run.verdict / "record.json")
    assert len(run.released.approvals) == 1
    (mark,) = taint.marks(run.workspace)
    assert (mark.parent_sha256, mark.approved_sha256, mark.pending) == (
        run.parent_sha256, sha256_bytes(run.weights), False)


def test_a_dead_mlflow_is_a_note_and_the_release_stands(begin_run):
    run = begin_run().release()
    assert releases.current(run.workspace, "digits") == run.released
    assert [event["text"] for event in events(run) if "MLflow was not told" in event.get("text", "")]


def test_mlflow_has_the_release_as_champion(begin_run, monkeypatch):
    run = begin_run()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run.release()
    assert "version 1 in MLflow" in [event.get("text") for event in events(run)]
    assert (run.workspace.tracking / "mlflow.db").exists()


def test_nothing_is_released_that_nobody_approved(begin_run):
    run = begin_run().make()
    run.gate()
    with pytest.raises(Refused, match="0 of 1 approvals: somebody other than ada must run 'expunge approve"):
        run.deploy()
    assert releases.current(run.workspace, "digits") is None
    assert not taint.marks(run.workspace)


def test_nothing_is_released_that_somebody_rejected(begin_run):
    run = begin_run().make()
    run.sign("grace")
    run.gate()
    run.sign("linus", "reject", "I still see eights")
    with pytest.raises(Refused, match="linus rejected"):
        run.deploy()


def test_an_approval_does_not_outlive_a_change_of_any_file(begin_run):
    run = begin_run().make()
    run.sign()
    write_policy(run.workspace, "debug", run.policy_file.read_bytes() + b"# another day\n",
                 run_folder=run.policy_file.parent)
    run.gate()
    with pytest.raises(Refused, match="grace's does not count, it names another policy"):
        run.deploy()


def test_rules_that_nobody_vouches_for_release_nothing(begin_run):
    run = begin_run().make()
    folder = run.policy_file.parent
    write_policy(run.workspace, "debug", run.policy_file.read_bytes() + b"# ours\n", run_folder=folder)
    run.sign()
    assert run.gate() == "open"
    (folder / "policy.signature.json").unlink()
    with pytest.raises(DoesNotVerify, match="'debug' does not ship with expunge and is not signed"):
        run.deploy()


def test_a_verdict_that_somebody_else_wrote_opens_nothing(begin_run):
    run = begin_run(residual=0.4).make()
    run.sign()
    assert run.gate() == "closed"
    with pytest.raises(Refused, match="the verdict is FAIL"):
        run.deploy()
    forged = read_record(Verdict, run.verdict).model_copy(update={"outcome": "PASS"})
    write_record(run.verdict, forged)
    with pytest.raises(DoesNotVerify, match="verdict: not what this policy says"):
        run.deploy()


def test_weights_swapped_after_approval_are_refused(begin_run):
    run = begin_run().make()
    run.sign()
    run.gate()
    (run.candidate / "model.safetensors").unlink()
    (run.candidate / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(DoesNotVerify, match="candidate: its weights"):
        run.deploy()


def test_weights_swapped_while_they_are_copied_are_refused_and_nothing_is_left(begin_run, monkeypatch):
    run = begin_run().make()
    run.sign()
    run.gate()
    place = taint.place

    def swap_then_place(mark, workspace):
        (run.candidate / "model.safetensors").unlink(missing_ok=True)
        (run.candidate / "model.safetensors").write_bytes(b"other weights")
        place(mark, workspace)

    monkeypatch.setattr(step.taint, "place", swap_then_place)
    with pytest.raises(Refused, match="not the approved ones"):
        run.deploy()
    assert releases.history(run.workspace, "digits") == ()
    assert [path.name for path in (run.workspace.releases / "digits").iterdir()] == [".lock"]


def test_deploying_what_is_already_served_changes_nothing(begin_run):
    run = begin_run().release()
    assert run.deploy() == run.released
    assert len(releases.history(run.workspace, "digits")) == 1


def test_a_second_request_may_not_bring_back_what_the_first_removed(begin_run):
    first = begin_run().release()
    second = begin_run(name="forget-4.1", request_id="forget-4", classes=(4,), weights=b"eights, no fours").make()
    second.sign()
    second.gate()
    with pytest.raises(Refused, match="tainted by request forget-8"):
        second.deploy()
    assert releases.current(first.workspace, "digits") == first.released


def test_a_second_request_on_the_released_model_is_released(begin_run):
    first = begin_run().release()
    second = begin_run(name="forget-4.1", request_id="forget-4", classes=(4,), weights=b"no eights, no fours",
                       parent=first.weights).release()
    assert second.released.generation == 2
    assert releases.current(first.workspace, "digits") == second.released


def test_an_inconclusive_candidate_goes_into_service_once_two_people_waived_the_rule(begin_run):
    run = begin_run(residual=0.04).make()
    assert run.gate() == "closed"
    run.sign("grace", waives=["residual_rate"])
    with pytest.raises(Refused, match=r"the verdict is INCONCLUSIVE and has 1 of 2 waivers: somebody other than ada "
                                      r"must run 'expunge approve forget-8\.1 --waive residual_rate'"):
        run.deploy()
    run.sign("linus", waives=["residual_rate"])
    assert run.gate() == "open"
    released = run.deploy()
    assert released.waived == ("residual_rate",)
    assert len(released.approvals) == 2
    assert any("waived residual_rate" in event.get("text", "") for event in events(run))
    assert not [found for found in verify_workspace(run.conclude().workspace) if not found.ok]


def test_a_failed_candidate_is_refused_whoever_waived_it(begin_run):
    run = begin_run(residual=0.4).make()
    for person in ("grace", "linus"):
        run.sign(person, waives=["residual_rate"])
    assert run.gate() == "closed"
    with pytest.raises(Refused, match="the verdict is FAIL: only PASS can be released"):
        run.deploy()


def served_on_s3(bucket):
    """What somebody gets who reads `current` and then the weights that it names; None if it is withdrawn."""
    folder = json.loads(bucket.Object("served/digits/current").get()["Body"].read())["folder"]
    return folder and bucket.Object(f"served/digits/{folder}/model.safetensors").get()["Body"].read()


def test_an_approved_candidate_goes_into_service_on_s3_and_out_again(begin_run, bucket, workspace):
    (workspace.root / CONFIG_FILE).write_text("releases: s3://models/served\n")
    run = begin_run().release()
    assert served_on_s3(bucket) == run.weights
    assert run.deploy() == run.released
    (found,) = live(workspace).served
    at = f"s3://models/served/digits/{releases.folder_name(run.released)}/model.safetensors"
    assert (found.standing, found.path, found.sha256) == ("clean", at, sha256_bytes(run.weights))
    findings = {one.object: one for one in verify_workspace(workspace)}
    assert findings["s3://models/served/digits/current"].ok
    assert findings[at].ok
    assert not [one for one in findings.values() if not one.ok]

    bucket.put_object(Key=at.removeprefix("s3://models/"), Body=b"planted")
    wrong = {one.object for one in verify_workspace(workspace) if not one.ok}
    assert wrong == {at}
    assert live(workspace).exit_code == 40

    assert serving.change(workspace, "withdraw", "digits", "grace", "a complaint").now is None
    assert served_on_s3(bucket) is None
    assert not [one for one in verify_workspace(workspace) if not one.ok]


@pytest.mark.thorough
def test_deploy_and_rollback_on_s3_refuse_what_is_tainted(begin_run, bucket, workspace):
    (workspace.root / CONFIG_FILE).write_text("releases: s3://models/served\n")
    first = begin_run().release()
    second = begin_run(name="forget-4.1", request_id="forget-4", classes=(4,), weights=b"eights, no fours").make()
    second.sign()
    second.gate()
    with pytest.raises(Refused, match="tainted by request forget-8"):
        second.deploy()
    third = begin_run(name="forget-5.1", request_id="forget-5", classes=(5,), weights=b"no eights, no fives",
                      parent=first.weights).release()
    assert served_on_s3(bucket) == third.weights
    assert releases.rollback(workspace, "digits").request_id == "forget-5"  # it taints what was served before
    assert served_on_s3(bucket) is None


def serve_by_kserve(workspace, **more):
    (workspace.root / CONFIG_FILE).write_text(
        f"releases: s3://models/served\nkserve: {json.dumps({'namespace': 'models', 'model_format': 'expunge'} | more)}\n")


def test_an_approved_candidate_goes_into_service_by_kserve_and_out_again(begin_run, bucket, kserve, workspace):
    serve_by_kserve(workspace)
    run = begin_run().release()
    asked = kserve.services["digits"]["spec"]["predictor"]["model"]["storageUri"].removeprefix("s3://models/")
    assert bucket.Object(f"{asked}/model.safetensors").get()["Body"].read() == run.weights
    assert any("gets 0 % of the requests; not ready" in event.get("text", "") for event in events(run))
    findings = {one.object: one.ok for one in verify_workspace(workspace)}
    assert findings["kserve://models/digits"]
    assert all(findings.values())
    assert serving.change(workspace, "withdraw", "digits", "grace", "a complaint").now is None
    assert kserve.services == {}
    assert all(one.ok for one in verify_workspace(workspace))


@pytest.mark.thorough
def test_what_may_serve_no_longer_is_withdrawn_where_its_successor_does_not_become_ready(
        begin_run, bucket, kserve, workspace):
    serve_by_kserve(workspace)
    first = begin_run().release()
    tainting = taint.Mark(request_id="forget-3", request_sha256="3" * 64, approved_sha256="4" * 64, pending=False,
                          parent_sha256=sha256_bytes(first.weights))
    kserve.works = lambda folder: False
    serve_by_kserve(workspace, deadline_minutes=0.002)
    second = begin_run(name="forget-4.1", request_id="forget-4", classes=(4,), weights=b"no eights, no fours",
                       parent=first.weights).make()
    second.sign()
    second.gate()
    with pytest.raises(NotServed, match=r"generation 2 was not ready within 0\.002 minutes \([^()]*\): see .* still is$"):
        second.deploy()
    assert releases.current(workspace, "digits") == first.released
    assert all(one.ok for one in verify_workspace(workspace))
    place = releases.publish

    def publish_then_be_tainted(*given, **more):
        try:
            return place(*given, **more)
        finally:
            taint.place(tainting, workspace)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(releases, "publish", publish_then_be_tainted)
        with pytest.raises(NotServed, match=r"; digits: withdrawn, nothing is served: what came before is tainted by "
                                            r"request forget-8: see 'kubectl describe inferenceservice digits'$"):
            second.deploy()
    assert (releases.current(workspace, "digits"), kserve.services) == (None, {})
