"""Adapt and unlearn as rooms: what they store, what they refuse; the method itself is tested elsewhere."""

import dataclasses
from typing import get_args

import pytest
import torch

from components.adapt.step import adapt
from components.curate_forget_set.step import curate_forget_set
from components.fetch_checkpoint.step import fetch_checkpoint
from components.unlearn.step import unlearn
from expunge import methods
from expunge.contracts import (
    Adaptation,
    Candidate,
    Checkpoint,
    Request,
    SampleRole,
    SampleSet,
    parse_record,
    read_record,
    write_record,
)
from expunge.digests import sha256_file
from expunge.errors import BadInput, DoesNotVerify, NonFiniteLoss, Refused
from expunge.stores.sources import pin
from pipelines.demo import request_for

RECIPE = {"method": "adapt_then_unlearn", "preset": "debug", "overrides": '{"steps": 2, "adapt_steps": 1}', "seed": 0,
          "threads": 1}


@pytest.fixture
def inputs(workspace, tmp_path):
    """Everything that the first two rooms hand on."""
    document = request_for(8, 0, True) | {"sampling": {"curate": 600}}
    request = tmp_path / "request.json"
    write_record(request, pin(parse_record(Request, document, "request"), tmp_path, workspace))
    fetched = {name: tmp_path / name for name in ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")}
    curated = {role: tmp_path / role for role in get_args(SampleRole)}
    fetch_checkpoint(request=request, statement=tmp_path / "s", **fetched)
    curate_forget_set(request=request, checkpoint=fetched["checkpoint"], oracle=fetched["oracle"],
                      policy=workspace.policies / "debug.yaml",
                      statement=tmp_path / "s", **curated)
    return tmp_path


def run_adapt(folder, **changes):
    adapt(checkpoint=folder / "checkpoint", negative=folder / "negative", forget=folder / "forget",
          retain=folder / "retain", adaptation=folder / "adaptation",
          statement=folder / "s", **{**RECIPE, **changes})


def run_unlearn(folder, **changes):
    unlearn(checkpoint=folder / "checkpoint", oracle=folder / "oracle", adaptation=folder / "adaptation",
            negative=folder / "negative", positive=folder / "positive", forget=folder / "forget",
            retain=folder / "retain", candidate=folder / "candidate", statement=folder / "s", **{**RECIPE, **changes})


def test_the_candidate_names_all_that_it_was_made_from(inputs):
    run_adapt(inputs)
    run_unlearn(inputs)
    candidate = read_record(Candidate, inputs / "candidate")
    parent = read_record(Checkpoint, inputs / "checkpoint")
    assert candidate.parent_sha256 == parent.weights.sha256 != candidate.weights.sha256
    assert candidate.weights.sha256 == sha256_file(inputs / "candidate" / candidate.weights.name)
    assert candidate.adaptation_sha256 == sha256_file(inputs / "adaptation" / "record.json")
    assert (candidate.params["steps"], candidate.compute.threads, candidate.compute.torch) == (2, 1, torch.__version__)


def test_what_was_learned_is_stored_as_ciphertext_only(inputs):
    run_adapt(inputs)
    record = read_record(Adaptation, inputs / "adaptation")
    sealed = (inputs / "adaptation" / record.tensors.name).read_bytes()
    assert sealed.startswith(b"EXPUNGE")
    assert b"grow.weight" not in sealed, "safetensors names its tensors in the clear"


def test_an_adaptation_that_was_changed_is_refused(inputs):
    run_adapt(inputs)
    record = read_record(Adaptation, inputs / "adaptation")
    file = inputs / "adaptation" / record.tensors.name
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(DoesNotVerify, match="its tensors are not those of its record"):
        run_unlearn(inputs)


def test_a_method_that_leaves_the_weights_as_they_were_is_refused(inputs, monkeypatch):
    run_adapt(inputs)
    lazy = dataclasses.replace(methods.find("adapt_then_unlearn", "gan"),
                               unlearn=lambda parent, *_: {name: t.clone() for name, t in parent.state_dict().items()})
    monkeypatch.setattr(methods, "find", lambda *_: lazy)
    with pytest.raises(Refused, match="left the weights as they were"):
        run_unlearn(inputs)


def test_who_guides_the_training_calls_what_was_forgotten_before_unwanted_too(inputs, monkeypatch):
    run_adapt(inputs)
    record = read_record(SampleSet, inputs / "negative")
    write_record(inputs / "negative", record.model_copy(update={"earlier": (3, 8)}))
    told = []

    def looks(parent, adaptation, material, *_):
        told.append(material.oracle.unwanted)
        return {name: tensor + 1 for name, tensor in parent.state_dict().items()}

    looking = dataclasses.replace(methods.find("adapt_then_unlearn", "gan"), unlearn=looks)
    monkeypatch.setattr(methods, "find", lambda *_: looking)
    run_unlearn(inputs)
    assert told == [[3, 8]], "the 8, which is asked for again, counts once"


def test_a_loss_that_is_not_finite_ends_the_room_at_its_step(inputs):
    run_adapt(inputs)
    with pytest.raises(NonFiniteLoss, match=r"step \d+"):
        run_unlearn(inputs, overrides='{"steps": 30, "generator_rate": 1e18, "ema_decay": 0}')


def test_a_method_for_another_family_or_an_unknown_parameter_is_refused(inputs):
    with pytest.raises(BadInput, match="method 'wish' is not known"):
        run_adapt(inputs, method="wish")
    with pytest.raises(BadInput, match=r"method\.params\.wish"):
        run_adapt(inputs, overrides='{"wish": 1}')
