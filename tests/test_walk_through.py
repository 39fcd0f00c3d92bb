"""docs/your-own-model.md is followed line by line, on small digits in MNIST's format instead of MNIST."""

import gzip
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests_support import blocks, typed

from expunge.assets import digits

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "your-own-model.md").read_text()
EXAMPLE = ROOT / "examples" / "mnist"
# What would take minutes is done for seconds: the commands are the page's, their results are not.
SHORTER = {"--epochs 10 ": "--epochs 45 --threads 1 ", "--holdout holdout.parquet": "--holdout holdout.parquet --epochs 15 --threads 1"}
QUICK = {"policy": "debug", "method": {"preset": "debug", "params": {"steps": 150, "pool": 2000}},
         "sampling": {"curate": 3000, "evaluate": 2000, "search": 20, "lessons": 0}}


def write_idx(folder, name, split):
    images, labels = digits(split)
    pixels = np.clip((images[:, 0] + 1) * 127.5, 0, 255).astype(np.uint8)
    enlarged = pixels.repeat(2, axis=1).repeat(2, axis=2)[:, 2:30, 2:30]
    for kind, data in (("images-idx3", enlarged), ("labels-idx1", labels.astype(np.uint8))):
        header = bytes([0, 0, 8, data.ndim]) + b"".join(size.to_bytes(4, "big") for size in data.shape)
        (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + data.tobytes()))


def test_the_request_on_the_page_is_the_examples():
    shown = [yaml.safe_load(block) for block in blocks(PAGE, "yaml")]
    request = yaml.safe_load((EXAMPLE / "request.yaml").read_text())
    assert shown[0]["checkpoint"] == request["checkpoint"]
    assert set(shown[1]) == {"discriminator"}


@pytest.mark.thorough
def test_the_page_can_be_followed_line_by_line(tmp_path):
    for file in EXAMPLE.iterdir():
        if file.is_file():
            shutil.copyfile(file, tmp_path / file.name)
    write_idx(tmp_path, "train", "train")
    write_idx(tmp_path, "t10k", "train")
    request = yaml.safe_load((tmp_path / "request.yaml").read_text()) | QUICK
    (tmp_path / "request.yaml").write_text(yaml.safe_dump(request))
    written = PAGE
    for long, short in SHORTER.items():
        written = written.replace(long, short)
    typed((f"python - <<'END'\n{block}END" if language == "python" else block
           for language, block in re.findall(r"```(bash|python)\n(.*?)```", written, re.DOTALL)), tmp_path)
