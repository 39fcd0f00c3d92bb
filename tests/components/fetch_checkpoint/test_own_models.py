"""Models that somebody brings: what is taken as it is, what is translated, and what is refused, by field."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from components.fetch_checkpoint.step import fetch_checkpoint
from expunge.contracts import Checkpoint, Request, parse_record, read_record, write_record
from expunge.digests import sha256_file
from expunge.errors import BadInput, Refused
from expunge.models import ModelSpec, load_recorded, save, trial
from expunge.stores.sources import pin
from pipelines.demo import request_for

FACTORY = '''
import torch
from torch import nn

class Alone(nn.Module):
    """A generator by itself: latents [B, 5, 1, 1], pixels in [0, 1]."""
    def __init__(self, side=16):
        super().__init__()
        self.paint = nn.Linear(5, side * side)
        self.side = side
    def forward(self, z):
        assert z.shape[1:] == (5, 1, 1), z.shape
        return torch.sigmoid(20 * self.paint(z.flatten(1))).view(-1, 1, self.side, self.side)

class Both(nn.Module):
    """Generator and discriminator in one module, by names of its own."""
    latent_dim = 3
    def __init__(self):
        super().__init__()
        self.netG = nn.Sequential(nn.Linear(3, 256), nn.Tanh(), nn.Unflatten(1, (1, 16, 16)))
        self.netD = nn.Sequential(nn.Flatten(), nn.Linear(256, 1), nn.Sigmoid())
    generator = property(lambda self: self.netG)
    discriminator = property(lambda self: self.netD)

class WithAverage(Both):
    def __init__(self):
        super().__init__()
        self.average = nn.Linear(3, 256)

def pair():
    both = Both()
    return both.netG, both.netD

def critic(sigmoid=False):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 1), *([nn.Sigmoid()] if sigmoid else []))

def judge(classes=10, channels=1, softmax=False, **_):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 256, 7), nn.ReLU(), nn.Linear(7, classes),
                         *([nn.Softmax(1)] if softmax else []))

def linear_free():
    return nn.Sequential(nn.Conv2d(1, 10, 16), nn.Flatten())

def random_painter():
    class Random(Alone):
        def forward(self, z):
            return super().forward(z).bernoulli()
    return Random()

def text():
    return "a model"

def raises():
    raise RuntimeError("no luck today")

def leaves():
    raise SystemExit(3)

def prints():
    print("hello from the factory")
    return Alone()

def hangs():
    while True:
        pass

def hard_exit():
    import os
    os._exit(7)

def neighbour():
    import my_neighbour
'''


@pytest.fixture
def mine(tmp_path):
    """A folder of somebody's own: a factory file, and weights by factory."""
    (tmp_path / "model.py").write_text(FACTORY)
    names = {}
    exec(FACTORY, names)
    torch.manual_seed(1)
    for name, config in {"Alone": {}, "Both": {}, "WithAverage": {}, "critic": {}, "judge": {}, "linear_free": {}}.items():
        save_file({key: value.contiguous() for key, value in names[name](**config).state_dict().items()},
                  tmp_path / f"{name}.safetensors")
    pair = nn.ModuleDict(dict(zip(("generator", "discriminator"), names["pair"](), strict=True)))
    torch.save(pair.state_dict(), tmp_path / "pair.pt")
    return tmp_path


def source(factory, weights=None, **more):
    return {"uri": f"{weights or factory}.safetensors", "architecture": f"model.py:{factory}", **more}


ALONE = source("Alone", latent=[5, 1, 1], range=[0, 1])


@pytest.fixture
def fetch(workspace, mine):
    """Fetches for a request that differs from the demo's; returns the three records' folders."""

    def call(**changes):
        request = mine / "request.json"
        document = request_for(8, 0, True) | changes
        write_record(request, pin(parse_record(Request, document, "request"), mine, workspace))
        folders = {name: mine / "in" / name for name in ("checkpoint", "oracle", "judge", "extractor", "reference", "origin")}
        fetch_checkpoint(request=request, statement=mine / "s.json", **folders)
        return folders

    return call


def model_of(folder):
    return load_recorded(folder, read_record(Checkpoint, folder))


