"""Machine Unlearning for Image-to-Image Generative Models (Li, Hsu, Chen, Marculescu; ICLR 2024, arXiv 2402.00351).

A model h = D o E completes an image x of which it is shown a part, T(x). Its encoder learns to find noise in what is to
be forgotten, and what it always found in the rest; the decoder stays, bit for bit:

    L(theta) = L_R + alpha L_F
    L_R      = || E_theta(T(x_r)) - E_0(T(x_r)) ||^2        E_0: the parent's encoder, the teacher
    L_F      = || E_theta(T(x_f)) - E_0(T(n)) ||^2          n: noise

A distance is the mean over a feature map, and their sum where there are several. Teacher and pupil see the same mask.
With `scale: relative`, which is our reading, each feature map's distances are first divided by what is usual there: in
L_R by the variance that the teacher finds among the images to keep, in L_F by what the distance is before the training.
Noise is far from images to one encoder and near to another, and alpha would have to make up for that.

What the paper and its authors' code do in more than one way are parameters here: noise of unit variance, or with the
mean and variance of the forget images and clipped to the range of images (their code for MAGE); noise everywhere (the
paper's figure) or in the hole only (their code for diffusion). L_R is taken of images that the model is to keep or,
retain-free, of others that stand in for them: the request's `proxy`. What is hidden is the request's to say as well.

What chance decides of a pass (a random mask, noise, a noise level of diffusion) can be drawn anew at every step, as in
their code, or `views` times for each image. Then the teacher says the same whenever an image comes up again, and its
passes are made once, in `adapt`.

Our reading: what is averaged; that matched noise has the statistics of all forget images, not of a batch; that in the
hole, noise takes the image's place before diffusion noises it; that the embedding of the noise level, which encoder and
decoder share, stays (their code lets it move, and MAGE's token embedding); one mask ratio for a run (their code draws
MAGE's anew each step, and mixes boxes and brush strokes for diffusion); that no average of weights is kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import BadInput
from expunge.methods.method import Method, Preference, setting
from expunge.methods.training import Deck, Loop, Material, Samples, Session, Weights, need, prepare, stream, weights
from expunge.models import ranks
from expunge.models.image_to_image import Chance, Features, ImageToImage, refuse_other
from expunge.models.masks import composite

Role = Literal["forget", "stay"]
ROLES: tuple[Role, Role] = ("forget", "stay")
FIRST_VIEW = 1_000_000_000  # purposes of random streams from here on belong to views
TEACHER_BATCH = 256  # images that the teacher is shown at once before training
SCALED_BY = 256  # images of each kind, at most, that say what is usual in a feature map


class Params(BaseModel):
    """Settings: weights multiply mean squared distances, counts are of images or steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = setting(0.2, "weight of the forget loss (alpha)", ge=0)
    scale: Literal["plain", "relative"] = setting(
        "plain", "mean squared distances as they are, or each feature map's in parts of what is usual there")
    noise: Literal["unit", "matched"] = setting(
        "unit", "N(0, 1), or the mean and variance of the forget images, clipped to [-1, 1]")
    noise_in: Literal["everywhere", "hole"] = setting(
        "everywhere", "where the teacher sees noise; `hole` is for models whose encoder sees what is hidden: diffusion")
    views: int = setting(
        1, "how often what chance decides is drawn for each image, whose teacher passes are then made once; 0: anew at "
        "every step", ge=0)
    cache_gib: float = setting(1.0, "GiB that the teacher's features may take; 0: they are found at every step", ge=0)
    steps: int = setting(600, "steps", ge=1)
    batch: int = setting(64, "images per step, of each kind", ge=1)
    rate: float = setting(3e-4, "peak learning rate of AdamW", gt=0)
    beta1: float = setting(0.9, "AdamW's decay of the mean gradient", ge=0, lt=1)
    beta2: float = setting(0.95, "AdamW's decay of the mean squared gradient", ge=0, lt=1)
    weight_decay: float = setting(0.0, "AdamW's weight decay; none on biases and norms", ge=0)
    warm_up: float = setting(0.05, "first part of the steps, over which the rate rises from 0", ge=0, lt=1)
    cooling: Literal["cosine", "none"] = setting("cosine", "how the rate falls to 0 after that, or stays")
    longest: float = setting(3.0, "norm that a gradient is shortened to; 0: never", ge=0)


