"""Two generators that share nothing with the built-in one go all the way, and come home under their own names."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests_support import call, two_people

from pipelines.demo import request_for

GUESTS = Path(__file__).parent.parent / "guests"
PAINTER = {"uri": "painter.safetensors", "architecture": "networks.py:painter", "latent": [40, 1, 1]}
DENSE = {"uri": "dense.safetensors", "architecture": "networks.py:DenseGan", "range": [0, 1],
         "latent_distribution": "uniform", "discriminator_output": "probability"}
QUICK = {"preset": "debug", "params": {"steps": 120, "pool": 4000}}


@pytest.fixture
def folder(tmp_path):
    """A user's folder: weights, the code that builds them, a workspace with two people."""
    for file in GUESTS.glob("*.safetensors"):
        shutil.copyfile(file, tmp_path / file.name)
    shutil.copyfile(GUESTS / "networks.py", tmp_path / "networks.py")
    two_people(tmp_path)
    return tmp_path


@pytest.mark.thorough
@pytest.mark.parametrize(("checkpoint", "factory"), [(PAINTER, "painter"), (DENSE, "DenseGan")])
def test_a_users_own_generator_is_made_to_forget_and_comes_home(folder, checkpoint, factory):
    (folder / "jobs").mkdir()
    paths = {key: f"../{value}" if key in ("uri", "architecture") else value for key, value in checkpoint.items()}
    (folder / "jobs" / "request.yaml").write_text(yaml.safe_dump(
        request_for(8, 0, True) | {"checkpoint": paths, "model": "mine", "method": QUICK}))
    done = call(folder, "run", "jobs/request.yaml", "--json")
    assert done.code == 10, done.err + done.out
    assert done.json["pul"]["lower"] > 0.5
    assert call(folder, "approve", "forget-8", "--as", "grace", "--reason", "looks right").code == 0
    assert call(folder, "release", "forget-8").code == 0
    assert call(folder, "audit", "verify").code == 0

    names = {}
    exec((GUESTS / "networks.py").read_text(), names)
    mine = names[factory]()
    released = load_file(folder / ".expunge" / "releases" / "mine" / "current" / "model.safetensors")
    mine.load_state_dict(released)
    before = load_file(folder / checkpoint["uri"])
    assert released.keys() == before.keys()
    assert any(not torch.equal(released[name], before[name]) for name in released)
    # Running statistics are not learned, and stay what they were.
    assert all(torch.equal(released[name], before[name]) for name in released if "running" in name)


def test_a_request_says_what_it_will_do_with_a_users_model(folder):
    (folder / "request.yaml").write_text(yaml.safe_dump(request_for(8, 0, True) | {"checkpoint": PAINTER}))
    planned = call(folder, "run", "request.yaml", "--plan")
    assert planned.code == 0, planned.err
    assert "a generator alone gets a fresh one" in planned.out


def cut(folder):
    data = (folder / "painter.safetensors").read_bytes()
    (folder / "painter.safetensors").write_bytes(data[: len(data) // 3])


def needs_code(folder):
    class Evil:
        def __reduce__(self):
            return Path.touch, (folder / "ran",)

    torch.save({"0.weight": Evil()}, folder / "painter.safetensors.pt")


def broken_images(folder):
    for number, data in enumerate([b"", b"\x89PNG\r\n\x1a\n" + b"x" * 40, b"GIF89a"]):
        (folder / "real" / "8").mkdir(parents=True, exist_ok=True)
        (folder / "real" / "8" / f"{number}.png").write_bytes(data)


def mixed_images(folder):
    from PIL import Image

    (folder / "real" / "8").mkdir(parents=True)
    for number, (mode, side) in enumerate([("L", 16), ("L", 16), ("RGB", 16), ("L", 20)]):
        Image.new(mode, (side, side)).save(folder / "real" / "8" / f"{number}.png")


def a_factory(text):
    return lambda folder: (folder / "networks.py").write_text(f"def painter():\n    {text}\n")


WRONG = {
    "a truncated file": (cut, {}, "model.safetensors is truncated or not a safetensors file|truncated"),
    "a .pt that needs code": (needs_code, {"checkpoint": PAINTER | {"uri": "painter.safetensors.pt"}}, "weights_only=True"),
    "another shape": (None, {"checkpoint": PAINTER | {"config": {"width": 8}}},
                      r"the weights do not fit the architecture: 0.weight is \[40, 96, 4, 4\], expected \[40, 32, 4, 4\]"),
    "a factory that raises": (a_factory("raise KeyError('nose')"), {}, "checkpoint.architecture.* raised KeyError"),
    "a factory that prints and returns a number": (a_factory("print('hello'); return 7"), {}, "returned int, not a model"),
    "a factory that hangs": (a_factory("import time; time.sleep(600)"), {}, "took longer than 6 s"),
    "broken images": (broken_images, {"holdout": {"uri": "real"}}, "holds no image that can be used: 8/0.png is empty"),
    "mixed images": (mixed_images, {"holdout": {"uri": "real"}}, "mixed images"),
}
TOLD_FIRST = ("a truncated file", "a factory that raises", "mixed images")  # one of weights, of code, of images


@pytest.mark.slow
@pytest.mark.parametrize("name", [name if name in TOLD_FIRST else pytest.param(name, marks=pytest.mark.thorough)
                                  for name in WRONG])
def test_what_cannot_be_used_ends_in_one_line_and_leaves_nothing_half(folder, name):
    spoil, changes, words = WRONG[name]
    if spoil:
        spoil(folder)
    (folder / "r.yaml").write_text(yaml.safe_dump(request_for(8, 0, True) | {"checkpoint": PAINTER} | changes))
    patience = {"EXPUNGE_FACTORY_SECONDS": "6"} if "hangs" in name else {}
    done = call(folder, "run", "r.yaml", "--json", **patience)
    assert done.code == done.json["exit_code"] == 2, done.err
    assert re.search(words, done.json["problem"]), done.json["problem"]
    assert done.json["remedy"]
    assert "Traceback" not in done.err
    assert not (folder / "ran").exists()
    assert not list((folder / ".expunge" / "results").glob("[!.]*-*-*/")), "a result of a room that failed"
    assert call(folder, "audit", "verify").code == 0