@pytest.fixture
def in_this_process(monkeypatch):
    """Spares the tables below the seconds that a child takes to load torch; what is tried is the same."""
    monkeypatch.setattr(trial, "_try_in_child", lambda wanted: trial._try_here(wanted, lambda _: None))


def latents(gan, count=4):
    return gan.draw_latents(count, torch.Generator().manual_seed(0))


def test_a_generator_alone_draws_in_our_range_and_gets_a_fresh_discriminator(fetch, mine):
    folder = fetch(checkpoint=ALONE)["checkpoint"]
    gan = model_of(folder)
    images = gan(latents(gan))
    assert images.shape == (4, 1, 16, 16)
    assert images.min() < -0.5
    assert images.max() > 0.5
    assert gan.fresh_discriminator
    assert gan.discriminator(images).shape == (4,)
    assert gan.as_in_file(gan.state_dict()).keys() == load_file(mine / "Alone.safetensors").keys()
    assert sha256_file(folder / "model.safetensors") == sha256_file(mine / "Alone.safetensors")


def test_the_factory_is_kept_as_it_was(fetch, mine):
    folder = fetch(checkpoint=ALONE)["checkpoint"]
    record = read_record(Checkpoint, folder)
    assert record.factory.sha256 == sha256_file(mine / "model.py")
    (mine / "model.py").write_text("raise RuntimeError('changed later')")
    assert model_of(folder).image_shape == (1, 16, 16)


def test_two_halves_in_one_file_keep_its_names(fetch, mine):
    gan = model_of(fetch(checkpoint=source("Both", discriminator_output="probability"))["checkpoint"])
    stored = load_file(mine / "Both.safetensors")
    kept = gan.as_in_file(gan.state_dict())
    assert kept.keys() == stored.keys()
    assert all(torch.equal(kept[name], stored[name]) for name in stored)
    assert not gan.fresh_discriminator
    probability = torch.sigmoid(gan.discriminator(gan(latents(gan))))
    assert ((probability > 0) & (probability < 1)).all()


def test_a_pair_from_a_pt_file_is_taken(fetch):
    gan = model_of(fetch(checkpoint={"uri": "pair.pt", "architecture": "model.py:pair", "latent": 3,
                                     "discriminator_output": "probability"})["checkpoint"])
    assert set(gan.file_names) == {"generator.0.weight", "generator.0.bias", "discriminator.1.weight",
                                   "discriminator.1.bias"}


def test_a_discriminator_in_a_file_of_its_own_is_used_and_does_not_leave(fetch):
    gan = model_of(fetch(checkpoint=ALONE, discriminator=source("critic", range=[0, 1]))["checkpoint"])
    assert not gan.fresh_discriminator
    assert all("paint" in name for name in gan.as_in_file(gan.state_dict()))


def test_uniform_latents_stay_within_one(fetch):
    gan = model_of(fetch(checkpoint=ALONE | {"latent_distribution": "uniform"})["checkpoint"])
    assert latents(gan, 500).abs().max() <= 1


@pytest.mark.parametrize("changes", [
    {}, {"output": "logit"}, {"channels": 3}, {"range": [0, 255]}, {"features": "1"},
    {"classes": [str(n) for n in range(10)]},
])
def test_a_judge_sees_through_its_own_eyes(fetch, in_this_process, mine, changes):
    if changes.get("channels") == 3:
        names = {}
        exec(FACTORY, names)
        save_file(names["judge"](channels=3).state_dict(), mine / "judge.safetensors")
    config = {"config": {"channels": 3}} if "channels" in changes else {}
    judge = model_of(fetch(judge=source("judge", **changes, **config))["judge"])
    features, logits = judge.look(torch.rand(2, 1, 16, 16) * 2 - 1)
    assert features.shape == (2, 7)
    assert logits.shape == (2, 10)
    assert torch.equal(judge(torch.zeros(1, 1, 16, 16)), judge.look(torch.zeros(1, 1, 16, 16))[1])


