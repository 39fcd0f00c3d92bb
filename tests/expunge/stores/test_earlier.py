"""What a workspace knows of the requests before: found by digests alone, filled in, and held against what is said."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expunge import assets
from expunge.contracts import (
    Candidate,
    Compute,
    EarlierRequest,
    Release,
    Request,
    SampleSet,
    StoredFile,
    parse_record,
    write_record,
)
from expunge.digests import sha256_bytes, sha256_file
from expunge.errors import BadInput, DoesNotVerify
from expunge.models import ModelSpec, save
from expunge.settings import Workspace
from expunge.stores import releases
from expunge.stores.earlier import past_of
from expunge.stores.sources import model_file, pin
from pipelines.demo import request_for

D = "0" * 64
DCGAN = sha256_file(assets.path("dcgan"))
NAMES = [f"digit-{number}" for number in range(10)]


def write_model(file, text):
    """A generator's file, which says so, and has never learned anything."""
    save(file, {"learned": torch.tensor(list(text.encode()))}, ModelSpec(architecture="dcgan", family="gan"))


class House:
    """A workspace in which requests are carried out without any learning: only records are left behind."""

    def __init__(self, workspace, folder):
        self.workspace, self.folder, self.count = workspace, folder, 0
        folder.mkdir(exist_ok=True)

    def ask(self, classes, checkpoint="builtin://digits/dcgan", earlier=(), **changes):
        """A pinned request."""
        document = request_for(8, 0, False) | {
            "id": f"forget-{'-'.join(map(str, classes))}", "checkpoint": {"uri": str(checkpoint)}, "reference": None,
            "forget": {"classes": list(classes), "earlier": list(earlier)}} | changes
        return pin(parse_record(Request, document, "request"), self.folder, self.workspace)

    def carry_out(self, request):
        """The file of the candidate that came of it."""
        self.count += 1
        there = write_record(self._made(self.workspace.runs / f"{request.id}.{self.count}") / "request.json", request)
        weights = self.folder / f"{self.count}.safetensors"
        write_model(weights, f"candidate {self.count} of {self.folder}")
        set_id = sha256_bytes(f"set {self.count}".encode())
        results = self.workspace.results
        write_record(self._made(results / f"curate-{self.count}" / "negative"), SampleSet(
            role="negative", set_id=set_id, request_id=request.id, request_sha256=sha256_file(there), count=20,
            class_counts={}, unwanted=(), image_shape=(1, 16, 16), remote="r", shards=(), made_from={}))
        write_record(self._made(results / f"unlearn-{self.count}" / "candidate"), Candidate(
            method="m", claim="approximate removal", params={}, seed=0, parent_sha256=request.checkpoint.sha256,
            adaptation_sha256=D, oracle_sha256=D, negative_id=set_id, positive_id=D, family="gan", architecture="dcgan",
            config={}, weights=StoredFile.of(weights),
            compute=Compute(device="cpu", threads=1, torch="t", instruction_set="i", machine="m")))
        return weights

    def release(self, request, weights, model="digits"):
        """Puts it into service."""
        sha256 = sha256_file(weights)
        return releases.publish(self.workspace, model, weights, sha256, lambda generation, stored, beside: Release(
            model=model, generation=generation, run="r", request_id=request.id,
            request_sha256=sha256_bytes(request.to_bytes()), parent_sha256=request.checkpoint.sha256,
            candidate_sha256=sha256, verdict_sha256=D, report_sha256=D, approvals=(), weights=stored,
            released_at="2026-11-20T00:00:00+00:00"), {})

    @staticmethod
    def _made(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@pytest.fixture
def house(workspace, tmp_path):
    return House(workspace, tmp_path / "mine")


def test_of_a_model_that_nobody_made_here_nothing_is_known(house):
    asked = house.ask([8])
    assert (asked.forget.earlier, asked.origin, asked.came_before) == ((), None, ())


def test_a_candidate_brings_its_past_along_wherever_its_bytes_lie(house):
    first = house.ask([8])
    made = shutil.copy(house.carry_out(first), house.folder / "copy.safetensors")
    asked = house.ask([3], made)
    assert asked.forget.earlier == (8,)
    assert (asked.origin.uri, asked.origin.sha256) == ("builtin://digits/dcgan", DCGAN)
    assert asked.came_before == (EarlierRequest(
        request_id="forget-8", request_sha256=sha256_bytes(first.to_bytes()), candidate_sha256=sha256_file(made),
        classes=(8,)),)
    assert pin(asked, Path("/elsewhere"), house.workspace) == asked


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chain=st.lists(st.sets(st.integers(0, 9), min_size=1, max_size=2), min_size=1, max_size=4),
       again=st.booleans())
