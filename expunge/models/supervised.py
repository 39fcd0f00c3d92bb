"""Training a classifier on labelled images: an oracle or a judge for somebody who has none.

Nothing here is a method of forgetting. Adam with a learning rate that falls along a cosine, cross-entropy,
images shifted by a pixel or two and never mirrored: a mirrored digit or letter is another one. The epoch with
the lowest loss on a validation part is kept, and training ends early when it has not fallen for a while.

Probabilities matter, because curation goes by them and guidance by their gradients. Keeping the epoch with the
lowest validation loss keeps them honest: a temperature fitted afterwards (Guo et al. 2017, "On calibration of
modern neural networks") was tried on MNIST and Fashion-MNIST and left the loss on held-out images as it was.
So none is used, and no smoothed labels either.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import NonFiniteLoss
from expunge.methods.training import Session, in_parts, prepare, stream
from expunge.models.adam import Adam
from expunge.models.classifiers import Classifier, halvings_for
from expunge.models.registry import build

STEPS = 2_000  # updates that training takes if nobody says how many epochs: enough for ten classes of 28x28
FEWEST_EPOCHS, MOST_EPOCHS = 5, 60
FEW_IMAGES = 5_000  # below this, smaller batches: an epoch would be a handful of updates
BATCH, SMALL_BATCH = 128, 32
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
PATIENCE = 0.25  # share of all epochs that may pass without a lower validation loss before training ends


@dataclass(frozen=True)
class Labelled:
    """Images as they are stored, uint8 [N, C, H, W], and their classes [N]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Trained:
    """A classifier, and how it came to be.

    Attributes:
        model: on the CPU, in evaluation mode.
        config: the arguments of its builder.
        epochs: how many were trained.
        kept: the epoch whose weights these are, from 1.
    """

    model: Classifier
    config: dict[str, int]
    epochs: int
    kept: int


def train(architecture: str, learn: Labelled, validation: Labelled, classes: int, epochs: int | None,
          session: Session) -> Trained:
    """Trains a built-in classifier; the same arguments, seed and threads give the same bits on a CPU.

    `epochs` is the most that are trained; None takes as many as make about `STEPS` updates.

    Raises:
        NonFiniteLoss: a loss is not finite; names the step.
    """
    prepare(session)
    config = config_for(architecture, learn.pixels.shape[1:], classes)
    torch.manual_seed(session.seed)
    model = cast(Classifier, build(architecture, **config)).to(session.device)
    batch = BATCH if len(learn) >= FEW_IMAGES else SMALL_BATCH
    per_epoch = math.ceil(len(learn) / batch)
    most = epochs or min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(STEPS / per_epoch)))
    optimizer = Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, decoupled_weight_decay=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, most * per_epoch)

    best, kept, state, step, epoch, scalars = math.inf, 0, model.state_dict(), 0, 0, {}
    batches = _batches(learn, batch, stream(session, 1), session.device)
    while epoch < most and epoch - kept <= PATIENCE * most:
        model.train()
        for _ in range(per_epoch):
            images, labels = next(batches)
            loss = F.cross_entropy(model(images), labels)
            scalars["loss"] = _finite(loss.item(), architecture, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            session.report(step, most * per_epoch, **scalars)
        epoch += 1
        found = _finite(log_loss(logits(model, validation.pixels), validation.labels), architecture, step)
        scalars["validation"] = found
        if found < best:
            best, kept, state = found, epoch, copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    return Trained(model.cpu().eval(), config, epoch, kept)


def config_for(architecture: str, shape: tuple[int, ...], classes: int) -> dict[str, int]:
    """The builder's arguments for images of shape (C, H, W)."""
    channels, rows, columns = shape
    config = {"channels": channels, "classes": classes, "halvings": halvings_for(rows, columns)}
    return config | {"rows": rows, "columns": columns} if architecture == "lenet" else config


def logits(model: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Class logits [N, K] of stored images [N, C, H, W]."""
    device = next(model.parameters()).device
    model.eval()
    found: NDArray[Any] = in_parts(
        lambda part: model(_as_images(part.to(device))).cpu(), torch.from_numpy(pixels)).double().numpy()
    return found


def log_loss(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean of -log p(true class), from logits [N, K] and classes [N]."""
    return float(-log_probabilities(scores, labels).mean())


def log_probabilities(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithm of p(true class) [N], from logits [N, K] and classes [N]."""
    found: NDArray[np.float64] = log_softmax(scores, axis=1)[np.arange(len(labels)), labels]
    return found


def shift(pixels: Tensor, most: int, random: torch.Generator) -> Tensor:
    """Each image [B, C, H, W] moved by up to `most` pixels in both directions; its edges are continued."""
    count, _, height, width = pixels.shape
    down, right = torch.randint(-most, most + 1, (2, count, 1), generator=random)
    rows = (down + torch.arange(height)).clamp(0, height - 1)
    columns = (right + torch.arange(width)).clamp(0, width - 1)
    moved = pixels[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _batches(data: Labelled, size: int, random: torch.Generator,
             device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Images in [-1, 1] and their classes, shuffled and shifted, epoch after epoch without end."""
    pixels, labels = torch.from_numpy(data.pixels), torch.from_numpy(data.labels)
    most = 1 if max(pixels.shape[2:]) < 24 else 2
    while True:
        for chosen in torch.randperm(len(data), generator=random).split(size):
            yield _as_images(shift(pixels[chosen], most, random).to(device)), labels[chosen].to(device)


def _as_images(pixels: Tensor) -> Tensor:
    """Stored pixels as models take them, in [-1, 1]: what `from_pixels` is to arrays."""
    return pixels.float() / 127.5 - 1


def _finite(loss: float, name: str, step: int) -> float:
    if not math.isfinite(loss):
        raise NonFiniteLoss(f"{name}: the loss is {loss} at step {step}", "check the images and their labels")
    return loss