def test_a_judges_pixels_and_probabilities_are_translated(fetch, mine):
    names = {}
    exec(FACTORY, names)
    plain = names["judge"](softmax=True).eval()
    save_file(plain.state_dict(), mine / "judge.safetensors")
    judge = model_of(fetch(judge=source("judge", config={"softmax": True}, output="probability", range=[0, 1]))["judge"])
    images = torch.rand(3, 1, 16, 16)
    assert torch.allclose(judge(images * 2 - 1).softmax(1), plain(images), atol=1e-5)


def test_one_output_is_a_question_with_yes_or_no(fetch, mine):
    names = {}
    exec(FACTORY, names)
    save_file(names["judge"](classes=1).state_dict(), mine / "judge.safetensors")
    asks = source("judge", config={"classes": 1}, classes=["other", "8"])
    oracle = model_of(fetch(oracle=asks, judge=asks, forget={"classes": ["8"]}, holdout={"uri": str(labelled(mine))})["oracle"])
    assert oracle(torch.zeros(2, 1, 16, 16)).shape == (2, 2)


def labelled(folder):
    from PIL import Image

    for name in ("other", "8"):
        (folder / "real" / name).mkdir(parents=True)
        Image.new("L", (16, 16), len(name) * 20).save(folder / "real" / name / "1.png")
    return folder / "real"