def test_nothing_is_lost_on_the_way_however_long_it_is(tmp_path_factory, chain, again):
    folder = tmp_path_factory.mktemp("chain")
    house = House(Workspace(folder / ".expunge"), folder / "mine")
    checkpoint, lost = "builtin://digits/dcgan", set()
    for number, classes in enumerate(chain):
        asked = house.ask(sorted(classes), checkpoint)
        assert set(asked.forget.earlier) == lost
        assert (asked.origin.sha256 if number else asked.origin) == (DCGAN if number else None)
        assert [set(before.classes) for before in asked.came_before] == chain[:number]
        if again:
            asked = pin(asked, folder, house.workspace)
        lost |= classes
        checkpoint = house.carry_out(asked)


def test_a_release_is_named_in_short_and_pinned_by_its_number(house):
    first = house.ask([8])
    one = house.carry_out(first)
    house.release(first, one)
    asked = house.ask([3], "release://digits")
    assert (asked.checkpoint.uri, asked.checkpoint.sha256) == ("release://digits/1", sha256_file(one))
    assert asked.forget.earlier == (8,)
    house.release(asked, house.carry_out(asked))
    assert house.ask([5], "release://digits").checkpoint.uri == "release://digits/2"
    assert house.ask([5], "release://digits").forget.earlier == (3, 8)
    assert pin(asked, house.folder, house.workspace) == asked, "what is served by now is another"


def test_a_release_is_enough_to_know_its_past_when_the_rooms_results_are_gone(house):
    first = house.ask([8])
    house.release(first, house.carry_out(first))
    shutil.rmtree(house.workspace.results)
    assert house.ask([3], "release://digits").forget.earlier == (8,)


@pytest.mark.parametrize(("uri", "said"), [
    ("release://faces", r"nothing was released under that name here: released were: digits"),
    ("release://..", r"nothing was released under that name here"),
    ("release://digits/7", r"there is no such generation: name a generation: release://digits/1"),
    ("release://digits/", r"names no release: write release://model for what is served now"),
    ("release://", r"names no release"),
])
def test_a_release_that_there_is_not_is_named(house, uri, said):
    first = house.ask([8])
    house.release(first, house.carry_out(first))
    with pytest.raises(BadInput, match=rf"^checkpoint\.uri: {uri.replace('.', '[.]')}: {said}"):
        house.ask([3], uri)


def test_what_is_out_of_service_can_still_be_named_by_its_number(house):
    first = house.ask([8])
    house.release(first, house.carry_out(first))
    releases.withdraw(house.workspace, "digits")
    with pytest.raises(BadInput, match=r"release://digits: it is not in service: name a generation: release://digits/1"):
        house.ask([3], "release://digits")
    assert house.ask([3], "release://digits/1").forget.earlier == (8,)


def test_a_release_whose_bytes_were_changed_is_not_used(house):
    first = house.ask([8])
    release = house.release(first, house.carry_out(first))
    (releases.folder_of(house.workspace, release) / releases.WEIGHTS).write_bytes(b"others")
    with pytest.raises(DoesNotVerify, match="not the bytes that were released"):
        house.ask([3], "release://digits")
    with pytest.raises(BadInput, match="is a model, not a data set"):
        house.ask([3], holdout={"uri": "release://digits"})
    assert model_file("checkpoint", first.checkpoint, house.workspace)


# ------------------------------------------------------------------------------ what is said, and what is known


def test_a_stranger_may_bring_a_past_that_is_only_said(house):
    stranger = house.folder / "stranger.safetensors"
    write_model(stranger, "stranger")
    asked = house.ask([3], stranger, earlier=[8], origin={"uri": "builtin://digits/dcgan"})
    assert (asked.forget.earlier, asked.origin.sha256, asked.came_before) == ((8,), DCGAN, ())
    assert house.ask([3], stranger, earlier=[8]).origin is None
    following = house.ask([5], house.carry_out(asked))
    assert (following.forget.earlier, following.origin.sha256) == ((3, 8), DCGAN)
    unsaid = house.ask([5], house.carry_out(house.ask([3], stranger, earlier=[8])))
    assert (unsaid.forget.earlier, unsaid.origin) == ((3, 8), None), "where that chain began nobody said"


