"""What the tests of GAN methods share: a tiny problem, where bright images are unwanted, and a session that dies."""

import io

import torch

from expunge.methods.training import Samples, Session, in_parts
from expunge.models import build

SMALL_GAN = {"width": 8, "mapping": 16, "discriminator_width": 8}


class Bright:
    """Finds bright images unwanted: an oracle that needs no training."""

    def __init__(self, threshold):
        self.threshold = threshold

    def probability_unwanted(self, images):
        return torch.sigmoid(1000 * (images.mean(dim=(1, 2, 3)) - self.threshold))


def small_problem():
    torch.manual_seed(0)
    parent = build("dcgan", **SMALL_GAN)
    latents = parent.draw_latents(120, torch.Generator().manual_seed(1))
    images = in_parts(parent, latents)
    brightness = images.mean(dim=(1, 2, 3))
    oracle = Bright(brightness.quantile(0.75))
    bright = brightness > oracle.threshold
    return parent, Samples(images[bright], latents[bright]), Samples(images[~bright], latents[~bright]), oracle


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Killed(Exception):
    pass


class KilledOnce(Session):
    """Keeps state as a room does, through bytes, and dies right after the first time."""

    def __init__(self, seed, kept, after=0, threads=2):
        super().__init__(seed, threads)
        self.kept, self.after = kept, after

    def checkpoint(self, state):
        if state["step"] <= self.after:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        first_time = not self.kept
        self.kept[:] = [buffer.getvalue()]
        if first_time:
            raise Killed

    def resume(self):
        return torch.load(io.BytesIO(self.kept[0]), weights_only=True) if self.kept else None