CASES = {
    "no such factory": (source("Nothing", "Alone"), "checkpoint.architecture .*has no 'Nothing'"),
    "no such file": ({"uri": "Alone.safetensors", "architecture": "none.py:build"}, "checkpoint.architecture.*none.py"),
    "not a model": (source("text", "Alone", latent=5), "returned str, not a model"),
    "raises": (source("raises", "Alone", latent=5), "raises.. raised RuntimeError: no luck today"),
    "leaves": (source("leaves", "Alone", latent=5), "raised SystemExit: 3"),
    "imports its neighbour": (source("neighbour", "Alone"), "cannot import my_neighbour: a factory is one file"),
    "unknown argument": (source("Alone", config={"depth": 3}), "config of architecture.*depth"),
    "another shape": (source("Alone", latent=[5, 1, 1], config={"side": 8}, range=[0, 1]),
                      r"weights do not fit the architecture: paint.bias is \[256\], expected \[64\]; paint.weight is"),
    "another model's weights": (source("Alone", "judge", latent=[5, 1, 1]),
                                "1.bias is not part of the architecture; 1.weight is .*; 3.bias is .*; and 3 more"),
    "no latent": (source("Alone"), "checkpoint.latent: the shape of a latent is not known"),
    "another latent": (source("Alone", latent=4), "checkpoint: it cannot draw from latents of its declared shape"),
    "range not declared": (source("Alone", latent=[5, 1, 1]), r"checkpoint.range: it draws values from .*declare the range"),
    "wrong range": (source("Both", range=[0, 1], discriminator_output="probability"), "checkpoint.range: it draws values from -"),
    "wrong channels": (ALONE | {"channels": 3}, "checkpoint.channels: 3 declared, it draws 1"),
    "draws another image each time": (source("random_painter", "Alone", latent=[5, 1, 1], range=[0, 1]),
                                      "the same latent gives another image each time"),
    "no image": (source("judge", latent=[1, 16, 16]), "not images"),
    "a third part": (source("WithAverage", discriminator_output="probability"), "average.weight belongs neither"),
    "probabilities undeclared": (source("Both"), "checkpoint.discriminator_output: 'logit' declared, it puts out probabilities"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_generator_that_does_not_do_what_it_says_is_refused(fetch, in_this_process, name):
    checkpoint, words = CASES[name]
    with pytest.raises(BadInput, match=words) as refused:
        fetch(checkpoint=checkpoint)
    assert "\n" not in str(refused.value)
    assert refused.value.remedy


JUDGES = {
    "size": (source("judge", config={"channels": 3}), "judge: .*the weights do not fit"),
    "images": (source("judge", channels=3), "judge: it cannot look at images of 1x16x16"),
    "no features": (source("linear_free"), "judge.features: it has no linear layer"),
    "unknown features": (source("judge", features="nose"), "judge.features: there is no submodule 'nose'"),
    "probabilities": (source("judge", output="probability"), "judge.output: 'probability' declared"),
    "names": (source("judge", classes=["a", "b"]), "judge.classes: 2 names, it puts out 10 numbers"),
    "other names": (source("judge", classes=list("abcdefghij")), "number their classes differently"),
}


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_that_does_not_do_what_it_says_is_refused(fetch, in_this_process, name):
    judge, words = JUDGES[name]
    with pytest.raises(BadInput, match=words):
        fetch(judge=judge)


def test_numbers_need_models_that_number_alike(fetch, in_this_process):
    named = {"oracle": source("judge", classes=list("abcdefghij")), "judge": source("judge", classes=list("jihgfedcba"))}
    with pytest.raises(BadInput, match="number their classes differently"):
        fetch(**named)
    with pytest.raises(BadInput, match="the oracle does not know class 'x'"):
        fetch(**named, forget={"classes": ["x"]})
    with pytest.raises(BadInput, match="the oracle does not know class 12"):
        fetch(forget={"classes": [12]})


def test_a_factory_that_hangs_is_ended_at_its_limit(fetch, monkeypatch):
    monkeypatch.setenv("EXPUNGE_FACTORY_SECONDS", "8")
    with pytest.raises(BadInput, match=r"checkpoint\.architecture: .* took longer than 8 s: mend the factory, or allow it more"):
        fetch(checkpoint=source("hangs", "Alone", latent=5))


def test_a_factory_that_takes_its_process_down_is_named(fetch):
    with pytest.raises(BadInput, match=r"checkpoint\.architecture: .*: its process left with status 7"):
        fetch(checkpoint=source("hard_exit", "Alone", latent=5))


@pytest.mark.parametrize("limit", ["soon", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(fetch, monkeypatch, limit):
    monkeypatch.setenv("EXPUNGE_FACTORY_SECONDS", limit)
    with pytest.raises(BadInput, match=r"EXPUNGE_FACTORY_SECONDS: .* is no number of seconds"):
        fetch(checkpoint=ALONE)


def test_a_release_that_a_factory_built_needs_it_again(fetch, mine):
    state = load_file(mine / "Alone.safetensors")
    save(mine / "released.safetensors", state, ModelSpec(architecture="factory.py:Alone", family="gan"))
    with pytest.raises(BadInput, match=r"checkpoint\.architecture: .* was built by factory\.py:Alone: name your factory"):
        fetch(checkpoint={"uri": "released.safetensors"})
    assert model_of(fetch(checkpoint=ALONE | {"uri": "released.safetensors"})["checkpoint"]).image_shape == (1, 16, 16)


def test_what_a_factory_prints_disturbs_nobody(fetch, capfd):
    fetch(checkpoint=source("prints", "Alone", latent=[5, 1, 1], range=[0, 1]))
    out, err = capfd.readouterr()
    assert "hello from the factory" in err
    for line in out.splitlines():
        json.loads(line)  # events, and nothing between them


def test_a_pt_file_that_needs_code_is_refused_and_its_code_not_run(fetch, mine):
    class Evil:
        def __reduce__(self):
            return Path.touch, (mine / "ran",)

    torch.save({"paint.weight": Evil()}, mine / "evil.pt")
    with pytest.raises(BadInput, match="does not load with weights_only=True"):
        fetch(checkpoint=ALONE | {"uri": "evil.pt"})
    assert not (mine / "ran").exists()


def test_a_truncated_file_is_refused(fetch, mine):
    whole = (mine / "Alone.safetensors").read_bytes()
    (mine / "Alone.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="truncated or not a safetensors file"):
        fetch(checkpoint=ALONE)


def test_a_factory_that_is_not_the_pinned_one_is_refused(fetch):
    with pytest.raises(Refused, match=r"checkpoint\.factory_sha256"):
        fetch(checkpoint=ALONE | {"factory_sha256": "0" * 64})


def test_images_of_a_class_that_the_judge_does_not_know_are_refused(fetch, mine):
    asks = source("judge", classes=["other", *"abcdefghi"])
    with pytest.raises(BadInput, match="holdout: 1 images are of class 8, which the judge does not know"):
        fetch(oracle=asks, judge=asks, forget={"classes": ["other"]}, holdout={"uri": str(labelled(mine))})
