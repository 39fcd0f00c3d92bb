"""Shares of categories that a flow is to draw: our own reading of what Taming Normalizing Flows (WACV 2024) aims at.

The paper tames a flow also "according to a target distribution". The authors' code has no term for a distribution; it
tames the images of one category for a fixed number of steps. Ours, which is not the paper's, asks a classifier of what
the flow draws and follows its gradient through the sampler,

    L = -rho mean over draws of sum_c (pi_c / p_c) q_c(x) + gamma KL + (1 - gamma) mean over remember images of b(x)

with q(x) the classifier's probabilities, p the running shares of what it takes the draws for, and pi the target: the
gradient of KL(pi || p) where the classifier is sure, and none where the shares are right. b and KL are those of
`taming_flow.py`. Another classifier, which has no part in this, says when the interval of every share lies within the
tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expunge.measure.proportions import Estimate, rate
from expunge.methods.method import setting
from expunge.methods.taming_flow import Reached, TamingParams, bits, divergence
from expunge.methods.training import Loop, Samples, Session, Weights, in_parts, need, prepare, stream, weights
from expunge.models import ranks
from expunge.models.adam import Adam
from expunge.models.flow import Flow

CHUNK = 16  # draws whose gradient is taken together: one draw that runs off to infinity spoils no more than these
SPOILED = 20  # steps in a row, before such a flow is given up
LONGEST = 1.0  # norm of a gradient that is followed as it is; what is drawn has outliers
SHARE_RATE = 0.2  # of a running share per step
LEAST_SHARE = 0.01  # of a category that is hardly drawn: it is called for by no more than that


class DebiasParams(TamingParams):
    """Settings of reaching a distribution over categories; of the taming's, delta, alpha, forget_loss have no part."""

    rate: float = setting(3e-5, "Adam's learning rate; at a higher one the shares swing about the target", gt=0)
    batch: int = setting(16, "remember images per step", ge=2)
    guide_weight: float = setting(1.0, "weight of the shares' term (rho)", gt=0)
    draws: int = setting(64, "images that are drawn per step", ge=CHUNK)
    steps: int = setting(800, "steps at most", ge=1)
    tolerance: float = setting(0.02, "largest distance of a share's whole interval to its target", gt=0, lt=1)
    confidence: float = setting(0.95, "that all intervals of all looks hold together", gt=0, lt=1)
    looks: int = setting(5, "times at most that the measuring classifier is asked", ge=1)
    look_samples: int = setting(10_000, "fresh images of each look", ge=100)
    wait: int = setting(20, "steps before the first look, and between two", ge=1)


@dataclass(frozen=True)
class Balanced:
    """A flow whose draws have been given other shares, and what the measuring classifier said.

    Attributes:
        weights: every tensor of the parent's state, on the CPU.
        shares: of each category, with its interval, at the last look; empty if there was none.
        reached: whether every interval lay within the tolerance of its target.
        steps: updates that were made.
        looks: times that the measuring classifier was asked.
    """

    weights: Weights
    shares: tuple[Estimate, ...]
    reached: bool
    steps: int
    looks: int


