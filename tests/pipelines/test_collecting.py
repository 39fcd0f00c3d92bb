"""What a cluster has done comes into the ledger as if it had been done here; against a stub of Kubeflow's API and moto's S3."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from finished_run import FinishedRun
from kfp_api_stub import kfp_api
from s3_server import bucket, environment, s3_server  # noqa: F401 - fixtures
from tests_support import key_for

from expunge.contracts import Absent, Adaptation, Compute, SampleRole, StoredFile, write_record
from expunge.digests import sha256_bytes
from expunge.evidence.ledger import Ledger
from expunge.evidence.verify import verify_workspace
from expunge.room import room
from expunge.runs import Run
from expunge.settings import RUN_VARIABLE
from pipelines.cli import carry_out
from pipelines.results import recipe

ROOMS = ["fetch_checkpoint", "curate_forget_set", "adapt", "unlearn", "evaluate", "gate"]


class RunOnCluster(FinishedRun):
    """Rooms leave results and statements, and nobody enters anything in a ledger."""

    def enter(self, step, **given):
        if step.__name__ == "unlearn":
            step, given = self.after_others(step, given)
        kept = step(**given, statement=self.outputs / step.__name__ / "statement.json")
        self.results[step.__name__] = kept.folder
        return kept

    def after_others(self, unlearn, given):
        """The first rooms, each made from what went before; and the one that makes the candidate, of these."""
        @room(outputs=("checkpoint",))
        def fetch_checkpoint(entered, *, request: Path, checkpoint: Path):
            (checkpoint / "weights").write_bytes(self.weights)

        @room(outputs=get_args(SampleRole))
        def curate_forget_set(entered, *, request: Path, checkpoint: Path, **sets: Path):
            for folder in sets.values():
                write_record(folder, Absent(reason="none is needed"))

        @room(outputs=("adaptation",))
        def adapt(entered, *, checkpoint: Path, forget: Path, method: str, preset: str, overrides: str, seed: int,
                  threads: int, adaptation: Path):
            (adaptation / "tensors.sealed").write_bytes(b"sealed")
            write_record(adaptation, Adaptation(
                method=method, params={}, seed=seed, parent_sha256=self.parent_sha256, negative_id="2" * 64,
                compute=Compute(device="cpu", threads=2, torch="2", instruction_set="x", machine="y"),
                tensors=StoredFile.of(adaptation / "tensors.sealed")))

        @room(outputs=("candidate",))
        def unlearn_from(entered, *, request: Path, adaptation: Path, method: str, preset: str, overrides: str, seed: int,
                         threads: int, candidate: Path):
            unlearn.__wrapped__(entered, request=request, candidate=candidate)

        out = self.outputs
        self.enter(fetch_checkpoint, request=self.request_file, checkpoint=out / "checkpoint")
        self.enter(curate_forget_set, request=self.request_file, checkpoint=out / "checkpoint",
                   **{role: out / role for role in get_args(SampleRole)})
        self.enter(adapt, checkpoint=out / "checkpoint", forget=out / "forget", adaptation=out / "adaptation",
                   **recipe(self.request))
        return named("unlearn", unlearn_from), {**given, "adaptation": out / "adaptation", **recipe(self.request)}


def named(name, step):
    """The room under another name: what is worked in it goes by that of its function."""
    step.__wrapped__.__name__ = step.__name__ = name
    return step


@pytest.fixture
def kubeflow():
    with kfp_api() as stub:
        yield stub


@pytest.fixture
def cluster(workspace, kubeflow, bucket, monkeypatch):  # noqa: F811
    """A run that Kubeflow has begun, of a request that lies in the store; no room has worked yet."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run = RunOnCluster(workspace)
    monkeypatch.setenv(RUN_VARIABLE, run.name)
    request, policy = run.request_file.read_bytes(), run.policy_file.read_bytes()
    key = sha256_bytes(request)
    bucket.Object(f"requests/{key}/request.json").put(Body=request)
    bucket.Object(f"requests/{key}/policy.yaml").put(Body=policy)
    begun = {"run_id": "r-1", "display_name": run.name, "description": f"expunge request sha256:{key}", "state": "RUNNING"}
    kubeflow.runs += [{**begun, "display_name": "of somebody.1", "description": "else"}, begun]
    run.in_kubeflow = begun
    return run


