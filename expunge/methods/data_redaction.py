"""Data redaction (Kong and Chaudhuri, Data Redaction from Pre-trained GANs; SaTML 2023, arXiv 2206.14389).

The parent's generator and discriminator go on with their game, whose real and fake sides are edited:

    min_G max_D  E_real log D(x) + lambda E_z log(1 - D(G(z))) + (1 - lambda) E_redacted log(1 - D(x))

Real are images that are wanted; fake are, beside the generator's own, images of what it must not draw. The three
variants differ in how these are described:

    data        by images: those given, or the parent's own unwanted samples
    validity    by an oracle that says yes or no, of which nothing else is known: what the generator draws and the
                oracle calls invalid fills a pool, which begins with the parent's and goes on as G moves
    classifier  by an oracle with a gradient, which guides the discriminator:
                D'(x) = D(x) if f(x) < tau, else alpha_- + (1 - f(x)) (D(x) - alpha_-)

Confirmed by the paper's abstract: the aim (a trained model is edited until it no longer draws certain samples), that
there are three algorithms that differ in how those samples are described, and that mere deletion from the training
data may not be enough. All else here is **our reading**:

    the objective, built on negative data augmentation (Sinha et al., ICLR 2021); smoothed labels alpha_+ and alpha_-
    in place of 1 and 0; G's step in its non-saturating form; the guide's formula, that it stands in both players'
    steps but never on real images, and that G feels the oracle's gradient; that it takes the place of redacted
    images, so that lambda has no part in it; that the pool is the current generator's, first in, first out; that the
    oracle, where there is one, also sorts the real side; all settings.

lambda = 1 is the same game without redaction: training continued on what is wanted (deletion), the baseline.
Where the request names no training images, the parent's own wanted samples stand in for real ones. Nothing in training
then knows better than the parent: what it draws wrongly is taught as right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Literal

import torch
from pydantic import ConfigDict, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.methods.game import AS_STYLEGAN2, Game, GameParams, warm_up_by
from expunge.methods.method import Method, setting
from expunge.methods.training import (
    Loop,
    Material,
    Oracle,
    Session,
    Weights,
    in_parts,
    need,
    pick,
    prepare,
    stream,
    weights,
)
from expunge.models import Gan
from expunge.models.adversarial import generator_loss

LEAST = 1e-6  # a guided probability below this counts as this: its logarithm stays finite
STAND_INS = (
    "data_redaction: the request names no training images, so the parent's own wanted samples stand in for real ones, "
    "and nothing in training knows better than the parent"
)
TRIED = 4096  # samples at most by which an oracle shows that it tells anything apart


class Params(GameParams):
    """Settings: rates are Adam's, counts are of images or steps.

    The defaults were found on digit 3 of the built-in generator; nothing is set per class.
    """

    model_config = ConfigDict(validate_default=True)  # a limit may depend on another setting

    variant: Literal["data", "validity", "classifier"] = setting("data", "how what is to be redacted is described")
    steps: int = setting(300, "updates of each player", ge=1)
    generator_rate: float = setting(2e-4, "peak learning rate of G; a fifth of pre-training's", gt=0)
    discriminator_rate: float = setting(2e-4, "peak learning rate of D; a fifth of pre-training's", gt=0)
    fake_weight: float = setting(0.8, "weight of G's own images among the fakes (lambda)", gt=0, le=1)
    alpha_plus: float = setting(0.95, "D's target for real images (alpha_+)", gt=0, le=1)
    alpha_minus: float = setting(0.05, "D's target for fakes (alpha_-); below alpha_plus", ge=0, lt=1)
    tau: float = setting(0.5, "p_unwanted from which the oracle calls an image unwanted (tau)", gt=0, lt=1)
    pool: int = setting(2000, "validity: invalid images kept, the oldest leave first", ge=1)
    refresh_every: int = setting(25, "validity: steps between looks at what G draws", ge=1)
    refresh_samples: int = setting(512, "validity: images that G draws for a look", ge=1)
    guidance: Literal["guide", "soft"] = setting(
        "guide", "classifier: D' above, or mere weights (soft): fakes count 1 + c f in D's loss, G is charged c f"
    )
    soft_weight: float = setting(1.0, "classifier, soft: the weight c", ge=0)

    @field_validator("alpha_minus")
    @classmethod
    def _below_alpha_plus(cls, alpha_minus: float, info: ValidationInfo) -> float:
        if alpha_minus >= info.data.get("alpha_plus", 1.0):
            raise ValueError("must be below alpha_plus")
        return alpha_minus


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # Our reading of a DCGAN's usual training, which knows no gradient penalty and no cooling; a tenth as long as the
    # built-in generator was pre-trained.
    "paper": {"steps": 700, "generator_beta2": 0.999, "discriminator_beta2": 0.999, "r1_weight": 0.0, "cooling": 0.0},
    # Our reading for a StyleGAN2, of which nothing is known from the paper: as it was pre-trained.
    "stylegan2": {**AS_STYLEGAN2, "steps": 1000},
    # Seconds on one core, for tests and first tries: most of what is unwanted goes, the rest is rough.
    "debug": {
        "warm_up_steps": 20,
        "steps": 60,
        "generator_rate": 1e-3,
        "discriminator_rate": 1e-3,
        "batch": 32,
        "ema_decay": 0.9,
        "refresh_every": 10,
    },
}


# ---------------------------------------------------------------- what is to be redacted


def adapt(parent: Gan, material: Material, params: Params, session: Session) -> Weights:
    """The images that D is to see as fakes from the start.

    Returns:
        `redacted` [N, C, H, W], or nothing where the oracle's gradient says all.

    Raises:
        BadInput: there is no image of what is to be forgotten.
    """
    prepare(session)
    if params.variant == "classifier":
        return {}
    shown = params.variant == "data" and material.forget is not None
    images = material.samples("forget" if shown else "negative").images
    return {"redacted": images if params.variant == "data" else images[-params.pool :]}


class Pool:
    """The latest images that an oracle called invalid; the oldest leave when it is full."""

    def __init__(self, images: Tensor, most: int) -> None:
        self.images = images[-most:]
        self.most = most

    def add(self, images: Tensor) -> None:
        """Takes in images [N, C, H, W], the last ones last."""
        self.images = torch.cat([self.images, images])[-self.most :]

    def state_dict(self) -> dict[str, Tensor]:
        """The images, oldest first."""
        return {"images": self.images}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from saved images."""
        self.images = state["images"]


