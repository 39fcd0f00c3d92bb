"""What does our training loop cost beside a plain, hand-written loop of the same arithmetic?

python benchmarks/training_speed.py [--threads 2] [--steps 60] [--repeats 7]

The same network, batch, losses and optimizers, in one process, in turns: some steps of ours, as many of the plain
loop, again and again; ratios are of neighbours in time, and their median counts. Ours reports its losses at every
step, checks that they are finite, and can be killed and continued; the plain loop does none of this. Setting up
(Fisher information, sorting the pool) is in neither.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from recording import record
from torch import Tensor
from torch.nn import functional as F

DIGIT, CURATED, SEED = 8, 2_000, 5
STAGES = ("adapt", "unlearn: paper", "unlearn: default")


def problem() -> tuple[Any, Any, Any]:
    """The built-in generator, material to forget one digit, and the oracle."""
    from expunge import assets, models
    from expunge.methods.training import ClassifierOracle, Material, Samples, in_parts

    parent, oracle = (models.load(assets.path(name)) for name in ("dcgan", "oracle"))
    latents = parent.draw_latents(CURATED, torch.Generator().manual_seed(SEED))
    images = in_parts(parent, latents)
    labels = in_parts(oracle, images).argmax(dim=1)
    negative, positive = (Samples(images[chosen], latents[chosen], labels[chosen])
                          for chosen in (labels == DIGIT, labels != DIGIT))
    return parent, Material(negative, positive, oracle=ClassifierOracle(oracle, [DIGIT])), oracle


def ours(stage: str, steps: int, threads: int, adaptation: dict[str, Tensor]) -> float:
    """Seconds per step of the method's own loop, the first one left out."""
    from expunge import methods
    from expunge.methods.training import Session

    class Timed(Session):
        """Notes when each step was reported."""

        def __init__(self) -> None:
            super().__init__(SEED, threads)
            self.moments: list[float] = []

        def report(self, step: int, total: int, **scalars: float) -> None:
            self.moments.append(time.perf_counter())

    method = methods.find("adapt_then_unlearn", "gan")
    parent, material, _ = problem()
    session = Timed()
    length = {"adapt_steps": steps + 1, "steps": steps + 1, "rounds": 1, "models": 1, "assign_every": steps + 1}
    if stage == "adapt":
        method.adapt(parent, material, method.parameters("default", length), session)
    else:
        preset = stage.partition(": ")[2]
        method.unlearn(parent, adaptation, material, method.parameters(preset, length), session)
    return (session.moments[-1] - session.moments[0]) / steps


