"""The page about keys is run, and what it says of roles, codes and settings is so."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from tests_support import blocks, typed

from expunge.configuration import Configuration, Notice
from expunge.contracts import parse_record
from expunge.errors import by_name
from expunge.evidence.keys import Keyring, Role
from expunge.settings import Workspace

PAGE = (Path(__file__).parents[2] / "docs" / "keys.md").read_text()


@pytest.mark.thorough
def test_the_page_can_be_followed_line_by_line(tmp_path):
    said = "".join(typed(blocks(PAGE, "bash"), tmp_path))
    assert "grace  reviewer  revoked (left the company)" in said
    assert "olga  keyring: grace's key" in said
    keyring = Keyring.load(Workspace(tmp_path / ".expunge"))
    assert {role: [entry.person for entry in keyring.holders(role)] for role in ("operator", "admin", "reviewer")} == {
        "operator": ["operator"], "admin": ["olga", "peter"], "reviewer": ["linus"]}


def test_every_role_is_explained():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(get_args(Role))


def test_the_settings_on_the_page_are_settings_and_all_of_them():
    explained, = (yaml.safe_load(block) for block in blocks(PAGE, "yaml"))
    assert explained["notice"].keys() == Notice.model_fields.keys()
    assert parse_record(Configuration, explained, "docs").notice


def test_the_exit_codes_on_the_page_are_those_of_the_errors():
    said = {int(code) for code in re.findall(r"\| (\d+) \|$", PAGE, re.MULTILINE)}
    errors = by_name()
    assert said == {errors[name].exit_code for name in (
        "Refused", "BadInput", "Rejected", "AwaitingApproval", "DoesNotVerify")}
