"""Records: the round-trip law, frozen values, unknown keys, and what earlier versions wrote."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from expunge import contracts
from expunge.contracts import Measurement, Record, Request, parse_record, read_record, write_record
from expunge.errors import BadInput
from pipelines.demo import request_for

GOLDEN = Path(__file__).parent.parent / "golden"
KINDS = {kind.__name__.lower(): kind for kind in Record.__subclasses__() if kind.__module__.startswith(contracts.__name__)}


def golden_files():
    return sorted(GOLDEN.glob("*/*.json"))


@pytest.mark.parametrize("file", golden_files(), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_what_an_earlier_version_wrote_is_read_and_nothing_of_it_is_lost(file, tmp_path):
    record = read_record(KINDS[file.stem], file)
    again = write_record(tmp_path / "again.json", record)
    assert read_record(type(record), again) == record
    refuse_loss(json.loads(file.read_bytes()), json.loads(again.read_bytes()))


def refuse_loss(earlier, now):
    """Every value that says something is still there; what was empty may have gone."""
    for key, value in earlier.items():
        if isinstance(value, dict):
            refuse_loss(value, now.get(key) or {})
        elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
            assert len(now[key]) == len(value), key
            for item, item_now in zip(value, now[key], strict=True):
                refuse_loss(item, item_now)
        else:
            assert value is None or now[key] == value, key


def test_every_kind_of_record_has_a_golden_one():
    assert {file.stem for file in golden_files()} == KINDS.keys()


def test_a_record_cannot_be_changed():
    request = parse_record(Request, request_for(8, 0, False), "r")
    with pytest.raises(ValidationError, match="frozen"):
        request.seed = 1


def test_a_record_of_another_schema_is_refused():
    with pytest.raises(BadInput, match=r"r: 'schema' is 'expunge/request/v9', this version reads 'expunge/request/v1'"):
        parse_record(Request, {**request_for(8, 0, False), "schema": "expunge/request/v9"}, "r")


def test_a_measurement_has_a_number_or_a_reason_and_never_both():
    assert Measurement(name="x", missing="no holdout").estimate is None
    for wrong in ({"name": "x"}, {"name": "x", "estimate": 1.0, "missing": "why"}, {"name": "x", "estimate": float("nan")}):
        with pytest.raises(ValidationError):
            Measurement.model_validate(wrong)
