"""Trains a small Glow on the built-in digits, or on images of yours, and saves it.

python train.py
python train.py PATH --steps 2000
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from expunge.assets import digits
from expunge.models import ModelSpec, build, save
from expunge.models.flow import Flow, fit_likelihood
from expunge.samples import SampleTable
from expunge.samples.images import read_images
from expunge.samples.table import from_pixels


def images_at(path: Path | None) -> Tensor:
    """Images [N, C, H, W] in [-1, 1] of eight bits, as a request stores them: of a folder or file, or the built-in."""
    table = SampleTable(*digits("train")) if path is None else read_images(path, strict=True).table
    return torch.from_numpy(from_pixels(table.pixels))


def main() -> None:
    """Reads, trains, saves."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("images", type=Path, nargs="?", help="square images; the built-in digits if none are named")
    ask.add_argument("--levels", type=int, default=2, help="times that an image is squeezed")
    ask.add_argument("--depth", type=int, default=4, help="steps of flow per level")
    ask.add_argument("--hidden", type=int, default=32, help="channels in the couplings' networks")
    ask.add_argument("--steps", type=int, default=400)
    ask.add_argument("--rate", type=float, default=2e-3)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--out", type=Path, default=Path("flow.safetensors"))
    asked = ask.parse_args()

    torch.manual_seed(asked.seed)
    torch.set_num_threads(asked.threads)
    images = images_at(asked.images)
    config = {"channels": images.shape[1], "side": images.shape[2], "levels": asked.levels, "steps": asked.depth,
              "hidden": asked.hidden, "bits": 8}
    flow, began = build("glow", **config), time.monotonic()
    assert isinstance(flow, Flow)
    told = fit_likelihood(flow, images, asked.steps, 32, asked.rate, torch.Generator().manual_seed(asked.seed))
    last = told[-min(20, len(told)):]
    print(f"{len(images)} images, {time.monotonic() - began:.0f} s: {told[0]:.2f} bits per dimension at first, "
          f"{sum(last) / len(last):.2f} at last; noise takes {config['bits']}")
    save(asked.out, flow.state_dict(), ModelSpec(architecture="glow", config=config, family="flow"))


if __name__ == "__main__":
    main()
