"""A request about a classifier goes all the way, and whatever cannot go is refused in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests_support import blocks, call, carried_out, exported_and_disposed_of, two_people, typed, without

from expunge import assets, models
from expunge.contracts import (
    Absent,
    Request,
    parse_record,
    read_record,
)
from expunge.errors import BadInput, NotNeeded
from expunge.families import refuse_what_does_not_fit
from expunge.runs import Run
from expunge.samples import read_samples
from expunge.stores.sources import pin
from pipelines.cli import carry_out

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "classifiers.md").read_text()
EXAMPLE = yaml.safe_load((ROOT / "examples" / "classifier" / "request.yaml").read_text())
QUICK = {"method": {"name": "fine_tune_classifier", "params": {"steps": 60, "rate": 0.01}}, "policy": "debug", "threads": 1,
         "sampling": {"lessons": 2}}
DCGAN = {"uri": "builtin://digits/dcgan"}


def asked(**changes):
    return EXAMPLE | QUICK | changes


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder in which the example was carried out, at debug size: released, by two people."""
    folder = tmp_path_factory.mktemp("classifier")
    two_people(folder)
    return folder, carried_out(folder, asked(), "it is gone")


def test_the_request_on_the_page_is_the_examples():
    shown, = blocks(PAGE, "yaml")
    assert yaml.safe_load(shown) == EXAMPLE


@pytest.mark.thorough
def test_the_page_can_be_followed_line_by_line(tmp_path):
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(EXAMPLE | {"method": {"name": "auto", "preset": "debug"}, "threads": 1}))
    typed(blocks(PAGE, "bash"), tmp_path)
    ended = call(tmp_path, "status", EXAMPLE["id"], "--json").json
    assert ended["verdict"] in ("PASS", "FAIL", "INCONCLUSIVE")  # of debug size: it need not pass, nor be INVALID
    assert ended["method"]["chosen"]


@pytest.mark.thorough
def test_a_classifier_is_made_to_forget_and_comes_home(released, workspace_of):
    folder, found = released
    assert found["state"] == "released"
    assert found["forget_accuracy"]["upper"] <= 0.5
    assert found["pul"] is found["residual_rate"] is found["fid"] is None
    audit = call(folder, "audit", "verify")
    assert audit.code == 0, audit.out + audit.err

    served = folder / ".expunge" / "releases" / "reader" / "current" / "model.safetensors"
    before, after = load_file(assets.path("judge")), load_file(served)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    spec = models.read(served)[1]
    assert (spec.family, spec.classes) == ("classifier", models.read(assets.path("judge"))[1].classes)

    run = Run.find(workspace_of(folder), EXAMPLE["id"])
    for room, name in (("curate_forget_set", "negative"), ("curate_forget_set", "positive"),
                       ("fetch_checkpoint", "oracle"), ("fetch_checkpoint", "judge")):
        assert read_record(Absent, run.output(room, name)).reason
    candidate, report = run.candidate(), run.report()
    assert candidate.negative_id is candidate.positive_id is candidate.oracle_sha256 is report.judge_sha256 is None
    assert (report.forget_id, report.retain_id) == (candidate.forget_id, candidate.retain_id)
    assert report.family == candidate.family == run.request().family == "classifier"
    page = run.page.read_text()
    assert "Accuracy on the forgotten" in page
    assert not [word for word in ("latents", "judge", "None") if word in page.partition("</style>")[2]]


@pytest.mark.thorough
def test_what_a_classifier_forgot_is_exported_for_a_stranger_and_disposed_of(released, tmp_path):
    said, receipt = exported_and_disposed_of(released[0], EXAMPLE["id"], tmp_path)
    assert "forget_accuracy at most" in said
    assert receipt["images"] > 0
    assert receipt["redrawn"] == [], "nobody draws them again from a classifier"


@pytest.mark.thorough
def test_what_is_released_is_the_next_requests_parent_and_has_to_stay_forgotten(released, tmp_path, workspace_of):
    folder, _ = released
    (folder / "next.yaml").write_text(yaml.safe_dump(asked(
        id="reader-forget-7", checkpoint={"uri": "release://reader"}, forget={"classes": ["7"]})))
    plan = call(folder, "run", "next.yaml", "--plan", "--json").json
    assert (plan["forget"], plan["earlier"]) == (["7"], ["4"])
    (folder / "back.yaml").write_text(yaml.safe_dump(asked(id="back", model="reader")))
    plan = call(folder, "run", "back.yaml", "--plan", "--json").json
    assert plan["method"]["family"] == "classifier"
    assert plan["samples"]["of"] == "held-out images"
    assert plan["rooms"][1]["does"] == "sorts the training images by their labels"


