"""`expunge methods`: the list, and one method explained; for people and for machines."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tests_support import call

from components.fetch_checkpoint.step import fetch_checkpoint
from expunge import assets, models
from expunge.contracts import Request, parse_record, read_record, write_record
from expunge.errors import BadInput
from expunge.methods import available, find
from expunge.methods.choosing import decided
from expunge.methods.training import ClassifierOracle, Material, Session
from expunge.stores.sources import pin
from pipelines.cli import carry_out
from pipelines.demo import request_for
from pipelines.explaining import explain, explain_all

PAGE = (Path(__file__).parent.parent.parent / "docs" / "methods" / "README.md").read_text()


def said(capsys, *arguments):
    """What the command prints in a terminal that is wide enough."""
    assert carry_out(["methods", *arguments]) == 0
    return capsys.readouterr().out


def test_the_list_names_every_method_in_one_row_and_marks_the_baselines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = said(capsys).splitlines()
    for name, method in available().items():
        row, = (line for line in rows if line.startswith(f"{name} "))
        assert method.family in row
        assert method.does in row
        assert ("baseline:" in row) == method.baseline


def test_baselines_come_after_what_they_are_compared_with():
    of_a_family = [each.baseline for each in explain_all() if each.family == "gan"]
    assert of_a_family == sorted(of_a_family)


@pytest.mark.parametrize("name", available())
def test_a_method_is_explained_with_every_parameter(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    shown, method = said(capsys, name), available()[name]
    for told in (method.does, method.choose, method.costs, method.claim, method.paper, *method.presets):
        assert told in shown
    for parameter, field in method.params.model_fields.items():
        row, = (line for line in shown.splitlines() if line.startswith(f"{parameter} "))
        assert field.description in row
        assert f" {field.default} " in row


@pytest.mark.parametrize("name", available())
def test_machines_read_the_same_as_people(name, capsys):
    found, method = json.loads(said(capsys, name, "--json")), available()[name]
    assert found["does"] == method.does
    assert found["presets"].keys() == method.presets.keys()
    defaults = {each["name"]: each["default"] for each in found["parameters"]}
    assert method.params(**defaults) == method.params()
    assert not any("anything" in each["allowed"] for each in found["parameters"])
    listed = {each["name"]: each for each in json.loads(said(capsys, "--json"))}
    assert listed[name] == {key: value for key, value in found.items() if key != "parameters"}


def test_limits_are_said_as_the_parameters_have_them():
    allowed = {each.name: each.allowed for each in explain(available()["adapt_then_unlearn"]).parameters}
    assert allowed["enough"] == "number ≥ 0, ≤ 1"
    assert allowed["steps"] == "whole number ≥ 1"
    assert allowed["generator_rate"] == "number > 0"
    assert allowed["repulsion"] == "el2 or il2 or nl2"


def test_an_unknown_method_is_one_line_with_those_that_are_known(tmp_path):
    done = call(tmp_path, "methods", "forget_me", "--json")
    assert done.code == done.json["exit_code"] == 2
    assert done.err.startswith("expunge: method 'forget_me' is not known: use one of ")
    assert len(done.err.splitlines()) == 1


REFUSED = {
    "a method without its data": ({"method": "retrain"}, "training: method 'retrain' needs real images of what is to stay"),
    "parameters for nobody": ({"method": {"name": "auto", "params": {"steps": 1}}}, "'method' has params, and 'auto' has"),
    "a preset of another method": ({"method": {"name": "auto", "preset": "ewc"}}, "has no preset 'ewc'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_in_the_plan_and_in_the_first_room(name, workspace, tmp_path, capsys):
    changes, said = REFUSED[name]
    file = tmp_path / "request.yaml"
    file.write_text(yaml.safe_dump(request_for(8, 0, True) | changes))
    assert carry_out(["run", str(file), "--plan"]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert said in line
    if "params" in said:
        return  # no room gets a request that is none
    pinned = pin(read_record(Request, file), tmp_path, workspace)
    write_record(tmp_path / "request.json", pinned)
    outputs = {name: tmp_path / name for name in ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")}
    with pytest.raises(BadInput) as refused:
        fetch_checkpoint(request=tmp_path / "request.json", statement=tmp_path / "statement.json", **outputs)
    assert str(refused.value) in line


def test_the_first_room_says_what_auto_chose_and_takes_no_reason_but_its_own(workspace, tmp_path, capsys):
    asked = parse_record(Request, request_for(8, 0, True) | {"method": "auto"}, "request")
    pinned = pin(asked, tmp_path, workspace)
    outputs = {name: tmp_path / name for name in ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")}

    def fetch(method):
        write_record(tmp_path / "request.json", pinned.model_copy(update={"method": method}))
        fetch_checkpoint(request=tmp_path / "request.json", statement=tmp_path / "statement.json", **outputs)

    with pytest.raises(BadInput, match="'auto' is still open"):
        fetch(asked.method)
    with pytest.raises(BadInput, match=r"method\.chosen: 'auto' comes to something else here"):
        fetch(pinned.method.model_copy(update={"chosen": "it is the best there is"}))
    fetch(pinned.method)
    notes = [json.loads(line).get("text") for line in capsys.readouterr().out.splitlines()]
    assert f"auto chose {pinned.method.name}, {pinned.method.chosen}" in notes


def test_the_page_has_a_row_for_every_method_with_what_it_claims():
    rows = {name: row for row in PAGE.splitlines() for name in re.findall(r"^\| \[?`(\w+)`", row)}
    for name, method in available().items():
        assert method.claim in rows[name], name
        assert ("`training`: " in rows[name]) == bool({"forget", "retain"} & set(method.needs)), name
        assert (PAGE.index("Baselines are methods") < PAGE.index(rows[name])) == method.baseline, name


def test_the_page_says_what_auto_comes_to():
    said = re.search(r"a generator gets\s+`(\w+)` without\s+`training`, and\s+`(\w+)` with it", PAGE)
    for name, training in zip(said.groups(), (None, {"uri": "builtin://digits/train"}), strict=True):
        request = parse_record(Request, request_for(8, 0, False) | {"method": "auto", "training": training}, "request")
        assert decided(request, "gan").name == name
    assert f"says nothing of a method gets\n`{Request.model_fields['method'].default.name}`" in PAGE


@pytest.mark.slow
def test_the_method_on_the_page_can_be_installed_is_explained_and_makes_a_generator_forget(
        tmp_path, monkeypatch, capsys):
    source, package = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name, language in (("gentle.py", "python"), ("pyproject.toml", "toml")):
        block, = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
        (source / name).write_text(block)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation",
                    "--no-deps", "--target", package, source], check=True)
    monkeypatch.syspath_prepend(package)
    assert json.loads(said(capsys, "gentle", "--json"))["built_in"] is False

    method, parent = find("gentle", "gan"), models.load(assets.path("dcgan"))
    oracle = ClassifierOracle(models.load(assets.path("oracle")), [4])
    material, params, session = Material(oracle=oracle), method.parameters("debug"), Session(0, threads=1)
    candidate = models.load(assets.path("dcgan"))
    candidate.load_state_dict(method.unlearn(parent, method.adapt(parent, material, params, session), material, params,
                                             session))
    latents = parent.draw_latents(1000, torch.Generator().manual_seed(1))
    before, after = ((oracle.probability_unwanted(model(latents)) > 0.5).sum() for model in (parent, candidate))
    assert after < before / 2
