"""Looking again at what is live: other samples, the same policy, and an alarm where it no longer holds or cannot be told."""

import json
from datetime import datetime

import pytest
from s3_server import bucket, environment, s3_server  # noqa: F401 - fixtures
from tests_support import call, write_policy

from expunge.contracts import Report, read_record
from expunge.custody import receipts
from expunge.measure.policy import preset_bytes
from expunge.runs import Run
from expunge.samples import RequestKey
from expunge.settings import Workspace
from expunge.stores.releases import folder_of, history, store_of
from pipelines.cli import carry_out
from pipelines.metrics import collected
from pipelines.reauditing import latest


@pytest.fixture
def again(copy_of_demo, monkeypatch, capsys):
    """Looks at the released demo again, in this process; the exit code and what was said of the one model."""
    monkeypatch.setenv("EXPUNGE_WORKSPACE", str(copy_of_demo / ".expunge"))
    workspace = Workspace(copy_of_demo / ".expunge")

    def look(code):
        assert carry_out(["audit", "again", "--json"]) == code
        said, = json.loads(capsys.readouterr().out)
        released, = history(workspace, "digits")
        last = latest(workspace, released)
        assert last.model_dump(mode="json").items() <= said.items(), "what was said is signed"
        numbers = collected(workspace).get_sample_value
        told = {outcome: numbers("expunge_model_reaudit", {"model": "digits", "outcome": outcome})
                for outcome in ("PASS", "FAIL", "INCONCLUSIVE", "INVALID")}
        assert told == {**dict.fromkeys(told, 0), said["outcome"]: 1}
        evaluated = numbers("expunge_model_evaluated_timestamp_seconds", {"model": "digits"})
        assert evaluated == datetime.fromisoformat(said["at"]).timestamp()
        return said

    look.workspace, look.run = workspace, Run.find(workspace, "forget-8")
    return look


@pytest.mark.thorough
def test_what_is_served_draws_other_samples_and_is_judged_by_the_same_policy(again, copy_of_demo, capsys):
    workspace, run = again.workspace, again.run
    before = {folder.name for folder in workspace.results.glob("evaluate-*-*")}
    said = again(0)
    assert (said["outcome"], said["extent"], said["not_asked"]) == ("PASS", "whole", {})
    assert {rule["metric"] for rule in said["rules"]} == {found.rule.metric for found in run.verdict().rules}
    new, = (folder for folder in workspace.results.glob("evaluate-*-*")
            if folder.is_dir() and folder.name not in before)
    first, second = run.report(), read_record(Report, new / "report")
    assert first.latent_seed != second.latent_seed
    assert first.candidate_sha256 == second.candidate_sha256
    assert run.state().state == "released", "what was decided stands"
    assert carry_out(["audit", "verify", "--json"]) == 0
    capsys.readouterr()
    assert carry_out(["audit", "show", "forget-8"]) == 0
    assert "digits: generation 1 was evaluated again: PASS" in " ".join(capsys.readouterr().out.split())
    assert not list(run.folder.glob("kfp*"))
    # The same bytes, after their images were disposed of: what can be told without them.
    done = call(copy_of_demo, "dispose", "forget-8", "--reason", "it is over", "--as", "grace")
    assert done.code == 0, done.err
    assert receipts.custody_of(workspace, "forget-8") == "disposed"
    said = again(0)
    assert (said["outcome"], said["extent"], [rule["metric"] for rule in said["rules"]]) == ("PASS", "part", ["residual_rate"])
    assert "pul" in said["not_asked"]
    assert not RequestKey.file(workspace, "forget-8").exists(), "no key was made for it"
    assert carry_out(["audit", "verify"]) == 0


def test_an_alarm_is_given_where_what_was_forgotten_is_back(again):
    policy = preset_bytes("debug").replace(b"limit: 0.05", b"limit: 0.000001")
    write_policy(again.workspace, "debug", policy, run_folder=again.run.folder)
    receipts.folder_of(again.workspace, "forget-8").mkdir(parents=True)  # the shorter way: only what it draws is asked
    said = again(20)
    assert (said["outcome"], said["rules"][0]["metric"], said["rules"][0]["outcome"]) == ("FAIL", "residual_rate", "FAIL")


@pytest.mark.thorough
def test_what_is_served_from_s3_is_fetched_from_there(again, bucket):  # noqa: F811
    (again.workspace.root / "config.yaml").write_text("releases: s3://models/served\n")
    store, (released,) = store_of(again.workspace), history(again.workspace, "digits")
    store.place(released)
    store.serve("digits", released, store.pointed("digits"))
    receipts.folder_of(again.workspace, "forget-8").mkdir(parents=True)  # the shorter way: only what it draws is asked
    folder_of(again.workspace, released).joinpath(released.weights.name).unlink()  # so the workspace's copy is not read
    assert again(0)["outcome"] == "PASS"
    there = bucket.Object(store.served_at(released, released.weights.name).removeprefix("s3://models/"))
    there.put(Body=there.get()["Body"].read()[:-1] + b"x")
    assert again(40)["changed"] is True


def test_an_alarm_is_given_where_it_can_no_longer_be_told(again):
    RequestKey.file(again.workspace, "forget-8").unlink()
    said = again(22)
    assert (said["outcome"], said["extent"]) == ("INVALID", "none")
    assert said["problem"].startswith("the key of request 'forget-8' is not at")


def test_an_alarm_is_given_where_what_is_served_is_not_what_was_released(again):
    released, = history(again.workspace, "digits")
    weights = folder_of(again.workspace, released) / released.weights.name
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    said = again(40)
    assert (said["changed"], said["problem"]) == (True, "model.safetensors: what is served is not what was released")


def test_nothing_in_service_is_nothing_to_look_at(workspace, capsys):
    assert carry_out(["audit", "again"]) == 0
    assert capsys.readouterr().out == "nothing is in service\n"
    assert carry_out(["audit", "again", "digits"]) == 2
    assert "model: 'digits' is not in service" in capsys.readouterr().err
