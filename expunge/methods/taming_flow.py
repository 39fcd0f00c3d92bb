"""Taming Normalizing Flows (Malnick, Avidan, Fried; WACV 2024): images become as unlikely as asked, and no more.

With b(x) the bits per dimension of x, and mu, sigma their mean and standard deviation over the remember images (both
under the weights of the moment), d(x) = b(x) - (mu + delta sigma) is how far an image is from its threshold, and

    L   = alpha L_F + (1 - alpha) L_R
    L_F = mean over forget images of sigmoid(d(x)^2)              two-sided: to the threshold, not to infinity
    L_R = gamma KL + (1 - gamma) mean over remember images of b(x)
    KL  = KL(N_0 || N) + KL(N || N_0),   N_0, N: normal, with mean and std of the batch's b under parent and candidate

until every forget image is within epsilon = 0.15 delta sigma of its threshold. All parameters are updated, by Adam.
This follows the authors' code, which takes random forget batches for a category, and no early stop then. Its log term
log(s / s_0) has no gradient; in the symmetric form the two cancel, in a one-sided one they do not. Here it has its
gradient; `log_term: detached` is for comparing with their one-sided ablations.

A step of that code is five passes: all forget images (does it stop?), the forget batch, the remember batch through the
parent and through the candidate, and the remember batch once more for a log; besides, the statistics pass 1,024 images
every 10 steps. A step of this one is three passes, of the forget batch, and of the remember batch through the parent
and the candidate; the first and the last are one call. Where the others went:

    does it stop?   by what the forget batches said of each image when it was last in one; what looks reached is looked
                    at again with all images under the weights of the moment, before anything stops
    the log         is the remember batch's b, which there is already
    statistics      b hardly changes from refresh to refresh by other than what it was for the parent: a part of the
                    1,024 is passed, and the rest follows by regression on the parent's (a control variate). Before it
                    stops, all of them are

Our reading: the statistics' images and points are drawn once; a batch of the remember images meets both models at the
same points; forget images are dealt from a shuffled deck; which one-sided KL is called forward. The remember images are
`retain`: unlike the authors' code, it does not hold the forget images themselves.

`debias` is the paper's other use: what a flow draws gets the shares of categories that are asked for. The authors'
code has no term for a distribution; it tames the images of one category for a fixed number of steps. Ours, which is not
the paper's, asks a classifier of what the flow draws and follows its gradient through the sampler,

    L = -rho mean over draws of sum_c (pi_c / p_c) q_c(x) + gamma KL + (1 - gamma) mean over remember images of b(x)

with q(x) the classifier's probabilities, p the running shares of what it takes the draws for, and pi the target: the
gradient of KL(pi || p) where the classifier is sure, and none where the shares are right. Another classifier, which
has no part in this, says when the interval of every share lies within the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from expunge.measure.proportions import Estimate, rate
from expunge.methods.method import Method, setting
from expunge.methods.training import (
    Deck,
    Loop,
    Material,
    Samples,
    Session,
    Weights,
    in_parts,
    need,
    prepare,
    stream,
    weights,
)
from expunge.models import ranks
from expunge.models.flow import Flow

CHUNK = 16  # draws whose gradient is taken together: one draw that runs off to infinity spoils no more than these
SPOILED = 20  # steps in a row, before such a flow is given up
LONGEST = 1.0  # norm of a gradient that is followed as it is; what is drawn has outliers
SHARE_RATE = 0.2  # of a running share per step
LEAST_SHARE = 0.01  # of a category that is hardly drawn: it is called for by no more than that
LEAST_STD = 1e-6  # bits/dim: below it a batch is taken to have this spread, so that KL stays finite


class TamingParams(BaseModel):
    """Settings of the loss: weights are the paper's, distances are in standard deviations of the remember images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delta: float = setting(
        4.0, "how many sigma above mu the threshold lies (delta); 1 to 4 in the authors' configurations", gt=0)
    alpha: float = setting(0.6, "weight of the forget loss, against what is remembered (alpha)", ge=0, le=1)
    gamma: float = setting(0.6, "of what is remembered, the weight of KL against bits/dim (gamma)", ge=0, le=1)
    divergence: Literal["symmetric", "forward", "reverse"] = setting(
        "symmetric", "KL in both directions, from the parent's (forward), or to the parent's (reverse)")
    log_term: Literal["full", "detached"] = setting(
        "full", "whether the logarithm in KL has its gradient; the authors' code detaches it")
    forget_loss: Literal["threshold", "descent"] = setting(
        "threshold", "pull to the threshold, or, as the paper's baseline, lower the likelihood without end")
    rate: float = setting(5e-5, "Adam's learning rate", gt=0)
    batch: int = setting(8, "forget images per step at most, and remember images per step", ge=2)


