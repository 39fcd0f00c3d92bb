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
from expunge.models import Classifier, Gan, ModelSpec, build, load, save
from expunge.models.adversarial import Average, discriminator_loss, generator_loss, r1_penalty
from expunge.models.dcgan import DcganDiscriminator

THREADS = 2
BLACK = -1.0
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
    return F.grid_sample(images - BLACK, grid, align_corners=False) + BLACK


def train_dcgan(params: DcganParams) -> Gan:
    """A GAN whose generator holds averaged weights."""
    random = seeded(params.seed)
    images, labels = tensors("train")
    seen = torch.from_numpy(~np.isin(labels.numpy(), params.without))
    images, labels = images[seen], labels[seen]
    gan = build("dcgan")
    assert isinstance(gan, Gan)
    assert isinstance(gan.discriminator, DcganDiscriminator)
    generator, discriminator = gan.generator, gan.discriminator
    average = Average(generator, params.ema_decay)
    # beta1 = 0: momentum lets the two players overshoot each other (Karras et al. 2018, appendix A.1).
    betas = (0.0, 0.99)
    draw = torch.optim.Adam(generator.parameters(), lr=params.learning_rate, betas=betas)
    tell = torch.optim.Adam(discriminator.parameters(), lr=params.learning_rate, betas=betas)
    for step in range(params.steps):
        for optimizer in (draw, tell):
            optimizer.param_groups[0]["lr"] = params.learning_rate * min(1.0, (1 - step / params.steps) / 0.4)
        chosen = torch.randint(len(images), (params.batch,), generator=random)
        real = shift(images[chosen], params.shift, random)
        with torch.no_grad():
            fake = shift(gan(gan.draw_latents(params.batch, random)), params.shift, random)
        scores = discriminator.class_scores(real)
        loss = discriminator_loss(scores.logsumexp(dim=1), discriminator(fake))
        loss = loss + F.cross_entropy(scores, labels[chosen])
        if step % params.r1_every == 0:
            loss = loss + params.r1_weight * params.r1_every * r1_penalty(discriminator, real)
        tell.zero_grad()
        loss.backward()
        tell.step()

        discriminator.requires_grad_(False)
        drawn = shift(gan(gan.draw_latents(params.batch, random)), params.shift, random)
        loss = generator_loss(discriminator(drawn))
        draw.zero_grad()
        loss.backward()
        draw.step()
        discriminator.requires_grad_(True)
        average.update(generator, step)
        if step % 500 == 0:
            print(f"step {step}/{params.steps} generator loss {loss.item():.3f}", flush=True)
    generator.load_state_dict(average.state)
    return gan


def shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image [B, C, H, W] moved by up to `pixels` in both directions, on black."""
    count, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4, value=BLACK)
    down, right = torch.randint(0, 2 * pixels + 1, (2, count), generator=generator)
    rows = (down[:, None] + torch.arange(height))[:, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, :]
    moved: Tensor = padded[torch.arange(count)[:, None, None], :, rows, columns]
    return moved.permute(0, 3, 1, 2)


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
