"""Writes the two thresholds as weights, and held-out digits sorted into plain and bold ones.

python prepare.py
"""

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from expunge.assets import digits

BOLD_INK, SURE = -0.36, 100.0  # about a quarter of what the built-in generator draws has more ink
BOLD_AREA = 0.345  # the judge calls fewer bold: what the oracle finds borderline is no failure


def threshold(at: float, file: str) -> None:
    """Weights of a linear layer that is above 0 where its input is above `at`."""
    save_file({"1.weight": torch.tensor([[SURE]]), "1.bias": torch.tensor([-SURE * at])}, file)


threshold(BOLD_INK, "oracle.safetensors")
threshold(BOLD_AREA, "judge.safetensors")

# Here a ruler stands for the people who would sort held-out images by looking at them.
images, _ = digits("holdout")
for number, image in enumerate(images):
    name = "bold" if (image > 0).mean() > BOLD_AREA else "plain"
    file = Path("holdout", name, f"{number}.png")
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(((image[0] + 1) * 127.5).round().astype("uint8")).save(file)
