"""A feature instead of a class: any oracle that scores images, here one that is a threshold on how dark they are."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tests_support import blocks, call, typed

ROOT = Path(__file__).parent.parent.parent
QUICK = {"method": {"name": "auto", "preset": "debug"}, "policy": "debug", "threads": 1,
         "sampling": {"curate": 1_000, "evaluate": 2_000, "search": 20, "lessons": 0}}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def as_documented(tmp_path_factory):
    """A folder in which what docs/requests.md says of features has been typed."""
    folder = tmp_path_factory.mktemp("feature")
    shutil.copytree(ROOT / "examples", folder / "examples")
    said, = typed(blocks((ROOT / "docs" / "requests.md").read_text(), "bash"), folder)
    assert "to be forgotten    bold" in said
    return folder / "no-bold"


@pytest.fixture
def folder(as_documented, tmp_path):
    """A copy of it, to run in."""
    return Path(shutil.copytree(as_documented, tmp_path / "no-bold"))


def write(folder, **changes):
    document = yaml.safe_load((folder / "request.yaml").read_text())
    (folder / "request.yaml").write_text(yaml.safe_dump(document | QUICK | changes))


@pytest.mark.thorough
def test_what_is_bold_is_forgotten_by_an_oracle_that_only_scores(folder):
    write(folder)
    done = call(folder, "run", "request.yaml", "--json")
    assert done.code == 10, done.err
    assert done.json["forgotten"] == ["bold"]
    assert done.json["pul"]["lower"] > 0.5
    assert done.json["residual_rate"]["upper"] < 0.05
    assert done.json["method"]["name"] != "auto"
    assert done.json["method"]["chosen"]
    assert done.json["fid"]["after"] is not None


@pytest.mark.parametrize(("always", "said"), [
    (True, r"sees the unwanted in (\d+) of \1 held-out images of other"),
    pytest.param(False, r"sees the unwanted in 0 of \d+ held-out images that show it", marks=pytest.mark.thorough)])
def test_an_oracle_that_flags_everything_or_nothing_is_refused_with_what_to_check(folder, always, said):
    save_file({"1.weight": torch.tensor([[0.1]]), "1.bias": torch.tensor([50.0 if always else -50.0])},
              folder / "oracle.safetensors")
    write(folder, method="adapt_then_unlearn")
    done = call(folder, "run", "request.yaml")
    assert done.code == 2
    line, = done.err.splitlines()
    assert re.search(said, line)
    assert line.endswith("bring another oracle, or check forget.classes, oracle.range and oracle.classes")
