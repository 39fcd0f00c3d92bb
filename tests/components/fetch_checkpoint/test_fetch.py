"""The first room: what may come in, and what is turned away at the door."""

import shutil

import pytest
import torch

from components.fetch_checkpoint.step import fetch_checkpoint
from expunge import assets, models
from expunge.contracts import Checkpoint, Request, parse_record, read_record, read_record_if_any, write_record
from expunge.digests import sha256_file
from expunge.errors import BadInput, Refused
from pipelines.demo import request_for


@pytest.fixture
def fetch(workspace, tmp_path):
    """Fetches for a request that differs from the demo's in its checkpoint; returns the three folders."""

    def call(also=None, **checkpoint):
        document = request_for(8, 0, False) | {"checkpoint": {"uri": "builtin://digits/dcgan"} | checkpoint} | (also or {})
        write_record(tmp_path / "request.json", parse_record(Request, document, "request"))
        folders = {name: tmp_path / "out" / name for name in ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")}
        fetch_checkpoint(request=tmp_path / "request.json", statement=tmp_path / "statement.json", **folders)
        return folders

    return call


def test_the_very_bytes_come_in_and_are_described(fetch):
    folders = fetch()
    for name, asset in (("checkpoint", "dcgan"), ("oracle", "oracle"), ("judge", "judge")):
        record = read_record(Checkpoint, folders[name])
        assert record.weights.sha256 == sha256_file(assets.path(asset))
        assert (folders[name] / record.weights.name).read_bytes() == assets.path(asset).read_bytes()
    assert read_record(Checkpoint, folders["checkpoint"]).family == "gan"


def test_what_a_request_does_not_name_is_said_to_be_absent(fetch):
    folders = fetch({"reference": None})
    for name in ("extractor", "reference", "origin"):
        assert read_record_if_any(Checkpoint, folders[name]) is None
        assert f"the request names no {name}" in (folders[name] / "record.json").read_text()


def test_a_reference_and_an_extractor_come_in_and_are_tried_out(fetch):
    folders = fetch({"reference": {"uri": "builtin://digits/never-saw-8"}, "extractor": {"uri": "builtin://digits/oracle"}})
    for name, asset in (("extractor", "oracle"), ("reference", "never-saw-8")):
        record = read_record(Checkpoint, folders[name])
        assert (record.role, record.weights.sha256) == (name, sha256_file(assets.path(asset)))


def test_the_first_model_of_a_chain_comes_in_and_draws_what_the_checkpoint_draws(fetch, tmp_path):
    second = {"forget": {"classes": [3], "earlier": [8]}, "origin": {"uri": "builtin://digits/never-saw-8"}}
    record = read_record(Checkpoint, fetch(second)["origin"])
    assert (record.role, record.weights.sha256) == ("origin", sha256_file(assets.path("never-saw-8")))
    other = models.build("dcgan", width=8, channels=3)
    torch.save(other.state_dict(), tmp_path / "colour.pt")
    colour = {"uri": str(tmp_path / "colour.pt"), "architecture": "dcgan", "config": {"width": 8, "channels": 3},
              "range": [-1, 1]}
    with pytest.raises(BadInput, match=r"^origin: it draws images of 3x16x16, the checkpoint of 1x16x16"):
        fetch(second | {"origin": colour})
    with pytest.raises(BadInput, match=r"^forget\.earlier: the oracle does not know class 12"):
        fetch(second | {"forget": {"classes": [3], "earlier": [12]}})


def test_a_classifier_is_no_reference(fetch):
    with pytest.raises(BadInput, match=r"reference\.uri: .* is a classifier, a generator is needed"):
        fetch({"reference": {"uri": "builtin://digits/judge"}})


def test_a_plain_state_dict_comes_in_as_safetensors_when_its_architecture_is_named(fetch, tmp_path):
    gan = models.build("dcgan", width=8)
    torch.save(gan.state_dict(), tmp_path / "mine.pt")
    folder = fetch(uri=str(tmp_path / "mine.pt"), architecture="dcgan", config={"width": 8})["checkpoint"]
    record = read_record(Checkpoint, folder)
    loaded = models.load_recorded(folder, record)
    assert all(torch.equal(tensor, gan.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_a_file_that_does_not_say_what_it_is_is_refused(fetch, tmp_path):
    torch.save(models.build("dcgan", width=8).state_dict(), tmp_path / "mine.pt")
    with pytest.raises(BadInput, match=r"checkpoint\.architecture: .*mine\.pt does not say what it is"):
        fetch(uri=str(tmp_path / "mine.pt"))


def test_a_pickle_that_needs_code_is_refused_and_none_of_it_runs(fetch, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"x": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(BadInput, match="does not load with weights_only=True"):
        fetch(uri=str(tmp_path / "trap.pt"), architecture="dcgan")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_are_refused_by_the_first_three_tensors(fetch):
    with pytest.raises(BadInput, match=r"generator\.grow\.bias is \[32\], expected \[8\]; .*; .*; and \d+ more"):
        fetch(architecture="dcgan", config={"width": 8})


def test_truncated_weights_are_refused(fetch, tmp_path):
    shutil.copyfile(assets.path("dcgan"), tmp_path / "cut.safetensors")
    with (tmp_path / "cut.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(BadInput, match="truncated"):
        fetch(uri=str(tmp_path / "cut.safetensors"))


def test_bytes_other_than_the_pinned_ones_are_refused(fetch):
    with pytest.raises(Refused, match=r"checkpoint\.sha256"):
        fetch(sha256="0" * 64)