class DebiasParams(TamingParams):
    """Settings of reaching a distribution over categories; of the taming's, delta, alpha, forget_loss have no part."""

    rate: float = setting(2e-4, "Adam's learning rate", gt=0)
    batch: int = setting(16, "remember images per step", ge=2)
    guide_weight: float = setting(1.0, "weight of the shares' term (rho)", gt=0)
    draws: int = setting(64, "images that are drawn per step", ge=CHUNK)
    steps: int = setting(800, "steps at most", ge=1)
    tolerance: float = setting(0.02, "largest distance of a share's whole interval to its target", gt=0, lt=1)
    confidence: float = setting(0.95, "that all intervals of all looks hold together", gt=0, lt=1)
    looks: int = setting(5, "times at most that the measuring classifier is asked", ge=1)
    look_samples: int = setting(10_000, "fresh images of each look", ge=100)
    wait: int = setting(20, "steps before the first look, and between two", ge=1)


class Params(TamingParams):
    """Settings of forgetting images: counts are of images or steps."""

    steps: int = setting(800, "steps at most", ge=1)
    epsilon: float = setting(0.15, "allowed distance to the threshold, as a part of delta (epsilon)", gt=0)
    stop: Literal["reached", "never"] = setting(
        "reached", "end when every forget image is within epsilon; 'never' takes all steps")
    statistics: int = setting(1024, "remember images whose mu and sigma set the threshold", ge=2)
    refresh_every: int = setting(10, "steps between refreshed statistics", ge=1)
    refresh_images: int = setting(128, "of them, how many a refresh passes; all: no regression on the parent's", ge=8)
    draws: int = setting(5, "points of each forget image that are looked at before it stops", ge=1)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # What is confirmed of the authors' public configuration.
    "paper": {"delta": 1.0},
    # Their code for attributes and classes: random batches of a category for a fixed number of steps.
    "category": {"steps": 200, "stop": "never"},
    "debug": {"steps": 30, "rate": 2e-3, "statistics": 64, "refresh_images": 32, "delta": 2.0},  # seconds
}


# ------------------------------------------------------------------------------------------ the loss


def bits(flow: Flow, points: Tensor) -> Tensor:
    """Bits per dimension [B] of points [B, C, H, W]."""
    return flow.bits_per_dim(flow.log_prob(points))


def normal_kl(of: tuple[Tensor, Tensor], to: tuple[Tensor, Tensor], detached: bool = False) -> Tensor:
    """KL(N(of) || N(to)) of two normal distributions, each (mean, standard deviation), in nats."""
    (mean, std), (other_mean, other_std) = of, to
    log = (other_std / std).log()
    return (log.detach() if detached else log) + (std**2 + (mean - other_mean) ** 2) / (2 * other_std**2) - 0.5


def divergence(before: Tensor, now: Tensor, params: TamingParams) -> Tensor:
    """How far the batch's bits/dim [B] are, as normal distributions, from those under the parent."""
    parent, candidate = ((some.mean(), some.std().clamp(min=LEAST_STD)) for some in (before, now))
    detached = params.log_term == "detached"
    forward = normal_kl(parent, candidate, detached)
    reverse = normal_kl(candidate, parent, detached)
    return {"symmetric": forward + reverse, "forward": forward, "reverse": reverse}[params.divergence]


def losses_of(
    forgotten: Tensor, threshold: Tensor | float, before: Tensor, now: Tensor, params: TamingParams
) -> Weights:
    """The terms of L, weighted, from the bits/dim of a forget batch and of a remember batch before and now.

    Args:
        forgotten: [F], under the candidate.
        threshold: mu + delta sigma.
        before: [B], of all processes' remember images, under the parent.
        now: [B], of the same under the candidate.
        params: the settings.
    """
    pull = -forgotten if params.forget_loss == "descent" else ((forgotten - threshold) ** 2).sigmoid()
    remember = 1 - params.alpha
    return {"forget": params.alpha * pull.mean(),
            "divergence": remember * params.gamma * divergence(before, now, params),
            "bits": remember * (1 - params.gamma) * now.mean()}


