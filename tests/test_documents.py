"""The documents are run: what they say works, works."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from tests_support import blocks, call, typed

from expunge.contracts import Request, parse_record
from expunge.errors import BadInput, ExpungeError, by_name

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_first_screen_has_two_commands_and_both_are_verbs_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    commands = [line.split("#")[0].split() for line in blocks(README, "bash")[0].splitlines()]
    assert commands == [["make", "demo"], ["make", "test"]]
    for _, verb in commands:
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE)


@pytest.mark.thorough
def test_the_next_three_things_work_as_the_readme_says(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    written = [*blocks(README, "bash")[1:], *blocks((ROOT / "docs" / "evidence.md").read_text(), "bash")]
    typed(written, tmp_path)
    assert (tmp_path / ".expunge" / "releases" / "digits" / "current" / "model.safetensors").exists()


def test_every_link_leads_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("components/*/README.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_every_test_that_the_page_of_faults_names_is_there():
    named = set(re.findall(r"`(test_\w+?)(?:\.py)?`", (ROOT / "docs" / "faults.md").read_text()))
    files = list((ROOT / "tests").rglob("test_*.py"))
    there = {file.stem for file in files} | {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert named
    assert not named - there


def test_the_request_that_is_explained_is_one(tmp_path):
    explained, = blocks((ROOT / "docs" / "requests.md").read_text(), "yaml")
    request = parse_record(Request, yaml.safe_load(explained), "docs")
    assert request.model_dump().keys() - {"schema_name"} == yaml.safe_load(explained).keys(), "a field is not explained"
    example = yaml.safe_load((ROOT / "examples" / "forget-4.yaml").read_text())
    assert parse_record(Request, example, "examples").forget == request.forget


def test_the_exit_codes_in_the_readme_are_those_of_the_errors():
    listed = {int(code) for row in re.findall(r"^\|.*\|$", README, re.MULTILINE) for code in re.findall(r"\| (\d+) ", row)}
    assert listed == {error.exit_code for error in by_name().values()} | {0}


def test_an_error_keeps_its_code_and_its_advice():
    assert by_name()["Refused"].exit_code == 41
    assert by_name()["ExpungeError"] is ExpungeError
    assert str(BadInput("field: is wrong", "correct it")) == "field: is wrong: correct it"


def helped(*verb):
    done = call(ROOT, *verb, "--help")
    assert done.code == 0, done.err
    return done.out


def test_every_verb_is_explained_and_takes_json():
    names = re.findall(r"^│ ([a-z][a-z-]*) ", helped(), re.MULTILINE)
    assert {"init", "run", "approve", "release", "audit", "keys", "samples", "doctor", "demo"} <= set(names)
    for name in names:
        shown = helped(name)
        inner = re.findall(r"^│ ([a-z][a-z-]*) ", shown.partition("Commands")[2], re.MULTILINE)
        for page in [helped(name, verb) for verb in inner] or [shown]:
            assert "--json" in page, page
        assert f"`{name}" in (ROOT / "CHANGELOG.md").read_text() or name in README, f"{name} is in no document"

