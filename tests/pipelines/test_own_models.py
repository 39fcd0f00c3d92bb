"""Two generators that share nothing with the built-in one go all the way, and come home under their own names."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests_support import call

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
    assert call(tmp_path, "init").code == 0
    assert call(tmp_path, "keys", "new", "ada", "--role", "requester").code == 0
    assert call(tmp_path, "keys", "new", "grace", "--role", "reviewer").code == 0
    return tmp_path


@pytest.mark.slow
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
