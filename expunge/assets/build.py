"""Trains the built-in models and writes their cards.

`python -m expunge.assets.build oracle|judge|dcgan|never-saw-8|cards`; `dvc repro` runs them all.
Each reads its own block of `params.yaml` in the current folder; the weights depend only on that block, the
train split, the torch build and the thread count.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.assets import Split, digits, path
from expunge.methods import retrain
from expunge.methods.training import Samples, Session
from expunge.models import Classifier, Gan, ModelSpec, build, load, save

THREADS = 2
COOLING = 0.4  # last part of the steps, over which the rates fall to 0
DIGITS = tuple(str(digit) for digit in range(10))
GENERATORS = ("dcgan", "never-saw-8")
CARD_SAMPLES = 5000
CARD_SEED = 9  # not a training seed: the card's samples are drawn afresh


class ClassifierParams(BaseModel):
    """One classifier's block of `params.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    seed: int
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float


class DcganParams(BaseModel):
    """The generator's block of `params.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    steps: int
    batch: int
    learning_rate: float
    r1_weight: float
    r1_every: int
    ema_decay: float
    shift: int
    without: tuple[int, ...] = ()  # digits that it never gets to see


def tensors(split: Split) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 16, 16] in [-1, 1] and labels [N] of a split."""
    images, labels = digits(split)
    return torch.from_numpy(images), torch.from_numpy(labels)


def train_classifier(params: ClassifierParams) -> nn.Module:
    """A classifier trained on slightly rotated, scaled, sheared and shifted digits."""
    generator = seeded(params.seed)
    images, labels = tensors("train")
    model = build(params.architecture)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay
    )
    steps = params.epochs * -(-len(images) // params.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, params.learning_rate, total_steps=steps)
    for _ in range(params.epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(params.batch):
            loss = F.cross_entropy(model(distort(images[chosen], generator)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random affine change per image [B, 1, H, W], as large as handwriting varies."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) * 2 - 1) * limit

    angle, scale, shear = uniform(0.2), 1 + uniform(0.12), uniform(0.15)  # radians, ratio, ratio
    matrix = torch.stack(
        [
            torch.stack([angle.cos() * scale, -angle.sin() * scale + shear, uniform(0.15)], dim=1),
            torch.stack([angle.sin() * scale, angle.cos() * scale, uniform(0.15)], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images - retrain.BLACK, grid, align_corners=False) + retrain.BLACK


def train_dcgan(params: DcganParams) -> Gan:
    """A GAN whose generator holds averaged weights."""
    random = seeded(params.seed)
    images, labels = tensors("train")
    seen = torch.from_numpy(~np.isin(labels.numpy(), params.without))
    gan = build("dcgan")
    assert isinstance(gan, Gan)
    settings = retrain.Params(
        generator_rate=params.learning_rate, discriminator_rate=params.learning_rate, cooling=COOLING,
        **params.model_dump(exclude={"seed", "learning_rate", "without"}))
    shown = Samples(images[seen], labels=labels[seen])
    return retrain.from_scratch(gan, shown, settings, Printing(params.seed, THREADS), random)


class Printing(Session):
    """Says now and then how far training is."""

    def report(self, step: int, total: int, **scalars: float) -> None:
        """Every five hundred steps."""
        if step % 500 == 0:
            print(f"step {step}/{total} generator loss {scalars['adversarial']:.3f}", flush=True)


def seeded(seed: int) -> torch.Generator:
    """Seeds weight initialisation, and returns the random stream for everything else."""
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """Share of a split's images that the classifier names rightly."""
    images, labels = tensors(split)
    right: Tensor = model(images).argmax(dim=1) == labels
    return right.double().mean().item()


@torch.no_grad()
def generator_quality(gan: Gan, judge: Classifier) -> list[str]:
    """Lines for the card: how the judge sees fresh samples of the generator."""
    latents = gan.draw_latents(CARD_SAMPLES, torch.Generator().manual_seed(CARD_SEED))
    samples = torch.cat([judge(gan(part)) for part in latents.split(500)]).softmax(dim=1)
    shares = np.bincount(samples.argmax(dim=1).numpy(), minlength=len(DIGITS)) / CARD_SAMPLES
    confidence = samples.max(dim=1).values
    return [
        f"- {CARD_SAMPLES:,} samples, seen by the judge, which training never saw:",
        "- share of each digit 0..9: " + ", ".join(f"{share:.1%}" for share in shares),
        f"- mean confidence {confidence.mean():.4f}; below 0.9 for {(confidence < 0.9).double().mean():.1%}",
    ]


def card(name: str, params: BaseModel, quality: list[str]) -> str:
    """A model card: what it is, from what, by which command, and how good it was when built."""
    settings = ", ".join(f"{key} {value}" for key, value in params.model_dump().items() if value != ())
    train, holdout = len(digits("train")[1]), len(digits("holdout")[1])
    return "\n".join(
        [
            f"# {name}",
            "",
            "Written by `python -m expunge.assets.build cards`; do not edit.",
            "",
            "- data: scikit-learn's handwritten digits (UCI Optical Recognition of Handwritten Digits,"
            " CC BY 4.0), 8x8 enlarged bilinearly to 16x16, range [-1, 1]",
            f"- split: stratified and fixed, {train:,} train and {holdout} holdout images;"
            " trained on train only",
            f"- command: `python -m expunge.assets.build {name}` (or `dvc repro`), {THREADS} threads",
            f"- parameters: {settings}",
            f"- file: {path(name).stat().st_size:,} bytes, safetensors",
            "- use: demonstration and tests of unlearning; not for reading anybody's handwriting",
            "",
            "## Measured when built",
            "",
            *quality,
            "",
        ]
    )


def write_cards(params: dict[str, Any]) -> None:
    """Measures the models from their files, and writes a card beside each."""
    judge = load(path("judge"))
    assert isinstance(judge, Classifier)
    for name in ("oracle", "judge"):
        model = load(path(name))
        quality = [f"- accuracy on {split}: {accuracy(model, split):.2%}" for split in ("train", "holdout")]
        text = card(name, ClassifierParams.model_validate(params[name]), quality)
        path(name).with_suffix(".md").write_text(text)
    for name in GENERATORS:
        gan = load(path(name))
        assert isinstance(gan, Gan)
        text = card(name, DcganParams.model_validate(params[name]), generator_quality(gan, judge))
        path(name).with_suffix(".md").write_text(text)


def main() -> None:
    """Builds one asset from its block of `params.yaml`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["oracle", "judge", *GENERATORS, "cards"])
    what = parser.parse_args().what
    params = yaml.safe_load(Path("params.yaml").read_text())
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    if what == "cards":
        write_cards(params)
    elif what in GENERATORS:
        trained: nn.Module = train_dcgan(DcganParams.model_validate(params[what]))
        save(path(what), trained.state_dict(), ModelSpec(architecture="dcgan", family="gan", classes=DIGITS))
    else:
        settings = ClassifierParams.model_validate(params[what])
        trained = train_classifier(settings)
        spec = ModelSpec(architecture=settings.architecture, family="classifier", classes=DIGITS)
        save(path(what), trained.state_dict(), spec)


if __name__ == "__main__":
    main()
