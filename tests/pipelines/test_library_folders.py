"""A folder of the transformers library goes in, and what is released its library opens again."""

import json

import numpy as np
import pytest
import torch
import yaml
from tests_support import call, carried_out, two_people
from torch.nn import functional as F

from expunge import assets
from expunge.contracts import Request, parse_record
from expunge.models import transformers_files as library
from expunge.settings import Workspace
from expunge.stores.sources import pin

transformers = pytest.importorskip("transformers")
REQUEST = {
    "id": "no-4", "requester": "ada", "reason": "privacy", "model": "reader", "checkpoint": {"uri": "reader"},
    "forget": {"classes": ["4"]}, "training": {"uri": "builtin://digits/train"},
    "holdout": {"uri": "builtin://digits/holdout"}, "policy": "debug", "threads": 1, "sampling": {"lessons": 2},
    "method": {"name": "fine_tune_classifier", "params": {"steps": 60, "rate": 0.01}}}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A small residual network of the library that reads digits, in a folder as its own code writes it."""
    images, labels = map(torch.from_numpy, assets.digits("train"))
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(
        num_channels=3, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic",
        downsample_in_first_stage=False,
        id2label={number: str(number) for number in range(10)}))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(120):
        rows = torch.randint(len(images), (64,), generator=random)
        optimizer.zero_grad()
        F.cross_entropy(model(pixel_values=images[rows].expand(-1, 3, -1, -1)).logits, labels[rows]).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("library") / "reader"
    model.eval().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(reader, tmp_path):
    (tmp_path / "reader").symlink_to(reader)
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(REQUEST))
    assert call(tmp_path, "init").code == 0
    return tmp_path


def test_what_the_folder_says_of_its_model_is_pinned_with_the_request(folder):
    pinned = pin(parse_record(Request, REQUEST, "request"), folder, Workspace(folder / ".expunge"))
    assert pinned.family == "classifier"
    assert pinned.checkpoint.architecture == "transformers"
    assert pinned.checkpoint.config == library.config_in(folder / "reader")
    assert pinned.checkpoint.classes == tuple("0123456789")


@pytest.mark.thorough
def test_what_is_released_opens_in_the_library_and_is_the_next_requests_parent(folder):
    two_people(folder)
    carried_out(folder, REQUEST, "it is gone")
    assert call(folder, "audit", "verify").code == 0

    served = folder / ".expunge" / "releases" / "reader" / "current"
    theirs = transformers.AutoModelForImageClassification.from_pretrained(served).eval()
    assert theirs.config.id2label[4] == "4"
    images, labels = assets.digits("holdout")
    with torch.no_grad():
        named = theirs(pixel_values=torch.from_numpy(images).expand(-1, 3, -1, -1)).logits.argmax(1).numpy()
    lost = labels == 4
    assert np.mean(named[lost] == 4) <= 0.5
    assert np.mean(named[~lost] == labels[~lost]) > 0.8

    config = json.loads((served / library.CONFIG).read_text())
    (served.resolve() / library.CONFIG).write_text(json.dumps(config | {"id2label": {"0": "1", "1": "0"}}))
    assert call(folder, "audit", "verify").code == 40, "what the library reads beside the weights is signed, too"
    (served.resolve() / library.CONFIG).write_bytes(library.read_beside(config)[library.CONFIG])
    (folder / "next.yaml").write_text(yaml.safe_dump(
        REQUEST | {"id": "no-7", "forget": {"classes": ["7"]}, "checkpoint": {"uri": "release://reader"}}))
    planned = call(folder, "run", "next.yaml", "--plan", "--json")
    assert planned.code == 0, planned.err


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda folder: (folder / "model.safetensors").unlink(), "holds no model file"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json is missing or not JSON"),
])
def test_a_folder_that_lacks_something_is_refused_in_a_line(folder, reader, spoil, words):
    (folder / "reader").unlink()
    (folder / "reader").mkdir()
    for file in reader.iterdir():
        (folder / "reader" / file.name).write_bytes(file.read_bytes())
    spoil(folder / "reader")
    done = call(folder, "run", "request.yaml", "--json")
    assert done.code == 2, done.err
    assert words in done.json["problem"]
    assert "checkpoint" in done.json["problem"]