# ------------------------------------------------------------------------------------- what the request says

REFUSED = {
    "an oracle": ({"oracle": {"uri": "builtin://digits/oracle"}}, "oracle: it means nothing for a classifier"),
    "a judge": ({"judge": {"uri": "builtin://digits/oracle"}}, "judge: it means nothing for a classifier"),
    "an extractor": ({"extractor": {"uri": "builtin://digits/oracle"}}, "extractor: it means nothing for a classifier"),
    "a discriminator": ({"discriminator": DCGAN}, "discriminator: it means nothing for a classifier"),
    "labels of draws": ({"labels": {"uri": "request.yaml"}}, "labels: it means nothing for a classifier"),
    "latents": ({"checkpoint": {**EXAMPLE["checkpoint"], "latent": 3}}, "checkpoint.latent: it means nothing"),
    "draws to curate": ({"sampling": {"curate": 500}}, "sampling.curate: it means nothing for a classifier"),
    "draws to evaluate": ({"sampling": {"evaluate": 500}}, "sampling.evaluate: it means nothing for a classifier"),
    "a search": ({"sampling": {"search": 0}}, "sampling.search: it means nothing for a classifier"),
    "no training": ({"training": None}, "training: a classifier needs one"),
    "a generator for a reference": ({"reference": DCGAN}, "reference: it is a generator, the checkpoint is a classifier"),
    "another family": ({"checkpoint": {**EXAMPLE["checkpoint"], "family": "gan"}}, "checkpoint.family: the request says gan"),
    "a method of generators": ({"method": {"name": "retrain"}}, "method 'retrain' is for gan models"),
    "a generator without an oracle": ({"checkpoint": DCGAN}, "oracle: a generator needs one"),
    "a generator with class names": (
        {"checkpoint": {**DCGAN, "classes": ["a"]}}, "checkpoint.classes: it means nothing for a generator"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_nothing_for_the_family_is_refused_before_anything_runs(name, workspace, tmp_path, capsys, monkeypatch):
    changes, said = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    Path("request.yaml").write_text(yaml.safe_dump(asked(**changes)))
    assert carry_out(["run", "request.yaml", "--plan"]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert said in line
    assert not Run.all(workspace)


def test_the_family_is_read_off_the_file_or_the_architecture_and_else_said(workspace, tmp_path):
    state, spec = models.read(assets.path("judge"))
    torch.save(state, tmp_path / "plain.pt")
    bare = {"uri": "plain.pt", "architecture": spec.architecture, "config": spec.config}
    for checkpoint in (EXAMPLE["checkpoint"], bare, {**bare, "family": "classifier"}):
        pinned = pin(parse_record(Request, asked(checkpoint=checkpoint), "r"), tmp_path, workspace)
        assert pinned.family == pinned.checkpoint.family == "classifier"
    assert pin(pinned, Path("/elsewhere"), workspace) == pinned
    refuse_what_does_not_fit(pinned)


# ------------------------------------------------------------------------------------- what the rooms find


@pytest.fixture
def rooms(first_rooms):
    """The first two rooms, for a request that differs from the example; returns the records by role."""
    return lambda **changes: first_rooms(asked(**changes))


def test_the_labels_sort_the_images_by_the_classifiers_own_numbers(rooms, workspace):
    found = rooms(forget={"classes": ["4", "7"]})
    assert found.keys() == {"forget", "retain", "holdout", "members"}
    assert set(found["forget"].class_counts) == set(found["members"].class_counts) == {"4", "7"}
    assert not {"4", "7"} & set(found["retain"].class_counts)
    assert {record.unwanted for record in found.values()} == {(4, 7)}
    assert {record.classes for record in found.values()} == {models.read(assets.path("judge"))[1].classes}
    assert len(read_samples(workspace, found["holdout"])) == found["holdout"].count == len(assets.digits("holdout")[1])


def test_a_restricted_class_without_a_sample_is_refused(rooms, pictures):
    with pytest.raises(BadInput, match="training: no image is of class 4, which is to be forgotten: add labelled"):
        rooms(training=pictures("train.parquet", change=without(4)))
    with pytest.raises(BadInput, match=r"holdout: no image is of class 4, .* nothing else could show"):
        rooms(holdout=pictures("holdout.parquet", "holdout", without(4)))


def test_all_classes_at_once_are_refused(rooms):
    with pytest.raises(BadInput, match=r"forget\.classes: all 10 classes of the checkpoint would be forgotten"):
        rooms(forget={"classes": list(range(10))})


def test_a_class_that_the_classifier_does_not_know_is_refused(rooms):
    with pytest.raises(BadInput, match=r"forget\.classes: the checkpoint does not know class 'cat'"):
        rooms(forget={"classes": ["cat"]})


def test_images_of_nothing_else_are_refused(rooms, pictures):
    with pytest.raises(BadInput, match="training: every image is of a class that is to be forgotten"):
        rooms(training=pictures("train.parquet", change=without(0, 1, 2, 3, 5, 6, 7, 8, 9)))


def test_images_of_another_size_or_class_are_refused(rooms, pictures):
    with pytest.raises(BadInput, match="training: its images are 1x15x16, those of holdout 1x16x16"):
        rooms(training=pictures("small.parquet", change=lambda images, labels: (images[:, :, 1:], labels)))
    with pytest.raises(BadInput, match=r"training: .* images are of class 14, which the checkpoint does not know"):
        rooms(training=pictures("more.parquet", change=lambda images, labels: (images, np.where(labels == 3, 14, labels))))


def test_an_image_to_learn_from_and_to_be_measured_by_is_refused(rooms):
    with pytest.raises(BadInput, match=r"the same image is in the .* and the holdout set"):
        rooms(training={"uri": "builtin://digits/holdout"})


def test_a_classifier_that_knows_nothing_of_the_labels_is_refused(rooms, pictures):
    with pytest.raises(BadInput, match=r"checkpoint: it names .* held-out images of what is to stay right"):
        rooms(holdout=pictures("shuffled.parquet", "holdout", lambda images, labels: (images, (labels + 1) % 10)))


def test_a_class_that_the_classifier_has_lost_already_is_left_alone(rooms, tmp_path):
    state, spec = models.read(assets.path("judge"))
    state["head.bias"][4] = -1e4  # never its choice again
    models.save(tmp_path / "lost.safetensors", state, spec)
    with pytest.raises(NotNeeded, match="it names 0 of 54 held-out images of the unwanted right"):
        rooms(checkpoint={"uri": "lost.safetensors"})


def test_statistics_of_batch_normalisation_that_are_missing_or_no_numbers_are_refused(rooms, tmp_path):
    torch.manual_seed(0)
    config = {"channels": 1, "classes": 10}
    spec = models.ModelSpec(architecture="resnet-20", config=config, family="classifier")
    whole = models.build("resnet-20", **config).state_dict()
    part = {name: tensor for name, tensor in whole.items() if not name.endswith("running_mean")}
    models.save(tmp_path / "part.safetensors", part, spec)
    with pytest.raises(BadInput, match=r"the weights do not fit the architecture: bn1\.running_mean is missing"):
        rooms(checkpoint={"uri": "part.safetensors"})
    models.save(tmp_path / "wild.safetensors", whole | {"bn1.running_var": whole["bn1.running_var"] * torch.nan}, spec)
    with pytest.raises(BadInput, match="not finite: check its weights, the statistics of batch normalisation"):
        rooms(checkpoint={"uri": "wild.safetensors"})


def test_a_head_with_another_class_count_is_refused(rooms, tmp_path):
    state, spec = models.read(assets.path("judge"))
    plain = {"uri": "plain.pt", "architecture": spec.architecture, "config": {**spec.config, "classes": 9}}
    torch.save(state, tmp_path / "plain.pt")
    with pytest.raises(BadInput, match=r"checkpoint: .*the weights do not fit the architecture: head\.bias is \[10\]"):
        rooms(checkpoint=plain)
    with pytest.raises(BadInput, match=r"checkpoint\.classes: 3 names, it puts out 10 numbers"):
        rooms(checkpoint={**EXAMPLE["checkpoint"], "classes": ["a", "b", "c"]}, forget={"classes": ["a"]})


def test_a_reference_answers_with_the_same_classes(rooms, tmp_path):
    state, spec = models.read(assets.path("oracle"))
    other = spec.model_copy(update={"classes": tuple(reversed(spec.classes))})
    models.save(tmp_path / "other.safetensors", state, other)
    with pytest.raises(BadInput, match="reference: its classes have other names than the checkpoint's"):
        rooms(reference={"uri": "other.safetensors"})
    assert rooms(reference={"uri": "builtin://digits/oracle"})
