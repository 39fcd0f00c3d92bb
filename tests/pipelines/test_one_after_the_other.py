"""A second request on what the first one released, as docs/one-after-the-other.md tells it, by the command."""

import re
from pathlib import Path

import pytest
import yaml
from tests_support import blocks, typed

from expunge import assets
from expunge.contracts import DataSource, Report, Request, Verdict, parse_record, read_record
from expunge.digests import sha256_file
from expunge.measure.policy import AS_EXPECTED
from expunge.runs import Run
from expunge.stores import releases
from pipelines.demo import request_for

DOC = (Path(__file__).parents[2] / "docs" / "one-after-the-other.md").read_text()


def test_the_models_past_can_be_said_as_the_document_writes_it():
    written, = blocks(DOC, "yaml")
    request = parse_record(Request, {**request_for(3, 0, True), **yaml.safe_load(written)}, "docs")
    assert request.forget.earlier == (8,)
    assert isinstance(request.holdout, DataSource)


@pytest.mark.thorough
def test_a_second_request_knows_of_the_first_without_being_told(copy_of_demo, workspace_of, expunge):
    first, *rest = blocks(DOC, "bash")
    assert first == "expunge demo --debug-size --digit 8 --folder shop\ncd shop\n"  # that is what the fixture has done
    said = typed(rest, copy_of_demo, TERMINAL_WIDTH="200", COLUMNS="200")
    assert re.search(r"forgotten before +8\n", said[0])

    workspace = workspace_of(copy_of_demo)
    one, two = releases.history(workspace, "digits")
    run = workspace.runs / "forget-3.1"
    asked = read_record(Request, run / "request.json")
    assert asked.checkpoint.uri == "release://digits/1"
    assert asked.forget.earlier == (8,)
    assert asked.origin.sha256 == sha256_file(assets.path("dcgan"))
    assert [(before.request_id, before.classes) for before in asked.came_before] == [("forget-8", (8,))]
    assert asked.came_before[0].candidate_sha256 == asked.checkpoint.sha256 == one.weights.sha256 == two.parent_sha256

    rooms = Run.find(workspace, run.name).state().rooms
    report = read_record(Report, workspace.root / rooms["evaluate"].result / "report")
    verdict = read_record(Verdict, workspace.root / rooms["gate"].result / "verdict")
    assert (report.unwanted, report.earlier, report.came_before) == ((3,), (8,), asked.came_before)
    assert report.origin_sha256 == asked.origin.sha256
    assert report.measurement("residual_rate_earlier").interval.upper < 0.05
    assert report.measurement("drift").interval is not None
    assert {found.rule.metric: found.outcome for found in verdict.rules}["residual_rate_earlier"] == "PASS"
    assert verdict.controls["origin"] == verdict.controls["parent"] == AS_EXPECTED
    assert "Earlier requests made the parent forget class 8." in (run / "report.html").read_text()
    assert expunge(copy_of_demo, "audit", "verify", "--json").json["wrong"] == []

    again = expunge(copy_of_demo, "rollback", "digits", "--as", "grace", "--reason", "no", "--json")
    assert releases.current(workspace, "digits") is None, again.err