# ------------------------------------------------------------------------------------------ statistics


def projected(before: Tensor, part_before: Tensor, part_now: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of bits/dim now, from the parent's of all images and those now of a part of them.

    The line b_now = intercept + slope b_before is fitted to the part [k]; what it leaves unexplained adds to the
    variance. Exact where the part is the whole [S], and in any case if the two are in a line.
    """
    before, part_before, part_now = (some.double() for some in (before, part_before, part_now))
    centred = part_before - part_before.mean()
    variance = centred.square().sum()
    slope = (centred * part_now).sum() / variance if variance > 0 else torch.zeros(()).to(before)
    left = (part_now - part_now.mean() - slope * centred).square().sum() / (len(part_now) - 1)
    mean = part_now.mean() + slope * (before.mean() - part_before.mean())
    return mean.item(), (slope**2 * before.var() + left).sqrt().item()


class Watch:
    """What is known of mu and sigma and of each forget image; one of a loop's parts.

    Attributes:
        mean: mu, in bits per dimension.
        std: sigma.
        last: [n] bits per dimension of each forget image when last seen; infinite before that.
        wait: the first step at which stopping may be considered.
    """

    def __init__(self, points: Tensor, before: Tensor, forget: int, params: Params) -> None:
        self.points, self.before, self.params = points, before, params
        self.mean, self.std, self.wait, self.cursor = math.nan, math.nan, 0, 0
        self.last = torch.full((forget,), math.inf)

    @property
    def threshold(self) -> float:
        """Bits/dim of the threshold: mu + delta sigma."""
        return self.mean + self.params.delta * self.std

    def refresh(self, flow: Flow) -> None:
        """Takes mu and sigma anew, from the next part of the statistics' images."""
        whole = len(self.points)
        count = min(self.params.refresh_images, whole)
        part = (torch.arange(count) + self.cursor) % whole
        self.cursor = (self.cursor + count) % whole
        now = in_parts(lambda some: bits(flow, some), self.points[part])
        self.mean, self.std = projected(self.before, self.before[part], now)

    def refresh_wholly(self, flow: Flow) -> None:
        """Takes mu and sigma from all of the statistics' images."""
        now = in_parts(lambda some: bits(flow, some), self.points).double()
        self.mean, self.std = now.mean().item(), now.std().item()

    def within(self, found: Tensor) -> bool:
        """Whether all images of these bits/dim [n] are within epsilon of the threshold."""
        allowed = self.params.epsilon * self.params.delta * self.std
        return bool(((found - self.threshold).abs() <= allowed).all())

    def state_dict(self) -> dict[str, Any]:
        """All of it but the images."""
        return {"mean": self.mean, "std": self.std, "last": self.last, "wait": self.wait, "cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state."""
        self.mean, self.std, self.wait, self.cursor = (state[name] for name in ("mean", "std", "wait", "cursor"))
        self.last = state["last"].cpu()


# ------------------------------------------------------------------------------------------ the method


def adapt(parent: Flow, material: Material, params: Params, session: Session) -> Weights:
    """The parent's bits per dimension of the remember images that set the threshold.

    Returns:
        `chosen`: [S] which of the remember images; `before`: [S] their bits/dim.

    Raises:
        BadInput: there are too few remember images, or they are not of the flow's shape, range or depth.
    """
    prepare(session)
    original = deepcopy(parent).to(session.device).requires_grad_(False)
    levels = original.levels(material.samples("retain").images)
    need(len(levels) >= params.refresh_images,
         f"training: {len(levels)} remember images, fewer than a refresh passes ({params.refresh_images})",
         "bring more, or lower refresh_images")
    chosen = torch.randperm(len(levels), generator=stream(session, 1))[: params.statistics]
    points = _statistics_points(original, levels[chosen], session)
    return {"chosen": chosen, "before": in_parts(lambda some: bits(original, some), points).cpu()}


def _statistics_points(flow: Flow, levels: Tensor, session: Session) -> Tensor:
    return flow.points(levels, stream(session, 3)).to(session.device)


class _Reached(Exception):
    """Every forget image is where it should be."""


def unlearn(parent: Flow, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The candidate: every tensor of the parent's state, tamed.

    Raises:
        BadInput: there are no images to forget or to remember, or they are not of the flow's shape, range or depth.
        NonFiniteLoss: a loss is not finite; names the step.
    """
    prepare(session)
    random = stream(session, 2)
    original = deepcopy(parent).to(session.device).eval().requires_grad_(False)
    flow = deepcopy(original).requires_grad_(True)
    optimizer = torch.optim.Adam(flow.parameters(), lr=params.rate)
    forget, retain = (original.levels(material.samples(role).images) for role in ("forget", "retain"))
    points = _statistics_points(original, retain[adaptation["chosen"]], session)
    watch = Watch(points, adaptation["before"].to(session.device), len(forget), params)
    deck = Deck(material.samples("forget"), params.batch, session, 4)
    taken = {"steps": 0}

    def one_step(step: int) -> dict[str, Tensor]:
        if step % params.refresh_every == 0:
            watch.refresh(flow)
        if params.stop == "reached" and step >= watch.wait and watch.within(watch.last):
            watch.refresh_wholly(flow)
            if watch.within(_mean_bits(flow, forget, params.draws, stream(session, 1000 + step), session)):
                raise _Reached
            watch.wait = step + params.refresh_every
        taken["steps"] = step + 1
        hand = deck.rows(step)
        unlikely = flow.points(forget[hand], random)
        likely = flow.points(retain[torch.randint(len(retain), (params.batch,), generator=random)], random)
        found, losses = taming_step(original, flow, optimizer, unlikely, likely, watch.threshold, params)
        watch.last[hand] = found
        return losses

    parts = {"flow": flow, "optimizer": optimizer, "watch": watch}
    try:
        Loop(session, "tame", params.steps, parts, random).run(one_step)
    except _Reached:
        session.note(f"every forget image is within epsilon of its threshold after {taken['steps']} steps")
    else:
        if params.stop == "reached":
            session.note(f"not every forget image is within epsilon of its threshold after all {params.steps} steps")
    return weights(flow, device="cpu")


def taming_step(
    original: Flow, flow: Flow, optimizer: torch.optim.Optimizer, unlikely: Tensor, likely: Tensor,
    threshold: float, params: TamingParams,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One update: bits/dim of the forget images before it [F], on the CPU, and the losses.

    `unlikely` [F, C, H, W] and `likely` [B, C, H, W] are points that all processes have drawn alike. Each process has
    its part of the remember images and all of the forget images, which are few.
    """
    device = next(flow.parameters()).device
    unlikely, likely = unlikely.to(device), ranks.own_part(likely).to(device)
    with torch.no_grad():
        before = bits(original, likely)
    both = bits(flow, torch.cat([unlikely, likely]))
    forgotten, now = both[: len(unlikely)], both[len(unlikely):]
    losses = losses_of(forgotten, threshold, ranks.whole_batch(before), ranks.whole_batch(now), params)
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    ranks.average_gradients(optimizer.param_groups[0]["params"])
    optimizer.step()
    return forgotten.detach().cpu(), losses


def _mean_bits(flow: Flow, levels: Tensor, draws: int, random: torch.Generator, session: Session) -> Tensor:
    """Bits/dim [n] of images, each the mean over some points of its bins; on the CPU."""
    found = [in_parts(lambda some: bits(flow, some), flow.points(levels, random).to(session.device))
             for _ in range(draws)]
    return torch.stack(found).mean(dim=0).cpu()


# ------------------------------------------------------------------------------- a distribution over categories


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
    optimizer = torch.optim.Adam(flow.parameters(), lr=params.rate)
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
                raise _Reached
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
    except _Reached:
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


METHOD = Method(
    name="taming_flow",
    family="flow",
    # What is measured is how likely images are. Until a probe that reads weights says more, more is not claimed.
    claim="output suppression",
    paper="Malnick, Avidan and Fried, Taming Normalizing Flows, WACV 2024, arXiv 2211.16488",
    params=Params,
    presets=PRESETS,
    adapt=adapt,
    unlearn=unlearn,
    does="Pulls the likelihood of the forget images down to a threshold, and holds that of all others where it was.",
    choose="A normalizing flow that should find certain images, or a category, as unlikely as you say.",
    costs="Minutes: up to 800 short steps, with a few forget images and some of the others at hand.",
    needs=("forget", "retain"),
)
