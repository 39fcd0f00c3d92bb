"""A request names a folder of CLIP as its extractor: what the folder says is pinned, and it is tried out and fetched."""

import json

import pytest
import torch

from expunge.contracts import Checkpoint, Request, parse_record, read_record
from expunge.digests import sha256_file
from expunge.errors import BadInput
from expunge.stores.sources import pin

transformers = pytest.importorskip("transformers")

CLASSIFIER, HELD_OUT = "builtin://digits/judge", {"uri": "builtin://digits/holdout"}
REQUEST = {
    "id": "no-4", "requester": "ada", "reason": "copyright", "model": "digits", "checkpoint": {"uri": "builtin://digits/dcgan"},
    "forget": {"classes": ["4"]}, "oracle": {"uri": "builtin://digits/oracle"}, "judge": {"uri": CLASSIFIER},
    "holdout": HELD_OUT, "policy": "debug", "threads": 1, "sampling": {"curate": 100}}
HALF = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def folder(tmp_path):
    """As its library writes it."""
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        vision_config=HALF | {"image_size": 16, "patch_size": 8}, projection_dim=12,
        text_config=HALF | {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2})
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(
        {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return tmp_path / "clip"


def fetched(tmp_path, workspace, **changes):
    """The first room alone."""
    from components.fetch_checkpoint.step import fetch_checkpoint
    from expunge.contracts import write_record

    file = tmp_path / "request.json"
    write_record(file, pin(parse_record(Request, REQUEST | changes, "request"), tmp_path, workspace))
    models = {name: tmp_path / "in" / name for name in ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")}
    fetch_checkpoint(request=file, statement=tmp_path / "s1.json", **models)
    return read_record(Request, file), read_record(Checkpoint, models["extractor"])


def test_it_is_pinned_and_fetched_with_what_its_folder_says_of_images(folder, tmp_path, workspace):
    pinned, record = fetched(tmp_path, workspace, extractor={"uri": "clip"})
    assert record.architecture == pinned.extractor.architecture == "clip"
    assert record.config == pinned.extractor.config
    assert record.config["preprocessor"]["image_std"] == [0.25] * 3
    assert record.weights.sha256 == sha256_file(folder / "model.safetensors")


def test_it_tells_no_classes_apart_and_is_no_judge(folder, tmp_path, workspace):
    with pytest.raises(BadInput, match="judge: it embeds images, and tells no classes apart: name a classifier here"):
        fetched(tmp_path, workspace, judge={"uri": "clip"})


@pytest.mark.parametrize(("lost", "said"), [
    ("model.safetensors", r"^extractor\.uri: .*its weights are a pickle, which can run code"),
    ("preprocessor_config.json", r"^extractor\.architecture 'clip': preprocessor_config\.json is missing, .* write it there"),
])
def test_a_folder_that_lacks_something_is_refused_by_the_field(lost, said, folder, tmp_path, workspace):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / lost).unlink()
    with pytest.raises(BadInput, match=said):
        fetched(tmp_path, workspace, extractor={"uri": "clip"})
