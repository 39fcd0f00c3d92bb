"""What the tests of classifier methods share: a tiny problem of four classes, and a classifier that has learned it."""

from functools import cache

import torch
from torch.nn import functional as F

from expunge.methods.training import Material, Samples
from expunge.models.adam import Adam
from expunge.models.cifar_resnet import build_cifar_resnet

CLASSES = 4
CONFIG = {"depth": 8, "channels": 1, "width": 4, "classes": CLASSES}


def quarters(count, seed):
    """Noisy images [count, 1, 8, 8], one quarter of which is bright: which one is the class."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.full((count, 1, 8, 8), -0.5) + 0.3 * torch.randn(count, 1, 8, 8, generator=random)
    for row, label in enumerate(labels.tolist()):
        down, right = 4 * (label // 2), 4 * (label % 2)
        images[row, :, down : down + 4, right : right + 4] += 0.8
    return Samples(images, labels=labels)


def split(samples, restricted):
    """A request's material: what is to be lost, and what is to stay."""
    lost = torch.isin(samples.labels, torch.tensor(restricted))
    forget, retain = (Samples(samples.images[rows], labels=samples.labels[rows]) for rows in (lost, ~lost))
    return Material(forget=forget, retain=retain, restricted=tuple(restricted))


@cache
def _learned():
    torch.manual_seed(0)
    model, seen = build_cifar_resnet(**CONFIG).train(), quarters(256, 0)
    optimizer = Adam(model.parameters(), 1e-2)
    for step in range(60):
        rows = torch.arange(step * 32, (step + 1) * 32) % len(seen)
        optimizer.zero_grad()
        F.cross_entropy(model(seen.images[rows]), seen.labels[rows]).backward()
        optimizer.step()
    return model.eval().state_dict()


def learned():
    """A classifier that tells the quarters apart."""
    model = build_cifar_resnet(**CONFIG)
    model.load_state_dict(_learned())
    return model.eval()


def small_problem(restricted=(1,), count=80):
    return learned(), split(quarters(count, 1), restricted)


@torch.no_grad()
def accuracy(model, restricted, count=200):
    """On restricted classes and on the remaining ones, of images that nobody has trained on."""
    seen = quarters(count, 2)
    right = (model.eval()(seen.images).argmax(dim=1) == seen.labels).float()
    lost = torch.isin(seen.labels, torch.tensor(restricted))
    return right[lost].mean().item(), right[~lost].mean().item()


def with_state(state):
    model = build_cifar_resnet(**CONFIG)
    model.load_state_dict(state)
    return model.eval()