class _Shares:
    """Running shares by the steering classifier, and how often the other one was asked; one of a loop's parts."""

    def __init__(self, categories: int, wait: int) -> None:
        self.mean, self.looks, self.wait = torch.full((categories,), math.nan), 0, wait
        self.spoiled = 0  # steps in a row in which nothing could be learned from what was drawn

    def take_in(self, shares: Tensor) -> None:
        """Shares [C] of one step's draws."""
        self.mean = shares if self.mean.isnan().any() else self.mean.lerp(shares, SHARE_RATE)

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"mean": self.mean, "looks": self.looks, "wait": self.wait, "spoiled": self.spoiled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state."""
        self.mean, self.looks, self.wait, self.spoiled = (state[name] for name in ("mean", "looks", "wait", "spoiled"))
        self.mean = self.mean.cpu()


def debias(
    parent: Flow, retain: Samples, target: Sequence[float], steer: nn.Module, gauge: nn.Module,
    params: DebiasParams, session: Session,
) -> Balanced:
    """A flow that draws categories in the target's shares, as a classifier finds that did not steer.

    Args:
        parent: the flow.
        retain: real images of all categories, to hold the rest where it is.
        target: share of each category, in the order of the classifiers' outputs.
        steer: images [B, C, H, W] in [-1, 1] to logits [B, K]; gradients pass through it.
        gauge: the same by another model; it is only asked what it sees in the draws of a look.
        params: the settings.
        session: where progress and resumable state go, and on which device.

    Raises:
        BadInput: the target is no distribution over the classifiers' categories; both classifiers are one; the images
            are not of the flow's shape, range or depth.
        NonFiniteLoss: a loss is not finite, or nearly all that is drawn is an outlier; names the step.
    """
    prepare(session)
    random = stream(session, 2)
    original = deepcopy(parent).to(session.device).eval().requires_grad_(False)
    flow = deepcopy(original).requires_grad_(True)
    steer, gauge = (deepcopy(model).to(session.device).eval().requires_grad_(False) for model in (steer, gauge))
    wanted = _target(target, steer, gauge, original).to(session.device)
    levels = original.levels(retain.images)
    optimizer = Adam(flow.parameters(), lr=params.rate)
    shares = _Shares(len(wanted), params.wait)
    found: list[Estimate] = []
    made = 0

    def one_step(step: int) -> dict[str, Tensor]:
        nonlocal made
        near = bool(((shares.mean - wanted.cpu()).abs() <= params.tolerance).all())
        if near and step >= shares.wait and shares.looks < params.looks:
            shares.looks, shares.wait = shares.looks + 1, step + params.wait
            found[:] = _measured(flow, gauge, len(wanted), params, stream(session, 1000 + step))
            if all(abs(edge - share) <= params.tolerance for one, share in zip(found, wanted.tolist(), strict=True)
                   for edge in (one.interval.lower, one.interval.upper)):
                raise Reached
        made = step + 1
        optimizer.zero_grad()
        guided = _guide(flow, steer, wanted, shares, params, random)
        likely = flow.points(levels[torch.randint(len(levels), (params.batch,), generator=random)], random)
        likely = ranks.own_part(likely).to(session.device)
        with torch.no_grad():
            before = ranks.whole_batch(bits(original, likely))
        now = ranks.whole_batch(bits(flow, likely))
        losses = {"divergence": params.gamma * divergence(before, now, params),
                  "bits": (1 - params.gamma) * now.mean()}
        torch.stack(list(losses.values())).sum().backward()
        ranks.average_gradients(flow.parameters())
        nn.utils.clip_grad_norm_(flow.parameters(), LONGEST)
        optimizer.step()
        return guided | losses

    reached = False
    try:
        Loop(session, "debias", params.steps, {"flow": flow, "optimizer": optimizer, "shares": shares},
             random).run(one_step)
    except Reached:
        reached = True
    session.note(f"the shares are {'' if reached else 'not '}within {params.tolerance:g} of their targets after "
                 f"{made} steps, in {shares.looks} looks")
    return Balanced(weights(flow, device="cpu"), tuple(found), reached, made, shares.looks)


def _guide(
    flow: Flow, steer: nn.Module, wanted: Tensor, shares: _Shares, params: DebiasParams, random: torch.Generator
) -> Weights:
    """Adds the shares' gradient to the flow's; the loss, if any chunk of draws was without such an outlier.

    It is not a number where that has not been so for too long: the flow then mostly draws outliers.
    """
    parameters = [parameter for parameter in flow.parameters() if parameter.requires_grad]
    chunks = params.draws // CHUNK
    losses, seen = [], []
    for _ in range(chunks):
        points = flow.draw(CHUNK, random)
        chances = steer(points.clamp(-1, 1)).softmax(dim=1)
        if not torch.isfinite(chances).all():
            continue
        seen.append(nn.functional.one_hot(chances.argmax(dim=1), len(wanted)).float())
        known = seen[-1].mean(dim=0).cpu() if shares.mean.isnan().any() else shares.mean
        called_for = wanted / known.clamp(min=LEAST_SHARE).to(wanted)
        loss = -params.guide_weight * (chances @ called_for).mean()
        gradients = torch.autograd.grad(loss / chunks, parameters, allow_unused=True)
        if not all(one is None or torch.isfinite(one).all() for one in gradients):
            continue
        losses.append(loss.detach())
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    if seen:
        shares.take_in(torch.cat(seen).mean(dim=0).cpu())
    shares.spoiled = 0 if losses else shares.spoiled + 1
    if shares.spoiled > SPOILED:
        return {"guide": torch.full((), math.nan)}
    return {"guide": torch.stack(losses).mean()} if losses else {}


def _measured(
    flow: Flow, gauge: nn.Module, categories: int, params: DebiasParams, random: torch.Generator
) -> list[Estimate]:
    """Each category's share of fresh draws; all intervals of all looks hold together (Bonferroni)."""
    labels = []
    for start in range(0, params.look_samples, 512):
        drawn = flow.sample(min(512, params.look_samples - start), random)
        seen = in_parts(lambda some: gauge(some).argmax(dim=1), drawn)
        labels.append(torch.where(torch.isfinite(drawn).all(dim=3).all(dim=2).all(dim=1), seen, -1))  # -1: no image
    found = torch.cat(labels)
    intervals = 1 if categories == 2 else categories  # of two, one share says the other
    each = 1 - (1 - params.confidence) / (params.looks * intervals)
    return [rate((found == category).cpu().numpy(), each) for category in range(categories)]


@torch.no_grad()
def _target(target: Sequence[float], steer: nn.Module, gauge: nn.Module, flow: Flow) -> Tensor:
    """The target as a tensor [K]; BadInput if it is no distribution over what both classifiers tell apart."""
    wanted = torch.tensor(list(target), dtype=torch.float32)
    need(len(wanted) >= 2 and bool((wanted >= 0).all()) and abs(wanted.sum().item() - 1) < 1e-4,
         f"target: {', '.join(f'{share:g}' for share in target)} is no distribution",
         "give a share of at least 0 for each of two or more categories, 1 together")
    shown = torch.linspace(-1, 1, 2 * flow.dimensions).view(2, *flow.image_shape).to(next(flow.parameters()).device)
    for name, model in (("steer", steer), ("gauge", gauge)):
        known = model(shown).shape[1]
        need(known == len(wanted), f"target: {len(wanted)} shares, and the classifier '{name}' knows {known} classes",
             "give one for each, in their order")
    ours, theirs = steer.state_dict(), gauge.state_dict()
    alike = ours.keys() == theirs.keys() and all(torch.equal(one, theirs[name]) for name, one in ours.items())
    need(not (alike and torch.equal(steer(shown), gauge(shown))), "gauge: it is the classifier that steers",
         "measure with another one, trained apart: what steers is misled first")
    return wanted