class Plain:
    """The loop that somebody would write who wants nothing but the arithmetic."""

    def __init__(self, stage: str, adaptation: dict[str, Tensor], steps: int) -> None:
        from expunge import methods
        from expunge.methods.adapt_then_unlearn import Pairs
        from expunge.methods.elastic import fisher
        from expunge.methods.training import Session

        self.parent, self.material, self.oracle = problem()
        self.stage = stage
        preset = "default" if stage == "adapt" else stage.partition(": ")[2]
        self.params: Any = methods.find("adapt_then_unlearn", "gan").parameters(preset, {"assign_every": steps + 1})
        self.gan = copy.deepcopy(self.parent).requires_grad_(True)
        self.painter, self.teller = (
            torch.optim.Adam(player.parameters(), lr=1e-3, betas=(0.0, 0.99))
            for player in (self.gan.generator, self.gan.discriminator))
        self.random = torch.Generator().manual_seed(SEED)
        self.anchor = {name: p.detach().clone() for name, p in self.parent.generator.named_parameters()}
        self.average = {name: p.clone() for name, p in self.anchor.items()}
        self.information = fisher(self.parent, 32, self.random)
        self.adapted = {name: adaptation[f"0.{name}"] for name in self.anchor} if adaptation else {}
        self.pairs = None
        if self.params.paired and stage != "adapt":
            self.pairs = Pairs(self.parent, self.material.negative, self.material.positive, self.material.oracle,
                               self.params, Session(SEED))
            self.pairs.draw_anew(0)
            self.pairs.assign(self.gan.generator)

    def step(self, number: int) -> None:
        """One step of D, one of G."""
        params, gan, batch, random = self.params, self.gan, self.params.batch, self.random
        negative, positive = self.material.negative.images, self.material.positive.images
        real_of = negative if self.stage == "adapt" else positive
        loss: Any = 0.0
        if self.pairs is None:
            fake = gan.generator(torch.randn(batch, gan.latent_dim, generator=random))
        else:
            latents, targets, moved = self.pairs.draw(batch, params.moved_share, random)
            fake = gan.generator(latents)
            distance = (fake - targets).square().mean(dim=(1, 2, 3))
            loss = params.preservation_weight * (distance * ~moved).mean()
            loss = loss + params.redirection_weight * (distance * moved).mean()
            chance = self.oracle(fake).softmax(1)[:, DIGIT].clamp(max=1 - 1e-4)
            loss = loss - params.guidance_weight * torch.log1p(-chance).mean()
        if self.stage == "adapt":
            loss = params.ewc_weight / 2 * sum(
                (self.information[name] * (p - self.anchor[name]).square()).sum()
                for name, p in gan.generator.named_parameters())
        else:
            now = sum((p - self.adapted[name]).square().sum() for name, p in gan.generator.named_parameters())
            start = sum((p - self.adapted[name]).square().sum() for name, p in self.anchor.items())
            loss = loss + params.repulsion_weight * torch.exp(-params.repulsion_scale * (now / start - 1))
        gan.discriminator.requires_grad_(True)
        real = real_of[torch.randint(len(real_of), (batch,), generator=random)]
        told = F.softplus(-gan.discriminator(real)).mean() + F.softplus(gan.discriminator(fake.detach())).mean()
        if self.stage != "adapt" and params.redaction_weight:
            shunned = negative[torch.randint(len(negative), (batch // 4,), generator=random)]
            told = told + params.redaction_weight * F.softplus(gan.discriminator(shunned)).mean()
        if number % params.r1_every == 0:
            images = real.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(gan.discriminator(images).sum(), images, create_graph=True)
            penalty = gradient.square().sum(dim=(1, 2, 3)).mean() / 2
            told = told + params.r1_weight * params.r1_every * penalty
        self.teller.zero_grad()
        told.backward()
        self.teller.step()
        gan.discriminator.requires_grad_(False)
        if self.stage == "adapt":
            fake = gan.generator(torch.randn(batch, gan.latent_dim, generator=random))
        weight = 1.0 if self.stage == "adapt" else params.adversarial_weight
        loss = loss + weight * F.softplus(-gan.discriminator(fake)).mean()
        self.painter.zero_grad()
        loss.backward()
        self.painter.step()
        if self.stage != "adapt":
            with torch.no_grad():
                for name, p in gan.generator.named_parameters():
                    self.average[name].lerp_(p, 1 - params.ema_decay)

    def run(self, steps: int) -> float:
        """Seconds per step, the first one left out."""
        self.step(0)
        began = time.perf_counter()
        for number in range(1, steps + 1):
            self.step(number)
        return (time.perf_counter() - began) / steps


def main() -> None:
    """Measures in turns, and records."""
    from expunge import methods
    from expunge.methods.training import Session, prepare

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    prepare(Session(SEED, given.threads))
    method = methods.find("adapt_then_unlearn", "gan")
    parent, material, _ = problem()
    adaptation = method.adapt(parent, material, method.parameters("default", {"adapt_steps": 4}), Session(SEED))
    found = {stage: measured(stage, given.steps, given.repeats,
                             lambda stage=stage: ours(stage, given.steps, given.threads, adaptation),
                             lambda stage=stage: Plain(stage, adaptation, given.steps).run(given.steps))
             for stage in STAGES}
    rows = ["| stage | batch | ours, images/s | plain, images/s | ours / plain, median | range |", "|" + "---|" * 6]
    for stage, (batch, mine, plain) in found.items():
        ratios = sorted(theirs / own for own, theirs in zip(mine, plain, strict=True))
        rows.append(f"| {stage} | {batch} | {batch / statistics.median(mine):,.0f} |"
                    f" {batch / statistics.median(plain):,.0f} | {statistics.median(ratios):.2f} |"
                    f" {ratios[0]:.2f} to {ratios[-1]:.2f} |")
    told = f"{given.threads} threads, {given.steps} steps in a turn, {given.repeats} turns, seed {SEED}."
    record("training_speed", {"setting": vars(given), "seconds_per_step": {
        stage: {"batch": batch, "ours": mine, "plain": plain} for stage, (batch, mine, plain) in found.items()}},
        "\n".join([told, "A ratio above one: ours is faster.", "", *rows]))


def measured(stage: str, steps: int, repeats: int, mine: Callable[[], float],
             plain: Callable[[], float]) -> tuple[int, list[float], list[float]]:
    """The batch, and seconds per step of both, taken in turns; the first turn warms up and is not counted."""
    from expunge import methods

    preset = "default" if stage == "adapt" else stage.partition(": ")[2]
    batch = methods.find("adapt_then_unlearn", "gan").parameters(preset).batch
    turns = [(mine(), plain()) for _ in range(repeats + 1)][1:]
    return batch, [own for own, _ in turns], [theirs for _, theirs in turns]


if __name__ == "__main__":
    main()