# ---------------------------------------------------------------- the edited game


def unlearn(parent: Gan, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The candidate: every tensor of the parent's state, redacted.

    Raises:
        BadInput: there is no real side, or the oracle that the variant asks is missing or tells nothing apart.
        NonFiniteLoss: a loss is not finite; names the step.
    """
    prepare(session)
    random = stream(session, 2)
    original = deepcopy(parent).to(session.device).requires_grad_(False)
    oracle = None if params.variant == "data" else able_oracle(material, params, session)
    real = real_side(material, oracle, params, session)
    edit: Redacted | Guided
    if oracle is not None and params.variant == "classifier":
        edit = Guided(oracle, params)
    else:
        edit = Redacted(adaptation["redacted"].to(session.device), oracle, params)

    def lesson(game: Game, step: int, fake: Tensor, random: torch.Generator) -> Tensor:
        return edit.teach(game, step, pick(real, params.batch, random), fake, random)

    warm_up_by(original, lesson, params, session)
    game = Game(original, params)
    average = game.average()

    def one_step(step: int) -> dict[str, Tensor]:
        game.pace(step, params.steps)
        edit.look_again(game.gan, step, random)
        fake = game.paint(game.latents(params.batch, random), random)
        told = lesson(game, step, fake.detach(), random)
        losses = edit.charge(game, fake)
        game.draw(losses)
        losses |= game.even_paths(step, random)
        average.update(game.gan.generator, step)
        return {"discriminator": told, **losses}

    Loop(session, "unlearn", params.steps, game.parts() | {"average": average} | edit.parts(), random).run(one_step)
    average.put_into(game.gan.generator)
    return weights(game.gan, device="cpu")


def towards(logits: Tensor, target: float, weight: Tensor | float = 1.0) -> Tensor:
    """-target log D - (1 - target) log(1 - D) from logits [B], mean over the batch, each by its weight."""
    each = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target), reduction="none")
    return (weight * each).mean()


def objective(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, redacted: Tensor | None, params: Params
) -> Tensor:
    """What D minimises: minus the value of the game, its labels smoothed; `redacted` is None where lambda is 1."""
    loss = towards(discriminator(real), params.alpha_plus)
    loss = loss + params.fake_weight * towards(discriminator(fake), params.alpha_minus)
    if redacted is None:
        return loss
    return loss + (1 - params.fake_weight) * towards(discriminator(redacted), params.alpha_minus)


class Redacted:
    """The game with images of what is to be redacted among the fakes (variants data and validity)."""

    def __init__(self, images: Tensor, oracle: Oracle | None, params: Params) -> None:
        self.oracle, self.params = oracle, params
        self.pool = Pool(images, len(images) if oracle is None else params.pool)

    def teach(self, game: Game, step: int, real: Tensor, fake: Tensor, random: torch.Generator) -> Tensor:
        """One update of D."""
        redacted = None
        if self.params.fake_weight < 1:
            # A quarter as many as fakes: enough to remind D, at a quarter of the time.
            redacted = pick(self.pool.images, self.params.batch // 4, random)
        return game.teach_by(step, real, lambda d: objective(d, real, fake, redacted, self.params))

    def charge(self, game: Game, fake: Tensor) -> Weights:
        """G's losses."""
        return {"adversarial": game.fooled(fake)}

    def look_again(self, gan: Gan, step: int, random: torch.Generator) -> None:
        """Asks the oracle, where there is one, what of the current generator's images is invalid.

        Raises:
            BadInput: all that the parent draws is.
        """
        if self.oracle is None or self.params.fake_weight == 1 or step % self.params.refresh_every:
            return
        images = in_parts(gan, gan.draw_latents(self.params.refresh_samples, random).to(self.pool.images.device))
        invalid = called_unwanted(self.oracle, images, self.params.tau)
        need(
            step > 0 or not invalid.all(),
            f"oracle: it calls all {len(images)} images drawn by the parent unwanted (p >= tau = {self.params.tau})",
            "check the oracle and forget.classes, or raise tau",
        )
        self.pool.add(images[invalid])

    def parts(self) -> dict[str, Pool]:
        """What must be saved to continue: the pool, where it changes."""
        return {} if self.oracle is None else {"pool": self.pool}


class Guided:
    """The game with a discriminator that an oracle guides on what G draws (variant classifier)."""

    def __init__(self, oracle: Oracle, params: Params) -> None:
        self.oracle, self.params = oracle, params

    def teach(self, game: Game, step: int, real: Tensor, fake: Tensor, random: torch.Generator) -> Tensor:
        """One update of D."""
        with torch.no_grad():
            chance = self.oracle.probability_unwanted(fake)

        def loss(discriminator: nn.Module) -> Tensor:
            told = towards(discriminator(real), self.params.alpha_plus)
            logits = discriminator(fake)
            if self.params.guidance == "guide":
                return told + towards(guided(logits, chance, self.params), self.params.alpha_minus)
            return told + towards(logits, self.params.alpha_minus, 1 + self.params.soft_weight * chance)

        return game.teach_by(step, real, loss)

    def charge(self, game: Game, fake: Tensor) -> Weights:
        """G's losses, through the oracle."""
        chance = self.oracle.probability_unwanted(fake)
        if self.params.guidance == "soft":
            return {"adversarial": game.fooled(fake), "guidance": self.params.soft_weight * chance.mean()}
        logits = game.gan.discriminator.requires_grad_(False)(fake)
        return {"adversarial": generator_loss(guided(logits, chance, self.params))}

    def look_again(self, gan: Gan, step: int, random: torch.Generator) -> None:
        """Nothing: the oracle is asked in every step."""

    def parts(self) -> dict[str, Any]:
        """Nothing to save: the oracle does not learn."""
        return {}


def guide(realness: Tensor, chance: Tensor, tau: float, alpha_minus: float) -> Tensor:
    """D'(x) [B] from D(x) and f(x) [B], all probabilities: the more unwanted, the nearer to the fakes' target."""
    return torch.where(chance < tau, realness, alpha_minus + (1 - chance) * (realness - alpha_minus))


def guided(logits: Tensor, chance: Tensor, params: Params) -> Tensor:
    """D' as logits [B]; D's own, to the bit, where the oracle sees nothing."""
    pulled = guide(logits.sigmoid(), chance, params.tau, params.alpha_minus).logit(LEAST)
    return torch.where(chance < params.tau, logits, pulled)


# ---------------------------------------------------------------- the real side, and the oracle


def real_side(material: Material, oracle: Oracle | None, params: Params, session: Session) -> Tensor:
    """The images that D is to take for real [N, C, H, W]: what an oracle calls unwanted is not among them.

    Raises:
        BadInput: there is none.
    """
    if material.retain is None:
        session.note(STAND_INS)
    images = material.samples("positive" if material.retain is None else "retain").images.to(session.device)
    if oracle is None:
        return images
    unwanted = called_unwanted(oracle, images, params.tau)
    need(
        not unwanted.all(),
        f"oracle: it calls all {len(images)} images of what is to stay unwanted (p >= tau = {params.tau})",
        "check the oracle and forget.classes, or raise tau",
    )
    return images[~unwanted]


def able_oracle(material: Material, params: Params, session: Session) -> Oracle:
    """The oracle; BadInput if there is none, or it calls nothing unwanted that is."""
    oracle = material.judged_by()
    images = material.samples("negative").images[:TRIED].to(session.device)
    need(
        called_unwanted(oracle, images, params.tau).any() if len(images) else False,
        f"oracle: it calls none of {len(images)} unwanted samples unwanted (p >= tau = {params.tau})",
        "check the oracle and forget.classes, or lower tau",
    )
    return oracle


def called_unwanted(oracle: Oracle, images: Tensor, tau: float) -> Tensor:
    """Which of the images [N, C, H, W] the oracle calls unwanted, [N]; no gradients."""
    return in_parts(oracle.probability_unwanted, images) >= tau


METHOD = Method(
    name="data_redaction",
    family="gan",
    # What is measured is what the model draws. Until a probe that reads weights says more, more is not claimed.
    claim="output suppression",
    paper="Kong and Chaudhuri, Data Redaction from Pre-trained GANs, SaTML 2023, arXiv 2206.14389",
    params=Params,
    presets=PRESETS,
    adapt=adapt,
    unlearn=unlearn,
    does="Goes on with the adversarial training, with what must not be drawn among the fakes.",
    choose="A generator whose training images are at hand, if a quick and plain method will do: the rest moves too.",
    costs="A minute or less; nothing holds the rest where it was, so look at its quality and its class shares.",
)