PRESETS: dict[str, dict[str, Any]] = {
    # Found on Fashion-MNIST by `benchmarks/image_to_image.py`, our reading.
    "default": {"scale": "relative", "alpha": 0.15, "rate": 1e-3, "steps": 1_600, "views": 4},
    # The authors' code for MAGE and the weights that its commands name: 5 of 6 epochs of warm-up, a rate of 1e-4 for
    # 256 images. Steps stand for the epochs, which are of another set.
    "paper": {"alpha": 0.2, "noise": "matched", "views": 0, "batch": 128, "rate": 5e-5, "weight_decay": 0.05,
              "warm_up": 5 / 6},
    # Their code for diffusion: Adam, noise in the hole.
    "paper_diffusion": {"alpha": 0.1, "noise_in": "hole", "views": 0, "batch": 96, "rate": 5e-5, "beta2": 0.999,
                        "warm_up": 0.0, "cooling": "none", "longest": 0.0},
    "debug": {"steps": 40, "batch": 32, "rate": 1e-3, "alpha": 0.5},  # seconds
}


# ------------------------------------------------------------------------------------- what encoders are shown


@dataclass(frozen=True)
class Shown:
    """What an encoder is shown: images [B, C, H, W], masks [B, 1, H, W], and what chance decided of the pass."""

    images: Tensor
    mask: Tensor
    chance: Chance

    def features(self, model: ImageToImage, device: torch.device) -> Features:
        """What a model's encoder finds."""
        chance = tuple(some.to(device) for some in self.chance)
        return model.encode(self.images.to(device), self.mask.to(device), chance)

    def own_part(self) -> Shown:
        """This process's rows."""
        images, mask, *chance = (ranks.own_part(some) for some in (self.images, self.mask, *self.chance))
        return Shown(images, mask, tuple(chance))


def together(*parts: Shown) -> Shown:
    """One after the other, for one pass."""
    return Shown(torch.cat([part.images for part in parts]), torch.cat([part.mask for part in parts]),
                 tuple(torch.cat(some) for some in zip(*(part.chance for part in parts), strict=True)))


class Showing:
    """How the images of a set are shown, to the pupil and to the teacher."""

    def __init__(self, model: ImageToImage, images: Tensor, role: Role, params: Params, session: Session) -> None:
        self.model, self.images, self.role, self.params, self.session = model, images, role, params, session
        self.mean, self.std = images.mean(), images.std(unbiased=False)
        self.still = None if model.hidden.mask == "random" else model.masks(1)

    def of(self, rows: Tensor, views: Tensor | None, random: torch.Generator) -> tuple[Shown, Shown]:
        """What the pupil and the teacher see of rows [B], in views of theirs [B]; None: in ones drawn now."""
        if views is None:
            mask, chance, noise = self._drawn(len(rows), random)
        else:
            places = (views * len(self.images) + rows).tolist()
            drawn = [self._drawn(1, stream(self.session, FIRST_VIEW + 2 * place + ROLES.index(self.role)))
                     for place in places]
            mask = torch.cat([each[0] for each in drawn])
            chance = tuple(torch.cat(some) for some in zip(*(each[1] for each in drawn), strict=True))
            noise = torch.cat([each[2] for each in drawn])
        images = self.images[rows]
        pupil = Shown(images, mask, chance)
        if self.role == "stay":
            return pupil, pupil
        if self.params.noise == "matched":
            noise = (noise * self.std + self.mean).clamp(-1, 1)
        if self.params.noise_in == "hole":
            noise = composite(mask, noise, images)
        return pupil, Shown(noise, mask, chance)

    def _drawn(self, count: int, random: torch.Generator) -> tuple[Tensor, Chance, Tensor]:
        mask = self.model.masks(count, random) if self.still is None else self.still.expand(count, -1, -1, -1)
        chance = self.model.chance(count, random)
        shape = self.model.image_shape if self.role == "forget" else (0,)
        return mask, chance, torch.randn(count, *shape, generator=random)


