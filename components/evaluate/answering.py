"""A classifier at work: what it answers to images whose classes are known, and what its losses say of members."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.evaluate.evidence import Answers, Membership
from components.evaluate.judging import BATCH
from expunge.errors import BadInput
from expunge.samples import SampleTable

if TYPE_CHECKING:
    import torch

    from expunge.models import Classifier


def count_classes(name: str, model: "Classifier", image_shape: tuple[int, ...], device: "torch.device") -> int:
    """How many classes it tells apart in images [C, H, W]. BadInput, by its name, if it cannot look at such images."""
    import torch

    try:
        with torch.inference_mode():
            logits = model(torch.zeros(2, *image_shape, device=device))
    except Exception as error:  # a user's own code may raise anything
        raise BadInput(f"{name}: it cannot look at images of {'x'.join(map(str, image_shape))} "
                       f"({' '.join(str(error).split())[:120]})", "bring one for such images") from error
    if logits.ndim != 2 or len(logits) != 2:
        raise BadInput(f"{name}: two images give outputs of shape {list(logits.shape)}", "return class logits [B, K]")
    return int(logits.shape[1])


def answers(name: str, model: "Classifier", table: SampleTable, unwanted: tuple[int, ...], device: "torch.device",
            done: Callable[[int], None]) -> Answers:
    """What it answers to a table of images, `BATCH` at a time; the table's labels are by its own numbers.

    `done` is called with how many images were looked at since the last call.
    """
    import torch

    parts = []
    for first in range(0, len(table), BATCH):
        rows = slice(first, first + BATCH)
        with torch.inference_mode():
            features, out = model.look(torch.from_numpy(np.ascontiguousarray(table.images[rows])).to(device))
        logits = out.double().cpu().numpy()
        parts.append((*read_off(logits, table.labels[rows], unwanted), features.float().cpu().numpy()))
        done(len(logits))
    classes, retained, losses, seen = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Answers(name, table.labels, classes, retained, losses, seen)


def read_off(logits: NDArray[np.float64], labels: NDArray[np.int64], unwanted: tuple[int, ...],
             ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Choices, choices among the retained classes and losses [b] of logits [b, K]: -1, -1 and NaN where one is NaN.

    An infinite logit, or none that is finite, has no probabilities either and counts as NaN.
    """
    from scipy.special import log_softmax

    with np.errstate(invalid="ignore"):
        logs = log_softmax(logits, axis=1)
    silent = np.isnan(logs).any(axis=1)
    kept = np.setdiff1d(np.arange(logits.shape[1]), unwanted)
    choices = np.where(silent, -1, logs.argmax(axis=1))
    others = np.where(silent, -1, kept[logs[:, kept].argmax(axis=1)]) if len(kept) else np.full(len(logits), -1)
    losses = np.where(silent, np.nan, -logs[np.arange(len(labels)), labels])
    return choices.astype(np.int64), others.astype(np.int64), losses


def by_loss(members: Answers, others: Answers) -> Membership:
    """The attack on classifiers: an image with a lower loss is taken for a member.

    The score is the negative cross-entropy of the right class (Yeom et al. 2018, "Privacy risk in machine learning",
    adversary 2, without its threshold: ranks are compared).
    """
    return Membership(-members.losses, -others.losses)
