"""What the tests of flows share: handwritten digits of 8x8 pixels and 4 bits, and a Glow that knows them a little."""

import functools

import torch

from expunge.methods.training import Samples, Session
from expunge.models import build
from expunge.models.flow import fit_likelihood

SMALL_GLOW = {"side": 8, "levels": 2, "steps": 2, "hidden": 8, "bits": 4}


@functools.cache
def digits():
    """Images [1797, 1, 8, 8] in [-1, 1] and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    levels = torch.tensor(found.images, dtype=torch.float32).clamp(max=15)[:, None]
    return levels * (2 / 15) - 1, torch.tensor(found.target)


def fresh_glow(**config):
    torch.manual_seed(0)
    return build("glow", **SMALL_GLOW | config).eval()


@functools.cache
def _trained():
    flow, threads = fresh_glow(), torch.get_num_threads()
    torch.set_num_threads(1)  # the same bits whatever ran before
    fit_likelihood(flow, digits()[0], 80, 32, 5e-3, torch.Generator().manual_seed(0))
    torch.set_num_threads(threads)
    return flow.state_dict()


def small_flow():
    """A Glow after a second of training."""
    flow = fresh_glow()
    flow.load_state_dict(_trained())
    return flow


def digits_to_forget(digit=3, count=4):
    """Some images of a digit, and all images of the others."""
    images, labels = digits()
    return Samples(images[labels == digit][:count]), Samples(images[labels != digit], labels=labels[labels != digit])


class Noted(Session):
    """Keeps what it is told."""

    def __init__(self, seed=3, threads=1):
        super().__init__(seed, threads)
        self.notes, self.losses = [], []

    def note(self, text):
        self.notes.append(text)

    def report(self, step, total, **scalars):
        self.losses.append(scalars)
