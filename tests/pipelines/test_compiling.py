"""What the plans come to on a cluster, read from the documents that Kubeflow gets.

The golden documents in tests/golden_ir are those of the profile `gpu`, without what kfp writes of itself (its version, the
code of the doors, what goes in and out of each). After a change that is meant: python tests/pipelines/test_compiling.py
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipelines.compiling import PLANS, compile_plan, parameters
from pipelines.profiles import PROFILES, profile

IMAGE = f"registry.example/expunge@sha256:{'a' * 64}"
GOLDEN = Path(__file__).parent.parent / "golden_ir"
COMPUTING = {"exec-adapt", "exec-unlearn", "exec-evaluate"}


@cache
def document(plan, name="gpu", run=None):
    return compile_plan(plan, IMAGE, PROFILES[name], run)


@cache
def compiled(plan, name="gpu", run=None):
    """The pipeline, and what Kubernetes is told of each executor."""
    pipeline, platform = yaml.load_all(document(plan, name, run), yaml.CSafeLoader)
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def containers(pipeline):
    """By executor, without the importers."""
    executors = pipeline["deploymentSpec"]["executors"]
    return {name: found["container"] for name, found in executors.items() if "container" in found}


def tasks(pipeline):
    """Every task but the conditions, whatever branch it is in."""
    dags = [pipeline["root"], *(one for one in pipeline["components"].values() if "dag" in one)]
    return {name: task for dag in dags for name, task in dag["dag"]["tasks"].items() if not name.startswith("condition")}


def essence(plan):
    """A document without what kfp writes of itself."""
    pipeline, platform = compiled(plan)
    pipeline = json.loads(json.dumps(pipeline))
    del pipeline["sdkVersion"]
    pipeline["components"] = {name: one["dag"] for name, one in pipeline["components"].items() if "dag" in one}
    for container in containers(pipeline).values():
        del container["command"], container["args"]
    return yaml.safe_dump_all([pipeline, platform], sort_keys=True, width=120)


@pytest.mark.parametrize("plan", PLANS)
def test_a_plan_compiles_to_the_document_that_was_looked_at(plan):
    assert essence(plan) == (GOLDEN / f"{plan}.yaml").read_text(), f"if it is meant: python tests/pipelines/{Path(__file__).name}"


@pytest.mark.parametrize(("name", "computing"), [("cpu", set()), ("gpu", COMPUTING), ("multi-gpu", COMPUTING)])
def test_only_steps_that_compute_ask_for_an_accelerator(name, computing):
    pipeline, platform = compiled("unlearning", name)
    found = containers(pipeline)
    assert len(found) == 7
    assert {one for one, container in found.items() if "accelerator" in container["resources"]} == computing
    for key in ("nodeSelector", "tolerations"):
        assert {one for one, told in platform.items() if key in told} == computing
    assert not any("accelerator" in container["resources"] for container in containers(compiled("release", name)[0]).values())


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("plan", PLANS)
def test_every_step_says_what_it_needs_how_long_it_may_take_and_how_often_it_is_tried(plan, name):
    pipeline, platform = compiled(plan, name)
    for one, container in containers(pipeline).items():
        assert container["resources"].keys() >= {
            "resourceCpuRequest", "resourceCpuLimit", "resourceMemoryRequest", "resourceMemoryLimit"}
        assert container["image"] == IMAGE
        assert int(platform[one]["activeDeadlineSeconds"]) > 0
    for task in tasks(pipeline).values():
        assert task["cachingOptions"] == {}, "Kubeflow's cache is off, in importers as well"
        if not task["componentRef"]["name"].startswith("comp-importer"):
            assert task["retryPolicy"].keys() == {
                "backoffDuration", "backoffFactor", "backoffMaxDuration", "maxRetryCount"}


@pytest.mark.parametrize(("name", "change", "told"), [
    ("multi-gpu", (), "devices"), ("gpu", (), None), ("cpu", ("training.processes=2",), "2"),
    ("multi-gpu", ("training.processes=1",), None)])
def test_training_rooms_are_told_in_how_many_processes_to_train(name, change, told):
    pipeline, _ = yaml.load_all(compile_plan("unlearning", IMAGE, profile(name, change)), yaml.CSafeLoader)
    found = {one: {each["name"]: each["value"] for each in container["env"]}.get("EXPUNGE_PROCESSES")
             for one, container in containers(pipeline).items()}
    assert {one for one, value in found.items() if value} == ({"exec-adapt", "exec-unlearn"} if told else set())
    assert found["exec-adapt"] == told


def test_several_devices_are_for_training_alone():
    assert parameters("unlearning", PROFILES["multi-gpu"])["training_accelerator_limit"] == "4"
    assert parameters("unlearning", PROFILES["multi-gpu"])["measuring_accelerator_limit"] == "1"


def test_secrets_are_named_and_never_written(monkeypatch):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(variable, "very-secret")
    assert "very-secret" not in compile_plan("release", IMAGE, PROFILES["gpu"])
    for plan in PLANS:
        for room, container in containers(compiled(plan)[0]).items():
            assert {each["name"] for each in container["env"]} == {
                "EXPUNGE_WORKSPACE", "EXPUNGE_KEYS", "EXPUNGE_PIPELINE", "EXPUNGE_IMAGE_DIGEST",
                *(("EXPUNGE_SERVICE_ACCOUNT",) if room == "exec-deploy" else ())}


def test_rooms_that_train_and_measure_hold_no_key_to_any_store():
    for one, told in compiled("unlearning")[1].items():
        secrets = {each["secretName"] for each in told["secretAsEnv"]}
        stores = {"expunge-s3", "expunge-mlflow"}
        assert secrets & stores == (stores if one in ("exec-fetch-checkpoint", "exec-curate-forget-set", "exec-deploy")
                                    else set()), one
        mounted = {each["secretName"] for each in told["secretAsVolume"]}
        assert mounted == {"expunge-operator"} | ({"expunge-deployer"} if one == "exec-deploy" else set()), one


def test_training_copies_its_state_where_the_profile_says_with_keys_for_nothing_else():
    changed = profile("cpu", ["cluster.state_store=s3://mlpipeline/state", "cluster.state_every=90"])
    pipeline, platform = yaml.load_all(compile_plan("unlearning", IMAGE, changed), yaml.CSafeLoader)
    told = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, container in containers(pipeline).items():
        env = {one["name"]: one["value"] for one in container["env"]}
        secrets = {each["secretName"] for each in told[name]["secretAsEnv"]}
        if name in ("exec-adapt", "exec-unlearn"):
            assert (env["EXPUNGE_STATE_STORE"], env["EXPUNGE_STATE_EVERY"]) == ("s3://mlpipeline/state", "90")
            assert secrets == {"expunge-database", "expunge-state"}
        else:
            assert "EXPUNGE_STATE_STORE" not in env
            assert "expunge-state" not in secrets


def test_what_is_changed_at_submission_is_text_for_kubeflow_reads_nothing_else():
    inputs = compiled("unlearning")[0]["root"]["inputDefinitions"]["parameters"]
    for name, value in parameters("unlearning", PROFILES["gpu"]).items():
        kind = {"node_selector": "STRUCT", "tolerations": "LIST"}.get(name.partition("_")[2], "STRING")
        assert inputs[name] == {"defaultValue": value, "isOptional": True, "parameterType": kind}


def test_a_runs_name_is_the_one_it_has_in_kubeflow_unless_it_was_given_one():
    told = compiled("release")[1]["exec-gate"]["fieldPathAsEnv"]
    assert told == [{"fieldPath": "metadata.annotations['pipelines.kubeflow.org/run_name']", "name": "EXPUNGE_RUN"}]
    pipeline, platform = compiled("release", run="forget-8.1")
    assert {"name": "EXPUNGE_RUN", "value": "forget-8.1"} in containers(pipeline)["exec-gate"]["env"]
    assert "fieldPathAsEnv" not in platform["exec-gate"]


@pytest.mark.parametrize("plan", PLANS)
def test_kubeflows_own_loader_takes_the_document(plan):
    from kfp import components

    loaded = components.load_component_from_text(document(plan, "multi-gpu"))
    assert set(loaded.component_spec.inputs) > set(parameters(plan, PROFILES["multi-gpu"]))


def test_a_profile_is_changed_field_by_field():
    found = profile("gpu", ["training.accelerator_limit=2", "training.cpu_limit=16", "plain.timeout=60",
                            "training.node_selector={nvidia.com/gpu.product: NVIDIA-H200}", "cluster.s3_secret=ours"])
    assert (found.training.accelerator_limit, found.training.cpu_limit, found.plain.timeout) == (2, "16", 60)
    assert found.training.node_selector == {"nvidia.com/gpu.product": "NVIDIA-H200"}
    assert found.cluster.s3_secret == "ours"
    assert found.measuring == PROFILES["gpu"].measuring


@pytest.mark.parametrize(("arguments", "complaint"), [
    ((), "Missing option '--image'"),
    (("--image", "expunge:cpu"), "--image: 'expunge:cpu' names no digest, and a tag may be moved"),
    (("--image", "expunge@sha256:12"), "--image: 'expunge@sha256:12' is no image"),
    (("--image", IMAGE, "--profile", "tpu"), "--profile: 'tpu' is not known: profiles are cpu, gpu, multi-gpu"),
    (("--image", IMAGE, "--set", "gpus=2"), "--set: 'gpus=2' is no change"),
    (("--image", IMAGE, "--set", "training.gpus=2"), "--set: 'training.gpus' is not known: known are cpu_request"),
    (("--image", IMAGE, "--set", "gpu.limit=2"), "--set: 'gpu.limit' is not known: known are plain, training"),
    (("--image", IMAGE, "--set", "training.timeout=soon"), "--set: 'training.timeout' input should be a valid integer"),
    (("--image", IMAGE, "--set", "training.memory_limit=64GB"), "--set: 'training.memory_limit' string should match"),
    (("--image", IMAGE, "--set", "training.node_selector={a"), "cannot be read: write the value as in YAML"),
    (("--image", IMAGE, "--set", "plain.accelerator_limit=1"), "plain.accelerator_limit must be 0"),
])
def test_what_cannot_be_compiled_is_said_in_one_line_and_nothing_is_written(expunge, tmp_path, arguments, complaint):
    done = expunge(tmp_path, "compile", "out", *arguments)
    assert done.code == 2
    assert complaint in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_tag_will_do_where_that_is_said_and_statements_then_name_no_image(expunge, tmp_path):
    done = expunge(tmp_path, "compile", "out", "--image", "expunge:cpu", "--unpinned", "--profile", "cpu", "--json")
    assert done.code == 0, done.err
    assert "EXPUNGE_IMAGE_DIGEST" not in Path(tmp_path, done.json["unlearning"]).read_text()


@pytest.mark.thorough
def test_the_compiled_document_runs_here_and_makes_the_same_candidate(demo, expunge, tmp_path):
    first = demo[0] / ".expunge"
    assert expunge(tmp_path, "init").code == 0
    changes = [f"--set=cluster.workspace_path={tmp_path}/.expunge", f"--set=cluster.keys_path={tmp_path}/.expunge-keys"]
    assert expunge(tmp_path, "compile", "ir", "--image", IMAGE, *changes).code == 0
    run = ("import json, sys; from kfp import components, local; "
           "local.init(local.SubprocessRunner(use_venv=False), pipeline_root='kfp'); "
           "components.load_component_from_file('ir/unlearning.yaml')(**json.load(open(sys.argv[1])))")
    arguments = next(first.glob("runs/*/unlearning.json"))
    environment = os.environ | {"EXPUNGE_RUN": arguments.parent.name, "PYTHONSAFEPATH": "1", "PATH": os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ["PATH"]])}
    done = subprocess.run([sys.executable, "-c", run, str(arguments)], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert weights(tmp_path / ".expunge") == weights(first)


def weights(workspace):
    found, = workspace.glob("results/unlearn-*/candidate/record.json")
    return json.loads(found.read_text())["weights"]["sha256"]


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in PLANS:
        (GOLDEN / f"{each}.yaml").write_text(essence(each))