def test_what_is_said_and_known_agrees_or_the_field_is_named(house):
    first = house.ask([8, 1])
    made = house.carry_out(first)
    assert house.ask([3], made, earlier=[1, 8], origin={"uri": "builtin://digits/dcgan"}).forget.earlier == (1, 8)
    with pytest.raises(BadInput, match=r"^forget\.earlier: the request says 8, the runs here .* say 1, 8: leave it out"):
        house.ask([3], made, earlier=[8])
    with pytest.raises(BadInput, match=r"^origin: the request names .* the runs here .* began with"):
        house.ask([3], made, origin={"uri": "builtin://digits/never-saw-8"})
    with pytest.raises(BadInput, match=r"^came_before: not the requests that made the checkpoint here: leave it out"):
        house.ask([3], "builtin://digits/dcgan", came_before=[house.ask([3], made).came_before[0].model_dump()])


def test_an_origin_needs_something_that_was_forgotten_and_is_another_model(house):
    with pytest.raises(BadInput, match=r"^origin: nothing was forgotten before this request"):
        house.ask([3], origin={"uri": "builtin://digits/never-saw-8"})
    with pytest.raises(BadInput, match=r"^origin: it is the checkpoint itself"):
        house.ask([3], earlier=[8], origin={"uri": "builtin://digits/dcgan"})


def test_what_is_asked_for_again_was_forgotten_before_all_the_same(house):
    again = house.ask([8], house.carry_out(house.ask([8, 1])))
    assert again.forget.earlier == (1, 8)
    assert again.origin.sha256 == DCGAN, "attempt after attempt adds to the drift as well"
    assert house.ask([8], house.carry_out(again)).forget.earlier == (1, 8)


def test_an_origin_that_is_gone_is_named_and_may_be_named_anew(house):
    mine = house.folder / "mine.safetensors"
    shutil.copy(assets.path("dcgan"), mine)
    made = house.carry_out(house.ask([8], mine))
    mine.rename(house.folder / "moved.safetensors")
    with pytest.raises(BadInput, match=r"^origin\.uri: .*mine\.safetensors: no such file"):
        house.ask([3], made)
    assert house.ask([3], made, origin={"uri": "moved.safetensors"}).origin.sha256 == DCGAN


def test_a_request_that_is_gone_or_was_changed_is_missed(house):
    first = house.ask([8])
    made = house.carry_out(first)
    file, = house.workspace.runs.glob("*/request.json")
    file.write_bytes(file.read_bytes().replace(b"[8]", b"[7]"))
    with pytest.raises(BadInput, match=r"^checkpoint: it was made here for the request .* which no run holds any more"):
        house.ask([3], made)


def test_a_tampered_result_is_no_past(house):
    made = house.carry_out(house.ask([8]))
    for file in house.workspace.results.glob("*/candidate/record.json"):
        file.write_text("no record")
    assert house.ask([3], made).forget.earlier == ()


# ------------------------------------------------------------------------------------------- another oracle


def oracle(**more):
    return {"uri": "builtin://digits/judge"} | more


def test_numbers_of_another_oracle_say_nothing_here_and_names_do(house):
    made = house.carry_out(house.ask([8]))
    with pytest.raises(BadInput, match=r"^forget\.earlier: class 8 was forgotten before, by the numbers of another oracle"):
        house.ask([3], made, oracle=oracle())
    assert house.ask([3], made, earlier=[8], oracle=oracle()).forget.earlier == (8,)
    named = house.carry_out(house.ask([8], oracle={"uri": "builtin://digits/oracle", "classes": NAMES}))
    assert house.ask([3], named, oracle=oracle(classes=NAMES[::-1])).forget.earlier == ("digit-8",)
    assert house.ask([3], named, oracle=oracle()).forget.earlier == ("digit-8",)


def test_a_name_and_a_number_of_the_same_oracle_are_one_class(house):
    named = {"uri": "builtin://digits/oracle", "classes": NAMES}
    made = house.carry_out(house.ask([8], oracle=named))
    assert house.ask([3], made, earlier=["digit-8"], oracle=named).forget.earlier == ("digit-8",)
    second = house.ask(["digit-8"], made, oracle=named)
    assert house.ask([3], house.carry_out(second), oracle=named).forget.earlier == (8,)


def test_a_chain_pinned_by_a_version_that_did_not_ask_is_followed_all_the_same(house):
    first = house.ask([8])
    second = house.ask([3], house.carry_out(first))
    as_then = second.model_copy(update={
        "forget": second.forget.model_copy(update={"earlier": ()}), "origin": None, "came_before": ()})
    made = house.carry_out(as_then)
    past = past_of(house.workspace, sha256_file(made))
    assert (past.classes, past.origin.sha256) == ((3, 8), DCGAN)
    assert [before.request_id for before in past.requests] == ["forget-8", "forget-3"]
