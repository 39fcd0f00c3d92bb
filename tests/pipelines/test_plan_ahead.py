"""`run --plan`: what it says beforehand, and that it leaves no trace."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from expunge.contracts import Request, parse_record
from expunge.runs import Run
from expunge.settings import Workspace
from expunge.stores.sources import pin
from pipelines import planning


@pytest.fixture
def plan(waiting):
    """Plans the waiting request with changes; returns what the command prints as JSON."""
    workspace = Workspace(waiting / ".expunge")

    def made(again=False, **changes):
        document = {**yaml.safe_load((waiting / "request.yaml").read_text()), **changes}
        named = parse_record(Request, document, "request.yaml")
        with planning.untouched(workspace) as reading:
            return planning.plan(workspace, pin(named, waiting, reading), named, again).model_dump(mode="json")

    return made


def rooms(found):
    return {room["room"]: room for room in found["rooms"]}


def test_a_plan_changes_no_byte_of_the_workspace(waiting, expunge):
    def tree():
        return {str(path.relative_to(waiting)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
                if path.is_file() else None for path in waiting.rglob("*")}

    before = tree()
    for options in ((), ("--again", "--json")):
        assert expunge(waiting, "run", "request.yaml", "--plan", *options).code == 0
    assert tree() == before


def test_a_decided_request_is_said_to_do_nothing_and_again_makes_the_second_attempt(plan):
    found = plan()
    assert (found["would"], found["run"]) == ("nothing", "forget-8.1")
    again = plan(again=True)
    assert (again["would"], again["run"], again["attempts"], again["verdicts"]) == ("start", "forget-8.2", 1, 1)


def test_what_an_earlier_run_made_is_reused_up_to_the_model_that_was_destroyed(plan, waiting):
    found = rooms(plan(again=True))
    assert {name for name, room in found.items() if room["reuses"]} == {"fetch_checkpoint", "curate_forget_set"}
    assert (waiting / ".expunge" / found["fetch_checkpoint"]["reuses"] / "statement.json").is_file()


@pytest.mark.thorough
def test_a_plan_foretells_what_the_run_then_reuses(plan, waiting, expunge):
    foretold = {name for name, room in rooms(plan(again=True)).items() if room["reuses"]}
    done = expunge(waiting, "run", "request.yaml", "--again", "--json")
    assert done.code == 10, done.err
    assert {name for name, spent in done.json["seconds"].items() if spent is None} == foretold


def test_times_come_from_the_run_named_and_scale_with_the_counts(plan, waiting):
    took = Run.find(Workspace(waiting / ".expunge"), "forget-8.1").state().rooms
    found = rooms(plan(id="other", sampling={"curate": 2_000, "evaluate": 2_000}))
    assert found["curate_forget_set"]["measured_in"] == "forget-8.1"
    assert found["curate_forget_set"]["seconds"] == pytest.approx(2 * took["curate_forget_set"].seconds, abs=0.1)
    assert "1,000 → 2,000" in found["curate_forget_set"]["scaled"]
    assert found["unlearn"]["seconds"] == pytest.approx(took["unlearn"].seconds, abs=0.1)


def test_a_time_that_nobody_measured_is_not_invented(plan):
    found = plan(id="other", method={"name": "adapt_then_unlearn", "preset": "paper"})
    assert rooms(found)["unlearn"]["seconds"] is None
    assert found["seconds"] is None
    assert found["in_time"] is None


def test_too_few_samples_are_named_with_the_number_that_would_do(plan):
    found = plan(id="other", sampling={"curate": 1_000, "evaluate": 100})
    assert found["samples"]["can_pass"] is False
    enough = found["samples"]["at_least"]
    assert any(f"set sampling.evaluate to {enough:,} or more" in warning for warning in found["warnings"])
    assert plan(id="other", sampling={"curate": 1_000, "evaluate": enough})["samples"]["can_pass"] is True


def test_the_share_of_the_unwanted_is_the_one_an_earlier_run_measured(plan, waiting):
    report, = waiting.glob(".expunge/results/evaluate-*/report/record.json")
    measured = {found["name"]: found for found in json.loads(report.read_text())["measurements"]}
    assert plan(id="other")["samples"]["unwanted_share"] == measured["residual_rate_before"]["estimate"]
    assert plan(id="other", forget={"classes": [3]})["samples"]["unwanted_share"] is None


@pytest.mark.parametrize(("changes", "why"), [
    ({"reason": "privacy"}, "the reason is privacy"), ({"show_before": False}, "the request forbids it")])
def test_what_will_not_be_shown_is_said_with_its_reason(plan, changes, why):
    assert any(why in text for text in plan(**changes)["not_shown"])


def test_the_claim_is_said_for_what_it_is(plan):
    found = plan()
    assert found["method"]["claim"] == "output suppression"
    assert any("output suppression" in text for text in found["not_shown"])
    assert not any("what the parent drew" in text for text in found["not_shown"])


def test_the_method_is_said_with_the_reason_for_it_and_what_it_may_read(plan):
    training = {"training": {"uri": "builtin://digits/train"}}
    assert plan()["method"]["why"] == "the request names it"
    assert "training" not in plan()["method"]["may_read"]
    for brings in ({}, training):
        found = plan(id="other", method="auto", **brings)["method"]
        assert found["name"] != "auto"
        assert found["why"].startswith("chosen by auto, given " + ("training images: " if brings else "no training"))
        assert ("of training, images to forget and to keep" in found["may_read"]) == bool(brings)


def test_those_who_may_sign_are_named_and_the_requester_is_not_among_them(plan):
    found = plan()
    assert (found["approvals"], found["reviewers"]) == (1, ["grace"])
    alone = plan(requester="grace")
    assert alone["reviewers"] == ["ada"]


def test_nobody_who_may_sign_is_a_warning(waiting, expunge, plan):
    keyring = waiting / ".expunge" / "keyring.json"
    kept = json.loads(keyring.read_text())
    kept["entries"] = [entry for entry in kept["entries"] if entry["person"] != "grace"]
    keyring.write_text(json.dumps(kept))
    assert any("1 must sign and 0 could" in warning for warning in plan()["warnings"])


def test_a_due_date_is_held_against_the_expected_time(plan):
    today = datetime.now(UTC).date()
    assert plan(id="other", due=str(today + timedelta(days=3)))["in_time"] is True
    late = plan(id="other", due=str(today - timedelta(days=2)))
    assert late["in_time"] is False
    assert any("2 days ago" in warning for warning in late["warnings"])


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "named"), [
    ({"policy": "mild"}, "policy: 'mild' is not known"),
    *(pytest.param(*case, marks=pytest.mark.thorough) for case in [
        ({"method": {"name": "magic"}}, "method 'magic' is not known"),
        ({"method": {"preset": "hasty"}}, "preset 'hasty'"),
        ({"method": {"params": {"steps": 0}}}, "method.params.steps"),
        ({"checkpoint": {"uri": "nowhere.safetensors"}}, "checkpoint"),
        ({"checkpoint": {"uri": "builtin://digits/dcgan", "sha256": "0" * 64}}, "checkpoint.sha256"),
    ]),
])
def test_bad_input_is_the_same_error_as_the_run_gives(waiting, expunge, changes, named):
    document = {**yaml.safe_load((waiting / "request.yaml").read_text()), "id": "bad", **changes}
    (waiting / "bad.yaml").write_text(yaml.safe_dump(document))
    planned = expunge(waiting, "run", "bad.yaml", "--plan")
    ran = expunge(waiting, "run", "bad.yaml")
    assert named in planned.err
    assert planned.code == ran.code != 0
    # A run adds the room that found it.
    assert planned.err.removeprefix("expunge: ") in ran.err.replace("fetch_checkpoint: ", "")


def test_people_read_one_line_per_room_and_the_warnings_last(waiting, expunge):
    done = expunge(waiting, "run", "request.yaml", "--plan", "--again")
    assert done.code == 0
    lines = done.out.splitlines()
    for title in ("fetch checkpoint", "curate forget set", "adapt", "unlearn", "evaluate", "gate"):
        assert sum(line.startswith(f"{title} ") for line in lines) == 1
    assert "would start forget-8.2; 1 of 1 earlier runs came to a verdict" in done.out
