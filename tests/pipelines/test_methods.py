"""`expunge methods`: the list, and one method explained; for people and for machines."""

import json

import pytest
from tests_support import call

from expunge.methods import available
from pipelines.cli import carry_out
from pipelines.explaining import explain, explain_all


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
