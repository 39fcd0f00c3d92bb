"""What people write is read as one thing, or refused in a line that says where."""

import json

import pytest

from expunge.documents import parse_document
from expunge.errors import BadInput


@pytest.mark.parametrize("written", [
    r'{"config": {"": {"\ud800\udc00": null}}}',  # what JSON means by two is one character; YAML reads two
    r'{"config": {"": {"\ud800": null}}}',
    r'{"config": {"": ["\ud800"]}}',
])
def test_half_a_character_is_refused_wherever_it_stands(written):
    with pytest.raises(BadInput, match="holds half a character"):
        parse_document(written.encode(), "r.yaml")


def test_a_pair_of_json_is_one_character():
    assert parse_document(rb'{"\ud800\udc00": 1}', "r.json", is_yaml=False) == {"\U00010000": 1}


@pytest.mark.parametrize(("written", "said"), [
    ("a: *b", "not a readable document"),
    ("a: 1\na: 2", "says 'a' twice"),
    ("1: a", "the key '1' is no text"),
    ("a: 9007199254740993", "'a' holds a whole number beyond"),
    ("a: 2026-01-01 12:00:00", "'a' holds a datetime"),
    ("[" * 40 + "]" * 40, "nested more than"),
])
def test_what_means_two_things_or_cannot_be_said_again_is_refused(written, said):
    with pytest.raises(BadInput, match=said):
        parse_document(written.encode(), "r.yaml")


def test_a_sound_document_comes_out_as_it_went_in():
    sound = {"id": "forget-8", "classes": [8, "acht ☃"], "none": None, "range": [-1.0, 1.0]}
    assert parse_document(json.dumps(sound).encode(), "r.yaml") == sound
