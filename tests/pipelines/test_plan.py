"""The plan's wiring, read from the Kubeflow document that it compiles to."""

import json
import subprocess
import sys

import pytest
import yaml


@pytest.fixture(scope="module")
def plans(tmp_path_factory, expunge):
    folder = tmp_path_factory.mktemp("plans")
    done = expunge(folder, "compile", ".", "--image", f"registry.example/expunge@sha256:{'a' * 64}", "--json")
    assert done.code == 0, done.err
    return {name: next(yaml.safe_load_all((folder / file).read_text())) for name, file in done.json.items()}


def reaching(tasks, task):
    """The (task, output) pairs whose artifacts are given to a task."""
    given = tasks[task].get("inputs", {}).get("artifacts", {}).values()
    made = [artifact["taskOutputArtifact"] for artifact in given]
    return {(one["producerTask"], one["outputArtifactKey"]) for one in made}


def test_what_measures_reaches_evaluation_only(plans):
    tasks = plans["unlearning"]["root"]["dag"]["tasks"]
    kept_in_the_laboratory = {("fetch-checkpoint", name) for name in ("judge", "extractor", "reference", "origin")} | {
        ("curate-forget-set", name) for name in ("holdout", "members")}
    for task in tasks:
        used = reaching(tasks, task) & kept_in_the_laboratory
        assert used == (kept_in_the_laboratory if task == "evaluate" else set()), task


def test_what_training_may_read_reaches_the_training_rooms_and_evaluation_only(plans):
    tasks = plans["unlearning"]["root"]["dag"]["tasks"]
    real = {("curate-forget-set", "forget"), ("curate-forget-set", "retain")}
    for task in tasks:
        assert reaching(tasks, task) & real == (real if task in ("adapt", "unlearn", "evaluate") else set()), task


def test_training_rooms_are_not_even_given_the_request(plans):
    tasks = plans["unlearning"]["root"]["dag"]["tasks"]
    for task in ("adapt", "unlearn"):
        assert reaching(tasks, task)
        assert "importer" not in {producer for producer, _ in reaching(tasks, task)}


def test_the_seven_rooms_are_in_the_plan_in_their_order(plans):
    tasks = plans["unlearning"]["root"]["dag"]["tasks"]
    condition = next(name for name in tasks if name.startswith("condition"))
    inside = plans["unlearning"]["components"][f"comp-{condition}"]["dag"]["tasks"]
    names = [task["taskInfo"]["name"] for task in [*tasks.values(), *inside.values()]]
    assert sorted(name for name in names if name[0].isdigit()) == [
        "1. fetch checkpoint", "2. curate forget set", "3. adapt", "4. unlearn", "5. evaluate", "6. gate", "7. deploy"]


def test_kubeflows_cache_is_off_in_every_room(plans):
    for plan in plans.values():
        dags = [plan["root"], *(one for one in plan["components"].values() if "dag" in one)]
        rooms = [task for dag in dags for name, task in dag["dag"]["tasks"].items()
                 if not name.startswith(("importer", "condition"))]
        assert rooms
        assert all(task["cachingOptions"] == {} for task in rooms)


def test_deploy_waits_behind_a_fixed_token_that_the_local_engine_can_resolve(plans):
    for plan in plans.values():
        tasks = plan["root"]["dag"]["tasks"]
        assert "deploy" not in tasks
        policy = next(task for name, task in tasks.items() if name.startswith("condition"))["triggerPolicy"]
        # kfp.local resolves only an unnamed output here; anything else is skipped without an error.
        assert policy["condition"] == "inputs.parameter_values['pipelinechannel--gate-Output'] == 'open'"


@pytest.mark.parametrize("module", ["expunge", "pipelines.cli", "pipelines.supervisor", "components.gate.step"])
def test_starting_imports_nothing_heavy(module):
    code = f"import sys, json; import {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert not {"torch", "mlflow", "dvc", "kfp", "sklearn", "matplotlib", "scipy.stats"} & set(loaded)
