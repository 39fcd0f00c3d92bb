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

The paper's other use, giving what a flow draws other shares of categories, is in `debias_flow.py`.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from expunge.methods.method import Method, Preference, setting
from expunge.methods.training import Deck, Loop, Material, Session, Weights, in_parts, need, prepare, stream, weights
from expunge.models import ranks
from expunge.models.adam import Adam
from expunge.models.flow import Flow

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


class Params(TamingParams):
    """Settings of forgetting images: counts are of images or steps."""

    steps: int = setting(800, "steps at most", ge=1)
    averaging: float = setting(
        0.0, "what each step keeps of a running mean of the weights, which is then the candidate; 0: it is the last "
        "step's weights", ge=0, lt=1)
    epsilon: float = setting(0.15, "allowed distance to the threshold, as a part of delta (epsilon)", gt=0)
    stop: Literal["reached", "never"] = setting(
        "reached", "end when every forget image is within epsilon; 'never' takes all steps")
    hold: float | None = setting(
        None, "with 'reached', how far the remember images' mean bits/dim may then be from the parent's, as a part of "
        "it; none: anywhere", gt=0)
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
    # Ours: the mean of the weights over some thirty steps has less of what batches add by chance, and it goes on until
    # the rest is back where it was.
    "held": {"rate": 5e-4, "batch": 16, "delta": 2.0, "averaging": 0.97, "hold": 0.005, "steps": 400},
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

    def take_in(self, hand: Tensor, found: Tensor) -> None:
        """Bits/dim of some forget images when they were last seen; averaged as the weights are."""
        last = self.last[hand]
        self.last[hand] = torch.where(last.isinf(), found, last.lerp(found, 1 - self.params.averaging))

    @property
    def held(self) -> bool:
        """Whether mu is near enough to what it was for the parent."""
        was = self.before.mean().item()
        return self.params.hold is None or abs(self.mean - was) <= self.params.hold * abs(was)

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


class Reached(Exception):
    """What was to be reached is: a loop ends before its last step."""


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
    candidate = deepcopy(original) if params.averaging else flow
    optimizer = Adam(flow.parameters(), lr=params.rate)
    forget, retain = (original.levels(material.samples(role).images) for role in ("forget", "retain"))
    points = _statistics_points(original, retain[adaptation["chosen"]], session)
    watch = Watch(points, adaptation["before"].to(session.device), len(forget), params)
    deck = Deck(material.samples("forget"), params.batch, session, 4)
    taken = {"steps": 0}

    def one_step(step: int) -> dict[str, Tensor]:
        if step % params.refresh_every == 0:
            watch.refresh(flow)
        if params.stop == "reached" and step >= watch.wait and ranks.agreed(watch.within(watch.last)):
            watch.refresh_wholly(candidate)
            now = _mean_bits(candidate, forget, params.draws, stream(session, 1000 + step), session)
            if ranks.agreed(watch.held and watch.within(now)):
                raise Reached
            watch.wait = step + params.refresh_every
        taken["steps"] = step + 1
        hand = deck.rows(step)
        unlikely = flow.points(forget[hand], random)
        likely = flow.points(retain[torch.randint(len(retain), (params.batch,), generator=random)], random)
        found, losses = taming_step(original, flow, optimizer, unlikely, likely, watch.threshold, params)
        watch.take_in(hand, found)
        if params.averaging:
            _follow(candidate, flow, params.averaging)
        return losses

    parts = {"flow": flow, "candidate": candidate, "optimizer": optimizer, "watch": watch}
    try:
        Loop(session, "tame", params.steps, parts, random).run(one_step)
    except Reached:
        session.note(f"every forget image is within epsilon of its threshold after {taken['steps']} steps")
    else:
        if params.stop == "reached":
            session.note(f"not every forget image is within epsilon of its threshold after all {params.steps} steps")
    return weights(candidate, device="cpu")


@torch.no_grad()
def _follow(mean: Flow, flow: Flow, kept: float) -> None:
    """Moves a running mean of the weights towards those of the moment."""
    for slow, fast in zip(mean.parameters(), flow.parameters(), strict=True):
        slow.lerp_(fast, 1 - kept)


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
    preference=Preference(
        order=1, because="it makes named images as unlikely as you say, and holds the likelihoods of all others"),
)