@pytest.fixture
def collect(kubeflow, cluster, capsys):
    def call(*words):
        code = carry_out(["collect", *words, "--endpoint", kubeflow.endpoint, "--store", "s3://models/requests", "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def kinds(workspace):
    """What the ledger has of the rooms, in its order, and of the run."""
    said = [json.loads(base64.b64decode(json.loads(entry.envelope)["payload"]))
            for entry in Ledger.open(workspace).entries()]
    return [one["predicate"].get("room") or one["predicate"].get("state") for one in said if "predicate" in one
            and one["predicate"].keys() & {"room", "state"}]


def test_what_a_cluster_made_is_approved_and_released_as_if_it_was_made_here(workspace, cluster, collect, capsys):
    assert collect() == (0, [{"run": cluster.name, "state": "running", "reason": None}])
    cluster.make()
    assert cluster.gate() == "waiting"
    (cluster.request_file.parent / "events.jsonl").unlink()  # a cluster's rooms write none
    cluster.in_kubeflow["state"] = "SUCCEEDED"
    assert collect("--wait") == (0, [{"run": cluster.name, "state": "awaiting_approval", "reason": None}])
    assert kinds(workspace) == [*ROOMS, "awaiting_approval"]
    size = Ledger.open(workspace).size
    assert collect(cluster.name)[1][0]["state"] == "awaiting_approval"
    assert Ledger.open(workspace).size == size, "what is entered is entered once"
    key_for(workspace, "grace", "reviewer")
    assert carry_out(["approve", cluster.name, "--as", "grace", "--reason", "the grids are clean", "--json"]) == 0
    capsys.readouterr()
    assert cluster.gate() == "open"  # the plan `release`, on the cluster
    cluster.deploy()
    assert collect()[1][0]["state"] == "released"
    assert kinds(workspace) == [*ROOMS, "awaiting_approval", "gate", "deploy", "released"]
    assert not [one for one in verify_workspace(workspace) if not one.ok]


def test_a_run_that_failed_there_says_where_and_goes_on_when_it_was_submitted_again(workspace, cluster, collect, kubeflow):
    cluster.in_kubeflow |= {"state": "FAILED", "run_details": {"task_details": [
        {"display_name": "adapt", "state": "SUCCEEDED"}, {"display_name": "unlearn", "state": "FAILED"}]}}
    assert collect() == (0, [{"run": cluster.name, "state": "failed", "reason": "Kubeflow: unlearn"}])
    size = Ledger.open(workspace).size
    assert collect()[1][0]["state"] == "failed"
    assert Ledger.open(workspace).size == size
    again = {**cluster.in_kubeflow, "run_id": "r-2", "state": "RUNNING"}
    kubeflow.runs.append(again)
    assert collect()[1][0]["state"] == "running"
    cluster.make()
    cluster.gate()
    again["state"] = "SUCCEEDED"
    assert collect()[1][0]["state"] == "awaiting_approval"


def test_every_start_of_a_schedule_is_of_the_one_run_that_is_collected_and_released_once(workspace, cluster, collect,
                                                                                        kubeflow, capsys):
    kubeflow.runs.clear()
    described = cluster.in_kubeflow["description"]
    kubeflow.recurring += [
        {"recurring_run_id": "rr-1", "display_name": "forget-8 0123", "description": f"{described}, as run {cluster.name}"},
        {"recurring_run_id": "rr-2", "display_name": "expunge queue claim", "description": "expunge queue work"}]
    assert collect() == (0, []), "what is scheduled and was never started is no run"
    kubeflow.start(kubeflow.recurring[1])["state"] = "SUCCEEDED"
    for failing in ("adapt", "unlearn"):
        kubeflow.start(kubeflow.recurring[0]).update(
            state="FAILED", run_details={"task_details": [{"display_name": failing, "state": "FAILED"}]})
    code, (found,) = collect()
    assert (code, found) == (0, {"run": cluster.name, "state": "failed", "reason": "Kubeflow: unlearn"}), "the last one's"
    third = kubeflow.start(kubeflow.recurring[0])
    assert collect(cluster.name)[1][0]["state"] == "running"
    cluster.make()
    cluster.gate()
    third["state"] = "SUCCEEDED"
    assert collect()[1][0]["state"] == "awaiting_approval"
    key_for(workspace, "grace", "reviewer")
    assert carry_out(["approve", cluster.name, "--as", "grace", "--reason", "the grids are clean", "--json"]) == 0
    capsys.readouterr()
    fourth = kubeflow.start(kubeflow.recurring[0])  # its gate finds the approval
    assert cluster.gate() == "open"
    cluster.deploy()
    fourth["state"] = "SUCCEEDED"
    assert collect()[1][0]["state"] == "released"
    size = Ledger.open(workspace).size
    kubeflow.start(kubeflow.recurring[0])["state"] = "FAILED"
    assert collect() == (0, [{"run": cluster.name, "state": "released", "reason": None}])
    assert Ledger.open(workspace).size == size, "it is released once"
    assert kinds(workspace).count("released") == kinds(workspace).count("deploy") == 1


@pytest.mark.parametrize(("spoil", "code", "problem"), [
    ("result", 40, "is not what its statement says"), ("request", 40, "is not what was submitted"),
    ("elsewhere", 2, "ended well, and its verdict is not in"), ("name", 2, "was not submitted to")])
def test_what_is_not_what_was_signed_or_not_here_enters_nothing(workspace, cluster, collect, bucket, spoil, code, problem):  # noqa: F811
    cluster.in_kubeflow["state"] = "SUCCEEDED"
    if spoil != "elsewhere":
        cluster.make()
        cluster.gate()
    if spoil == "result":
        (cluster.results["unlearn"] / "candidate/model.safetensors").write_bytes(b"others")
    if spoil == "request":
        for one in bucket.objects.filter(Prefix="requests/"):
            one.put(Body=b"{}")
    size = Ledger.open(workspace).size
    found = collect("nothing.1" if spoil == "name" else cluster.name)
    assert found[0] == code, found
    assert problem in found[1]["problem"]
    assert Ledger.open(workspace).size == size


def test_a_store_that_can_be_none_is_named_before_anything_is_asked(cluster, kubeflow, capsys):
    before = len(kubeflow.requests)
    assert carry_out(["collect", "--endpoint", kubeflow.endpoint, "--store", "s3://a/b", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problem"].startswith("--store: 'a' is no bucket")
    assert len(kubeflow.requests) == before


@pytest.mark.thorough
def test_the_compiled_plan_run_here_ends_in_the_statements_of_a_laptops_run(demo, expunge, tmp_path, kubeflow, bucket,  # noqa: F811
                                                                            environment, capsys):  # noqa: F811
    """Submitted, carried out by Kubeflow's own local runner from the very document that was sent, collected, released."""
    from expunge.settings import KEYS_VARIABLE, WORKSPACE_VARIABLE, Workspace

    here = tmp_path / ".expunge"
    environment.setenv(WORKSPACE_VARIABLE, str(here))
    environment.setenv(KEYS_VARIABLE, str(tmp_path / ".expunge-keys"))
    (tmp_path / "request.yaml").write_bytes((demo[0] / "request.yaml").read_bytes())

    def say(*words):
        code = carry_out([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    assert say("init")[0] == 0
    for person, role in (("ada", "requester"), ("grace", "reviewer")):
        assert say("keys", "new", person, "--role", role)[0] == 0
    to = ("--endpoint", kubeflow.endpoint, "--store", "s3://models/plans")
    code, submitted = say("submit", str(tmp_path / "request.yaml"), *to, "--image", f"x@sha256:{'a' * 64}",
                          f"--set=cluster.workspace_path={here}", f"--set=cluster.keys_path={tmp_path}/.expunge-keys")
    assert code == 0, submitted
    sent, = kubeflow.sent
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(sent["pipeline_spec"]["pipeline_spec"]))
    arguments = sent["runtime_config"]["parameters"]
    for name in ("request", "policy"):  # Kubeflow's launcher fetches them for the steps
        file = tmp_path / Path(arguments[f"{name}_uri"]).name
        bucket.Object(arguments[f"{name}_uri"].removeprefix("s3://models/")).download_file(str(file))
        arguments[f"{name}_uri"] = str(file)
    run = ("import json, sys; from kfp import components, local; "
           "local.init(local.SubprocessRunner(use_venv=False), pipeline_root='kfp'); "
           "components.load_component_from_text(open('plan.json').read())(**json.loads(sys.argv[1]))")
    done = subprocess.run([sys.executable, "-c", run, json.dumps(arguments)], cwd=tmp_path, capture_output=True, text=True,
                          check=False, env={**os.environ, "EXPUNGE_RUN": submitted["run"], "PYTHONSAFEPATH": "1", "PATH":
                                            os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    kubeflow.runs[0]["state"] = "SUCCEEDED"
    assert say("collect", submitted["run"], *to, "--wait")[0] == 10
    assert say("approve", submitted["run"], "--as", "grace", "--reason", "the grids are clean")[0] == 0
    assert say("release", submitted["run"])[0] == 0
    assert say("audit", "verify")[0] == 0
    laptop, cluster = Workspace(demo[0] / ".expunge"), Workspace(here)
    assert kinds(cluster) == kinds(laptop)
    made = [Run.find(workspace, "forget-8").candidate().weights.sha256 for workspace in (cluster, laptop)]
    assert made[0] == made[1]