class Lesson:
    """A teacher, what it and the pupil are shown at each step, and what the teacher finds there."""

    def __init__(
        self, parent: ImageToImage, material: Material, params: Params, session: Session, cached: Weights | None = None
    ) -> None:
        self.params, self.session = params, session
        self.teacher = deepcopy(parent).to(session.device).eval().requires_grad_(False)
        if params.noise_in == "hole" and not parent.sees_hole:
            raise BadInput("method.params.noise_in: this model's encoder does not see what is hidden, and noise there "
                           "would change nothing", "use 'everywhere'")
        sets = dict(zip(ROLES, (material.samples("forget"), material.samples("retain")), strict=True))
        refuse_unfit(parent, material, sets)
        self.showing = {role: Showing(self.teacher, sets[role].images, role, params, session) for role in ROLES}
        self.decks = {role: Deck(sets[role], params.batch, session, 1 + place) for place, role in enumerate(ROLES)}
        self.cached = cached or {}

    def dealt(self, role: Role, step: int) -> tuple[Tensor, Tensor | None]:
        """Rows [B] of a step, and in which of their views they are shown; None: views are drawn anew."""
        deck = self.decks[role]
        rows = deck.rows(step)
        if not self.params.views:
            return rows, None
        return rows, torch.arange(step * deck.batch, (step + 1) * deck.batch) // len(deck.samples) % self.params.views

    @torch.no_grad()
    def found(self, shown: Shown) -> Features:
        """What the teacher finds."""
        return shown.features(self.teacher, self.session.device)

    def shown(self, role: Role, rows: Tensor, views: Tensor | None, random: torch.Generator) -> tuple[Shown, Shown]:
        """What the pupil and the teacher see of these; of them, this process's part.

        Where the teacher has seen them before the training, it is not asked again, and the pupil's stands for both.
        """
        showing = self.showing[role]
        if not self.cached:
            pupil, teacher = showing.of(rows, views, random)
            return pupil.own_part(), teacher.own_part()
        places = self._places(role, rows, views)
        mask = (self.cached[f"mask.{role}"][places] if showing.still is None else
                showing.still.expand(len(places), -1, -1, -1))
        chance = tuple(self.cached[name][places] for name in _names(self.cached, f"chance.{role}"))
        pupil = Shown(showing.images[places % len(showing.images)], mask, chance)
        return pupil, pupil

    def recalled(self, role: Role, rows: Tensor, views: Tensor | None) -> Features:
        """What the teacher found before the training."""
        places = self._places(role, rows, views)
        return [self.cached[name][places].to(self.session.device) for name in _names(self.cached, role)]

    def _places(self, role: Role, rows: Tensor, views: Tensor | None) -> Tensor:
        """Where in what is cached this process's part of these is."""
        assert views is not None  # what is drawn anew is never kept
        return ranks.own_part(views * len(self.decks[role].samples) + rows)

    @torch.no_grad()
    def looked_up(self) -> Weights:
        """All that the teacher finds in the views that the training comes to, and how they are shown.

        [views * images, ...] each, view after view:

        `forget.000` and so on: a feature map each, by role. `chance.forget.000`, `mask.forget`: what was drawn.
        """
        kept = Weights()
        for role in ROLES:
            count, still = len(self.decks[role].samples), self.showing[role].still is not None
            parts: dict[str, list[Tensor]] = {}
            for places in torch.arange(self._views(role) * count).split(TEACHER_BATCH):
                pupil, shown = self.showing[role].of(places % count, places // count, stream(self.session, 0))
                seen = {f"{role}.{number:03d}": some.cpu() for number, some in enumerate(self.found(shown))}
                seen |= {f"chance.{role}.{number:03d}": some for number, some in enumerate(pupil.chance)}
                for name, some in (seen if still else seen | {f"mask.{role}": pupil.mask}).items():
                    parts.setdefault(name, []).append(some)
            kept |= {name: torch.cat(some) for name, some in parts.items()}
        return kept

    def gib(self) -> float:
        """What `looked_up` would take, in GiB."""
        one = torch.zeros(1, dtype=torch.long)
        pupil, _ = self.showing["stay"].of(one, one, stream(self.session, 0))
        size = sum(some.numel() * some.element_size() for some in (*self.found(pupil), *pupil.chance, pupil.mask))
        return size * sum(self._views(role) * len(deck.samples) for role, deck in self.decks.items()) / 2**30

    def _views(self, role: Role) -> int:
        """How many views of each image the training comes to."""
        shown = self.params.steps * self.decks[role].batch
        return min(self.params.views, math.ceil(shown / len(self.decks[role].samples)))


def _names(cached: Weights, begin: str) -> list[str]:
    return sorted(name for name in cached if name.startswith(f"{begin}."))


def refuse_unfit(parent: ImageToImage, material: Material, sets: dict[Role, Samples]) -> None:
    """BadInput if images do not suit the model, a class to forget has none, or one is to be forgotten and kept."""
    for role, samples in sets.items():
        refuse_other(f"training (images to {'forget' if role == 'forget' else 'keep'})", parent, samples.images)
    labels = sets["forget"].labels
    present = set(labels.tolist()) if labels is not None else set(material.restricted)
    empty = sorted(set(material.restricted) - present)
    need(not empty, f"training: class {', '.join(map(str, empty))} is to be forgotten, and has no image",
         "add images of it, or leave it out of forget.classes")
    lost, kept = ({hashlib.sha256(image.numpy().tobytes()).digest() for image in samples.images.cpu().contiguous()}
                  for samples in sets.values())
    both = len(lost & kept)
    need(not both, f"training: {both} images are to be forgotten and to be kept", "leave each in one of the two sets")


# ------------------------------------------------------------------------------------------------ the method


def distances(found: Features, wanted: Features) -> Tensor:
    """Mean squared distance of each feature map [maps]."""
    return torch.stack([F.mse_loss(one, other) for one, other in zip(found, wanted, strict=True)])


def distance(found: Features, wanted: Features, usual: Tensor | None = None) -> Tensor:
    """That of all feature maps together; each in parts of what is usual there [maps]."""
    each = distances(found, wanted)
    return (each if usual is None else each / usual).sum()


def adapt(parent: ImageToImage, material: Material, params: Params, session: Session) -> Weights:
    """The teacher's features in every view of every image: what it finds in the rest, and in noise.

    Returns:
        `forget.000`, `stay.000` and so on: a feature map each, [views * images, ...], view after view, and beside them
        the views themselves, as far as they were drawn. Nothing where views are drawn at every step, or where they
        would take more than `cache_gib`, which is noted.

    Raises:
        BadInput: images, mask and model do not suit each other.
    """
    prepare(session)
    lesson = Lesson(parent, material, params, session)
    if not params.views or not params.cache_gib:
        return {}
    size = lesson.gib()
    if size > params.cache_gib:
        session.note(f"the teacher's features would take {size:.3g} GiB: they are found at every step instead")
        return {}
    return lesson.looked_up()


def unlearn(parent: ImageToImage, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The candidate: the parent's state with another encoder.

    Raises:
        BadInput: images, mask and model do not suit each other.
        NonFiniteLoss: a loss is not finite; names the step.
    """
    prepare(session)
    return fit_encoder(parent, Lesson(parent, material, params, session, adaptation), noise_of_the_teacher)


# What L_F pulls to, from what pupil and teacher see of the forget images, and the teacher's features of the others.
Aim = Callable[[Lesson, Shown, Shown, Features, torch.Generator], Features]


def noise_of_the_teacher(
    lesson: Lesson, pupil: Shown, teacher: Shown, kept: Features, random: torch.Generator
) -> Features:
    """E_0(T(n)), the paper's aim."""
    return lesson.found(teacher)


@torch.no_grad()
def usual_distances(lesson: Lesson, aim: Aim) -> dict[Role, Tensor | None]:
    """By role, what is usual in each feature map [maps]: variance among images to keep, distance from the aim.

    Raises:
        BadInput: the images to keep do not differ there, or those to forget are at their aim already.
    """
    if lesson.params.scale == "plain":
        return {"forget": None, "stay": None}
    random, shown = stream(lesson.session, 4), {}
    for role in ROLES:
        rows = torch.randperm(len(lesson.decks[role].samples), generator=random)[:SCALED_BY]
        shown[role] = lesson.showing[role].of(rows, torch.zeros_like(rows) if lesson.params.views else None, random)
    (lost, noise), (kept, _) = (shown[role] for role in ROLES)
    same = lesson.found(kept)
    aims = aim(lesson, lost, noise, same, random)
    usual: dict[Role, Tensor | None] = {
        "forget": distances(lesson.found(lost), aims),
        "stay": torch.stack([some.var(dim=0, unbiased=False).mean() for some in same])}
    for some in usual.values():
        need(some is not None and (some > 0).all(), "method.params.scale: the teacher finds the same in all images, "
             "and there is nothing to measure distances by", "bring images that differ, or use 'plain'")
    return usual


def fit_encoder(parent: ImageToImage, lesson: Lesson, aim: Aim) -> Weights:
    """A pupil's state after its encoder has learned L_R + alpha L_F, with L_F the distance to an aim."""
    params, session = lesson.params, lesson.session
    pupil = deepcopy(parent).to(session.device).eval().requires_grad_(False)
    moving = list(pupil.encoder_parameters().values())
    for parameter in moving:
        parameter.requires_grad_(True)
    optimizer = optimizer_of(moving, params)
    random = stream(session, 3)
    usual = usual_distances(lesson, aim)

    def one_step(step: int) -> dict[str, Tensor]:
        dealt = {role: lesson.dealt(role, step) for role in ROLES}
        (lost, noise), (kept, _) = (lesson.shown(role, *dealt[role], random) for role in ROLES)
        if lesson.cached:
            aims, same = (lesson.recalled(role, *dealt[role]) for role in ROLES)
        else:
            same = lesson.found(kept)
            aims = aim(lesson, lost, noise, same, random)
        # One pass of both; of a split the gradient is put together again in one go, of two slices it is not.
        found = [some.split([len(lost.images), len(kept.images)])
                 for some in together(lost, kept).features(pupil, session.device)]
        losses = {"retain": distance([some for _, some in found], same, usual["stay"]),
                  "forget": params.alpha * distance([some for some, _ in found], aims, usual["forget"])}
        update(optimizer, moving, losses, step, params)
        return losses

    Loop(session, "unlearn", params.steps, {"pupil": pupil, "optimizer": optimizer}, random).run(one_step)
    return weights(pupil, device="cpu")


def optimizer_of(moving: list[nn.Parameter], params: Params) -> torch.optim.AdamW:
    """AdamW, which decays matrices and kernels only."""
    groups = [{"params": [some for some in moving if some.ndim > 1], "weight_decay": params.weight_decay},
              {"params": [some for some in moving if some.ndim <= 1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=params.rate, betas=(params.beta1, params.beta2), fused=True)


def update(
    optimizer: torch.optim.Optimizer, moving: list[nn.Parameter], losses: Weights, step: int, params: Params
) -> None:
    """One update by the sum of the losses, at the rate of that step."""
    for group in optimizer.param_groups:
        group["lr"] = rate_at(step, params)
    optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    ranks.average_gradients(moving)
    if params.longest:
        nn.utils.clip_grad_norm_(moving, params.longest)
    optimizer.step()


def rate_at(step: int, params: Params) -> float:
    """The learning rate of a step: it rises evenly, then falls along half a cosine."""
    rising = params.warm_up * params.steps
    if step + 1 < rising:
        return params.rate * (step + 1) / rising
    if params.cooling == "none":
        return params.rate
    done = max(0.0, step - rising) / (params.steps - rising)
    return params.rate * (1 + math.cos(math.pi * done)) / 2


METHOD = Method(
    name="image_to_image",
    family="image_to_image",
    # The decoder is the parent's, and could still draw what was forgotten. Until a probe of weights says more, no more
    # is claimed.
    claim="output suppression",
    paper="Li, Hsu, Chen and Marculescu, Machine Unlearning for Image-to-Image Generative Models, ICLR 2024, "
          "arXiv 2402.00351",
    params=Params,
    presets=PRESETS,
    adapt=adapt,
    unlearn=unlearn,
    does="Lets the encoder find noise in the forget images and what it always found in the rest; the decoder stays.",
    choose="A model that completes images, and should no longer complete some of them.",
    costs="Minutes: some hundred to a few thousand steps of the encoder alone.",
    needs=("forget", "retain"),
    preference=Preference(1, "it moves the encoder only, and the decoder stays as it is, bit for bit"),
)
