"""A small masked autoencoder of handwritten digits: one that forgot as it should, the parent itself, and a ruined one."""

import base64
import copy
import functools
import json
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_image_to_image import CONFIGS, digits, fresh

from components.evaluate.page import render_page
from expunge.contracts import (
    Candidate,
    Checkpoint,
    ClassifierSource,
    Compute,
    DataSource,
    Forget,
    Hidden,
    Interface,
    ParentSource,
    Report,
    Request,
    Sampling,
    StoredFile,
    read_record,
    write_record,
)
from expunge.digests import sha256_file
from expunge.measure.policy import AS_EXPECTED, decide, preset

LOST = (0, 1, 2, 3, 4)
HIDDEN = Hidden(mask="centre", ratio=0.5)
NOTHING = "0" * 64
FACTORY = """
from torch import nn

def build(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))
"""


@functools.cache
def judge():
    """A classifier of the same digits: its weights."""
    import torch
    from torch.nn import functional as F

    torch.manual_seed(0)
    space = {}
    exec(FACTORY, space)
    model, (x, y) = space["build"](), digits()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for rows in torch.randperm(len(y) * 15, generator=torch.Generator().manual_seed(0)).remainder(len(y)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return copy.deepcopy(model.state_dict())


@dataclass
class Split:
    """Rows of the digits: what training could read, and what it could not."""

    forget: object
    retain: object
    holdout: object


@functools.cache
def split():
    labels = digits()[1].numpy()
    held = np.arange(len(labels)) % 2 == 0
    lost = np.isin(labels, LOST)
    return Split(lost & ~held, ~lost & ~held, held)


@functools.cache
def parent(steps=600):
    """The small masked autoencoder, trained behind the masks that are asked about."""
    import torch

    from expunge.models.image_to_image import asked_to_complete, fit_completions

    torch.set_num_threads(1)
    model = asked_to_complete(fresh("mae"), HIDDEN)
    fit_completions(model, digits()[0], model.masks(1), steps, 32, 3e-3, torch.Generator().manual_seed(0))
    return model.eval()


@functools.cache
def forgetful(steps=120, alpha=3.0, rate=2e-3):
    """Its weights after unlearning half of the classes."""
    import torch

    from expunge.methods.image_to_image import METHOD
    from expunge.methods.training import Material, Samples, Session

    torch.set_num_threads(1)
    (images, labels), rows = digits(), split()
    material = Material(None, None, restricted=LOST, **{
        role: Samples(images[getattr(rows, role)], labels=labels[getattr(rows, role)]) for role in ("forget", "retain")})
    params = METHOD.parameters("default", {"steps": steps, "alpha": alpha, "rate": rate, "batch": 32})
    session = Session(seed=0)
    return METHOD.unlearn(parent(), METHOD.adapt(parent(), material, params, session), material, params, session)


class Room:
    """The room's inputs for image-to-image models."""

    def __init__(self, house):
        self.house = house
        self.ask()
        self.put("checkpoint", parent().state_dict())
        self.put("candidate", forgetful())
        self.put_judge()
        for role in ("forget", "retain", "holdout"):
            self.give(role, getattr(split(), role))
        for name in ("oracle", "reference", "members", "extractor", "origin"):
            house.leave_out(name)

    def ask(self, *, images=(), evaluate=1000, earlier=(), classes=LOST, lessons=0, **more):
        source = ParentSource(uri="file:///mae", family="image_to_image", architecture="mae", config=CONFIGS["mae"],
                              hidden=HIDDEN)
        data = DataSource(uri="file:///digits")
        write_record(self.house.root / "request.json", Request(
            id="forget-8", requester="ann", reason="safety", model="digits", checkpoint=source,
            forget=Forget(classes=classes, images=images, earlier=earlier), judge=ClassifierSource(uri="file:///judge"),
            training=data, holdout=data, sampling=Sampling(evaluate=evaluate, lessons=lessons), threads=1, **more))

    def give(self, role, rows):
        images, labels = digits()
        self.house.with_images(role, images.numpy()[rows], labels.numpy()[rows])

    def put(self, name, state, kind="mae", config=None):
        from expunge import models

        folder, config = self.house.root / name, config or CONFIGS[kind]
        folder.mkdir(exist_ok=True)
        models.save(folder / "model.safetensors", state,
                    models.ModelSpec(architecture=kind, config=config, family="image_to_image"))
        stored = {"family": "image_to_image", "architecture": kind, "config": config,
                  "weights": StoredFile.of(folder / "model.safetensors"), "interface": Interface(hidden=HIDDEN)}
        if name == "candidate":
            record = Candidate(
                method="image_to_image", claim="approximate removal", params={}, seed=0, adaptation_sha256=NOTHING,
                oracle_sha256=None, parent_sha256=sha256_file(self.house.root / "checkpoint" / "model.safetensors"),
                compute=Compute(device="cpu", threads=1, torch="t", instruction_set="i", machine="m"), **stored)
        else:
            record = Checkpoint(role={"checkpoint": "parent"}.get(name, name), request_sha256=NOTHING, uri="file:///m", **stored)
        write_record(folder, record)

    def put_judge(self, state=None):
        from expunge import models

        folder = self.house.root / "judge"
        (folder / "net.py").write_text(FACTORY)
        models.save(folder / "model.safetensors", state or judge(),
                    models.ModelSpec(architecture="net.py:build", config={}, family="classifier"))
        write_record(folder, Checkpoint(
            role="judge", request_sha256=NOTHING, uri="file:///j", family="classifier", architecture="net.py:build", config={},
            weights=StoredFile.of(folder / "model.safetensors"), factory=StoredFile.of(folder / "net.py")))

    def report(self, name):
        self.folder = self.house.run(name)
        return read_record(Report, self.folder)


@pytest.fixture
def room(house, request):
    return Room(house.beside(f"completions-{request.node.name[-60:]}"))


def judged(report, policy="standard"):
    verdict = decide(report, preset(policy), report_sha256="a" * 64, policy_sha256="b" * 64)
    return verdict, {(rule.rule.metric, rule.rule.side): rule for rule in verdict.rules}


def table(folder, name="completions"):
    read = pq.read_table(folder / f"{name}.parquet")
    return {column: read[column].to_numpy() for column in read.column_names}


def controls(report):
    return {control.name: {one.name: one for one in control.measurements} for control in report.controls}


@pytest.fixture(scope="module")
def honest(house):
    room = Room(house.beside("completions-honest"))
    room.found = room.report("honest")
    return room


# ---------------------------------------------------------------------------------------------- the verdict


def test_a_model_that_forgot_is_told_from_its_parent(honest):
    report = honest.found
    verdict, rules = judged(report, "debug")
    assert verdict.outcome == "PASS", verdict.rules
    assert set(verdict.controls.values()) <= {AS_EXPECTED} | {
        came for came in verdict.controls.values() if came.startswith("not asked")}
    assert report.measurement("recognised_excess_before").interval.lower > 0.2
    assert report.measurement("forget_hidden_error_change").interval.lower > 0.5
    verdict, rules = judged(report)
    assert verdict.outcome == "FAIL"  # seconds of training cost the rest
    assert rules["hidden_error_change", "at most"].outcome == "FAIL"
    assert {name for name, came in verdict.controls.items() if came != AS_EXPECTED} == {"output filter"}  # nobody asks


def test_the_parent_planted_as_candidate_fails(room):
    room.put("candidate", parent().state_dict())
    report = room.report("planted")
    verdict, rules = judged(report)
    assert verdict.outcome == "FAIL"
    assert rules["recognised_excess", "at most"].outcome == "FAIL"
    assert rules["recognised_excess", "at most"].reason.startswith("what is hidden is still drawn")
    assert report.measurement("hidden_error_change").estimate == 0
    assert report.measurement("kid_ratio").estimate == 1
    assert report.measurement("spread_ratio").estimate == 1
    assert report.measurement("retained_recognised_difference").estimate == 0


def test_taught_again_it_is_held_against_an_encoder_that_was_never_trained(room):
    room.ask(lessons=6)
    report = room.report("lessons")
    found = table(room.folder, "relearning")
    went = (found["start"] - found["loss"]) / (found["start"] - found["goal"])
    steps = {}
    for model in ("candidate", "never exposed"):
        steps[model] = [found["step"][rows][went[rows] >= 0.5].min() for repeat in range(6)
                        if (rows := (found["model"] == model) & (found["repeat"] == repeat)).any()]
        assert report.measurement({"candidate": "relearning_steps"}.get(model, "relearning_steps_never_exposed")
                                  ).estimate == np.median(steps[model])
    ratio = (np.array(steps["candidate"]) + 1) / (np.array(steps["never exposed"]) + 1)
    assert report.measurement("relearning_ratio").estimate == pytest.approx(np.median(ratio))
    assert {curve.name for curve in report.curves} == {"way_back"}
    filtered = controls(report)["output filter"]["relearning_ratio"]
    assert filtered.interval.upper < 0.5
    verdict, rules = judged(report, "strict")
    assert verdict.controls["output filter"] == AS_EXPECTED
    assert ("relearning_ratio", "at least") in rules


# ---------------------------------------------------------------------------------------------- the page


def test_the_page_shows_image_shown_part_and_both_completions(honest):
    page = render_page(honest.folder, judged(honest.found)[0], preset("standard"), "safety")
    assert "<h1>Forgetting class 0, 1, 2, 3 and 4</h1>" in page
    for group in ("unwanted", "retained"):
        for side in ("image", "shown", "before", "after"):
            assert f".{group}-{side} {{ background-image" in page, (group, side)
    for words in ("Is it still completed?", "other noise", "completions.parquet", "Class by class", "Largest class share",
                  "so there is no number to give"):
        assert words in page
    for words in ("Is it gone?", "scores.parquet", "how often each class is drawn", "predictions.parquet"):
        assert words not in page


def test_where_the_unwanted_may_not_be_shown_no_pixel_of_a_real_image_is(room):
    room.ask(show_before=False)
    report = room.report("hidden")
    stored = {file.name for file in report.files if file.name.endswith(".png")}
    assert stored == {"unwanted-after-hole.png", "retained-before-hole.png", "retained-after-hole.png"}
    page = render_page(room.folder, judged(report)[0], preset("standard"), "safety")
    assert ".unwanted-after { background-image" in page
    for strip in ("unwanted-image", "unwanted-shown", "unwanted-before", "retained-image", "retained-shown"):
        assert f".{strip} {{" not in page
    index = json.loads((room.folder / "pictures.json").read_bytes())
    assert not any(tile["after"] in LOST for tile in index["groups"]["unwanted"]["tiles"])
    assert index["withheld"] > 0


def test_a_page_that_a_policy_narrows_shows_no_more(honest):
    page = render_page(honest.folder, judged(honest.found)[0], preset("standard"), "privacy")
    assert ".unwanted-after { background-image" in page
    for strip in ("unwanted-image", "unwanted-shown", "unwanted-before", "retained-image", "retained-shown"):
        assert f".{strip} {{" not in page
    hidden = base64.b64encode((honest.folder / "unwanted-after.png").read_bytes()).decode()
    assert hidden not in page
