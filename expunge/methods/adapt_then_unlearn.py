"""Adapt-then-Unlearn (Tiwary, Guha, Panda, Prathosh; TMLR 2025, arXiv 2309.14054), and four additions.

Stage 1, `adapt`: theta_N = arg min max  L_adv(negatives) + lambda/2 sum_i F_i (theta_i - theta_G,i)^2
Stage 2, `unlearn`: theta_P = arg min max  L_adv(positives) + gamma L_repulsion(theta, theta_N)

All images are the parent's own: no training data is read. The preset `paper` is these two lines, at sizes that suit
small generators; `paper_code` follows the authors' code, for a StyleGAN2. Fine-tuning on a generator's own samples
costs it quality everywhere; the additions change what a latent draws only where it has to change. Each is a term of
its own, off in both of these presets:

    redaction     D also sees the negatives as fakes (Kong and Chaudhuri 2023)
    guidance      G is charged for what the oracle still calls unwanted
    preservation  G(z) stays at G_0(z) where that was wanted (paired latents, as in Seo et al. 2024)
    redirection   G(z) goes to some wanted G_0(z') where G_0(z) was unwanted (target latents, as in Moon et al.
                  2024); z' is found by optimal transport, so that every retained kind gets its part of the mass

Stage 2 is repeated, on newly drawn latents and from where it stands (with warm restarts of the rates, Loshchilov
and Hutter 2017), while the oracle still finds too much: how well what was learned on some latents carries over to
others depends on the generator. A generator that comes without its discriminator gets a fresh one, which learns
alone before each stage.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import torch
from pydantic import ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.errors import BadInput
from expunge.methods.elastic import ALL, SCOPE, Elastic
from expunge.methods.game import AS_STYLEGAN2, Game, GameParams, warm_up
from expunge.methods.method import Method, Preference, setting
from expunge.methods.training import (
    Kept,
    Loop,
    Material,
    Oracle,
    Samples,
    Session,
    Weights,
    in_parts,
    learned,
    need,
    pick,
    prepare,
    stream,
    weights,
)
from expunge.models import Gan, ranks

ASKED = 4096  # fresh samples by which the oracle says whether another round is needed
EL2_IN_CODE = 100.0  # gamma of EL2 in the authors' MNIST code; 50 in their AFHQ script
MOST_MOVED = 1024  # assigning takes the cube of this: half a second at 1,024, four seconds at 2,000


class AdaptParams(GameParams):
    """Settings of stage 1: rates are Adam's, weights multiply mean losses, counts are of images or steps."""

    models: int = setting(1, "adapted generators (K); the paper's equations have 1, its code up to 5", ge=1)
    adapt_steps: int = setting(50, "steps of stage 1, per adapted generator", ge=1)
    negatives_per_model: int | None = setting(
        None, "negatives that each adapted generator sees, dealt from one shuffled deck; all if not given", ge=1)
    ewc_weight: float = setting(1000.0, "pull to the parent by Fisher information (lambda)", ge=0)
    ewc_scope: str = setting(ALL, SCOPE)
    fisher_samples: int = setting(32, "generated images that estimate F, as in the authors' code", ge=1)


class Params(AdaptParams):
    """Settings of both stages: rates are Adam's, weights multiply mean losses, counts are of images or steps.

    The defaults were found on digits 2, 3, 4 and 8 of the built-in generator; nothing is set per class.
    """

    steps: int = setting(300, "steps of stage 2, per round", ge=1)
    rounds: int = setting(6, "rounds of stage 2 at most, while the oracle finds more than `enough`", ge=1)
    enough: float = setting(0.0003, "share of fresh samples that the oracle may still call unwanted", ge=0, le=1)
    repulsion: Literal["el2", "il2", "nl2"] = setting("el2", "form of L_repulsion")
    distance: Literal["relative", "paper_text", "paper_code"] = setting(
        "relative", "distance from theta_N: relative to the parent's, or as in the paper's text, or in its code")
    repulsion_weight: float = setting(0.1, "weight of L_repulsion (gamma)", ge=0)
    repulsion_scale: float = setting(1.0, "decay of EL2 per distance (alpha); paper_code has gamma there", gt=0)
    repulsion_limit: float = setting(10.0, "relative distance beyond which NL2 stops pushing", gt=1)
    redaction_weight: float = setting(0.5, "weight of negatives as fakes (1 - lambda of redaction)", ge=0)
    adversarial_weight: float = setting(0.3, "weight of G's adversarial loss; 1 in the paper", ge=0)
    guidance_weight: float = setting(1.0, "weight of -log(1 - p_unwanted^power)", ge=0)
    guidance_power: float = setting(1.0, "below 1, what is hardly unwanted any more is still pushed away", gt=0, le=1)
    guides: Literal["all", "moved"] = setting("all", "which of a step's images are guided: all, or those moved")
    guidance_growth: float = setting(3.0, "factor on guidance_weight from round to round", ge=1)
    preservation_weight: float = setting(50.0, "weight of the squared pixel distance to G_0(z)", ge=0)
    redirection_weight: float = setting(5.0, "weight of the squared pixel distance to G_0(z')", ge=0)
    preserved: int | None = setting(
        None, "wanted samples, at most, whose images are to stay: each costs a look; all if not given", ge=1)
    pool: int = setting(8192, "latents that the oracle sorts beside the given samples", ge=0)
    margin: float = setting(0.05, "p_unwanted above which an image is moved, lest a judge differs", gt=0, lt=1)
    margin_shrinks: float = setting(5.0, "divisor of margin from round to round", ge=1)
    moved_share: float = setting(0.5, "part of a batch that is moved, if there are pairs", ge=0, lt=1)
    assign_every: int = setting(50, "steps between assignments of moved latents to wanted images", ge=1)
    focus: float = setting(0.0, "how much oftener a latent is moved whose image is still unwanted; 0: all alike", ge=0)

    @property
    def paired(self) -> bool:
        """Whether a latent has an image that it should become."""
        return bool(self.preservation_weight or self.redirection_weight)

    @field_validator("repulsion_scale")
    @classmethod
    def _only_where_it_does_something(cls, value: float, known: ValidationInfo) -> float:
        if value != 1 and known.data.get("distance") == "paper_code":
            raise ValueError("the authors' code has no alpha: with distance paper_code set repulsion_weight")
        return value


# The two lines above and nothing else, as long and in batches as large as in the authors' MNIST script.
PUBLISHED: dict[str, Any] = {
    "steps": 1000,  # 1,001 there
    "rounds": 1,
    "batch": 16,
    "repulsion_weight": 1.0,
    "adversarial_weight": 1.0,
    "redaction_weight": 0.0,
    "guidance_weight": 0.0,
    "preservation_weight": 0.0,
    "redirection_weight": 0.0,
    "pool": 0,
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The authors' 5 x 2,000 steps of stage 1 are cut to 2 x 200: these negatives are small, and theta_N is only where
    # the repulsion points from.
    "paper": {**PUBLISHED, "models": 2, "adapt_steps": 200, "ema_decay": 0.998},
    # A StyleGAN2 as the authors' code has it. Confirmed there: batch, rates and betas (those of lazy regularisation),
    # R1, path lengths, style mixing, averaging, 5 models of 300 negatives (CelebA-HQ, AFHQ), EWC and where it holds,
    # and of MNIST's scripts both stages' lengths, the form of repulsion and gamma = 1. Not confirmed: the paper's own
    # gamma per task, which its code moves between 0.1 and 100. Our reading, where a checkpoint is not theirs: both
    # stages begin with what it holds, the averaged generator, and with fresh optimizers; in stage 2 one batch of fakes
    # serves both players.
    "paper_code": {
        **PUBLISHED,
        **AS_STYLEGAN2,
        "models": 5,
        "adapt_steps": 2000,
        "negatives_per_model": 300,
        "ewc_weight": 5e8,
        "ewc_scope": "convs.",
        "distance": "paper_code",
    },
    # As little as will do, where a pretraining took hundreds of thousands of samples: many small steps, guided past the
    # oracle's doubt and only where something has to move. Found on MNIST's 1, 4 and 8 (benchmarks/goal.py).
    "brief": {
        "adapt_steps": 10,
        "steps": 220,
        "rounds": 1,
        "batch": 16,
        "generator_rate": 1.4e-3,
        "generator_beta2": 0.95,
        "r1_every": 16,
        "warming": 0.2,
        "ema_decay": 0.98,
        "ema_warm_up": False,
        "repulsion_weight": 0.3,
        "redaction_weight": 0.0,
        "adversarial_weight": 1.0,
        "guides": "moved",
        "guidance_weight": 0.25,
        "guidance_power": 0.3,
        "preservation_weight": 10.0,
        "redirection_weight": 2.0,
        "preserved": 2000,
        "pool": 0,
        "moved_share": 0.25,
        "assign_every": 60,
        "focus": 10.0,
    },
    # Seconds on one core, for tests and first tries: the digit goes, the rest is rough.
    "debug": {
        "warm_up_steps": 10,
        "adapt_steps": 4,
        "steps": 40,
        "rounds": 1,
        "batch": 32,
        "pool": 0,
        "ema_decay": 0.9,
        "assign_every": 20,
    },
}


# ---------------------------------------------------------------- stage 1: learn what must be lost


def adapt(parent: Gan, material: Material, params: Params, session: Session) -> Weights:
    """K generators adapted to the negatives, elastically tied to the parent.

    Returns:
        Tensors `<k>.<generator parameter>`, k from 0.

    Raises:
        BadInput: there are fewer negatives than one adapted generator is to see; no parameter is in EWC's scope.
        NonFiniteLoss: a loss is not finite; names the step.
    """
    prepare(session)
    random = stream(session, 1)
    original = deepcopy(parent).to(session.device).requires_grad_(False)
    images = material.samples("negative").images.to(session.device)
    warm_up(original, images, None, params, session)
    elastic = Elastic(original, params.fisher_samples, random, params.ewc_scope)
    hands = deal(images, params, stream(session, 5))
    game = Game(original, params)
    adapted = Kept()

    def one_step(step: int) -> dict[str, Tensor]:
        k, inner = divmod(step, params.adapt_steps)
        if inner == 0:
            game.start_over()
        latents = game.latents(params.batch, random)
        told = game.teach(inner, pick(hands[k], params.batch, random), game.paint(latents, random).detach())
        losses = {
            "adversarial": game.fooled(game.paint(latents, random)),
            "elastic": params.ewc_weight * elastic(game.gan.generator),
        }
        game.draw(losses)
        losses |= game.even_paths(inner, random)
        if inner == params.adapt_steps - 1:
            adapted.tensors |= {f"{k}.{name}": theta for name, theta in learned(game.gan.generator).items()}
        return {"discriminator": told, **losses}

    parts = game.parts() | {"adapted": adapted}
    Loop(session, "adapt", params.models * params.adapt_steps, parts, random).run(one_step)
    return {name: tensor.cpu() for name, tensor in adapted.tensors.items()}


def deal(images: Tensor, params: AdaptParams, random: torch.Generator) -> list[Tensor]:
    """The negatives of each adapted generator, [n, C, H, W] each: all of them, or so many from a shuffled deck.

    The authors draw and sort new samples for each; here the deck is dealt on from one to the next, and from its
    beginning when it is used up. So nobody sees an image twice, and two see the same one only if there are not
    enough for all.
    """
    count = params.negatives_per_model
    if count is None:
        return [images] * params.models
    need(
        count <= len(images),
        f"method.params.negatives_per_model: {count}, and there are {len(images)} unwanted samples",
        "lower it, or let more be drawn (sampling.curate)",
    )
    deck = images[torch.randperm(len(images), generator=random)]
    return [deck[(torch.arange(count) + k * count) % len(deck)] for k in range(params.models)]


# ---------------------------------------------------------------- stage 2: unlearn


def unlearn(parent: Gan, adaptation: Weights, material: Material, params: Params, session: Session) -> Weights:
    """The candidate: every tensor of the parent's state, unlearned.

    Raises:
        BadInput: a term needs an oracle or latents that were not given.
        NonFiniteLoss: a loss is not finite; names the step.
    """
    negatives, positives, oracle = material.samples("negative"), material.samples("positive"), material.oracle
    prepare(session)
    random = stream(session, 2)
    original = deepcopy(parent).to(session.device).requires_grad_(False)
    need(
        oracle is not None or not (params.guidance_weight or params.pool or params.focus),
        "guidance, a pool and focus need an oracle, and this request has labels only",
        "set guidance_weight, pool and focus to 0",
    )
    need(
        params.paired or (params.guides == "all" and not params.focus),
        "method.params: focus and guides 'moved' are about latents that are moved, and none is",
        "give preservation_weight or redirection_weight, or set focus to 0 and guides to 'all'",
    )
    pairs = Pairs(original, negatives, positives, oracle, params, session) if params.paired else None
    unwanted, wanted = negatives.images.to(session.device), positives.images.to(session.device)
    warm_up(original, wanted, unwanted, params, session, params.redaction_weight)
    repulsion = Repulsion(original, adaptation, params)
    game = Game(original, params)
    average = game.average()

    def one_step(step: int) -> dict[str, Tensor]:
        turn, inner = divmod(step, params.steps)
        game.pace(inner, params.steps)
        losses = {}
        if pairs is None:
            fake = game.paint(game.latents(params.batch, random), random)
        else:
            if inner == 0:
                pairs.draw_anew(turn)
            if inner % params.assign_every == 0:
                pairs.assign(game.gan.generator)
            latents, targets, moved = pairs.draw(params.batch, params.moved_share, random)
            fake = game.gan(latents)
            distance = (fake - targets).square().mean(dim=(1, 2, 3))
            losses["preservation"] = params.preservation_weight * (distance * ~moved).mean()
            losses["redirection"] = params.redirection_weight * (distance * moved).mean()
        if oracle is not None and params.guidance_weight:
            shown = fake[moved] if params.guides == "moved" else fake
            if turn > 0:  # what a first round did not reach: latents that no pair is made of
                shown = torch.cat([fake, game.gan(game.latents(params.batch // 2, random))])
            weight = params.guidance_weight * params.guidance_growth**turn
            losses["guidance"] = weight * guidance(oracle.probability_unwanted(shown), params.guidance_power)
        losses["repulsion"] = repulsion(game.gan.generator)
        told = {}
        if params.adversarial_weight:
            # A quarter as many negatives as fakes: enough to remind D, at a quarter of the time.
            shunned = pick(unwanted, params.batch // 4, random)
            real = pick(wanted, params.batch, random)
            told["discriminator"] = game.teach(step, real, fake.detach(), shunned, params.redaction_weight)
            losses["adversarial"] = params.adversarial_weight * game.fooled(fake)
        game.draw(losses)
        losses |= game.even_paths(step, random)
        average.update(game.gan.generator, step)
        return told | losses

    def enough(rounds: int) -> bool:
        if oracle is None:
            return True  # nobody to ask
        candidate = deepcopy(game.gan.generator)
        average.put_into(candidate)
        latents = original.draw_latents(ASKED, stream(session, 1000 + rounds)).to(session.device)
        left = in_parts(lambda part: oracle.probability_unwanted(candidate(part)), latents) > 0.5
        return left.float().mean().item() <= params.enough

    parts = game.parts() | {"average": average} | ({"pairs": pairs} if pairs else {})
    Loop(session, "unlearn", params.steps, parts, random, params.rounds, enough).run(one_step)
    average.put_into(game.gan.generator)
    return weights(game.gan, device="cpu")


def guidance(chance: Tensor, power: float = 1.0) -> Tensor:
    """Mean of -log(1 - p^power) over probabilities p [B] of being unwanted.

    Its slope by the oracle's logit is p at power 1: what the oracle hardly calls unwanted any more is let be. At a
    lower power it is about power * p^power, so that such images too are pushed on, away from where a judge differs.
    """
    chance = chance.clamp(max=1 - 1e-4)  # keeps the logarithm finite
    if power < 1:
        chance = chance.clamp(min=1e-6) ** power  # and the power's slope
    return -torch.log1p(-chance).mean()


class Repulsion:
    """gamma L_repulsion, largest at theta_N; d is a distance of theta from the K adapted theta_N.

        EL2  gamma exp(-alpha d)        IL2  gamma / d        NL2  -gamma d

    `paper_text`: d = |theta - theta_N|^2, mean over K, as the paper writes it.

    `paper_code`: d = K/2 sum_k mean_t MSE(theta_t, theta_N,k,t), as the authors compute it: a mean over tensors, so
    that a single number weighs as much as a kernel. K/2 looks like a slip of precedence, `value/2*K` where
    `value/(2*K)` was meant: d grows with the square of K. It is kept because the published gammas belong to it.
    There is one number, gamma, to set: EL2 is 100 exp(-gamma d).

    `relative`, ours: d = |theta - theta_N|^2 / |theta_G - theta_N|^2, mean over K. The authors tune gamma over three
    orders of magnitude per task; relative to where the parent starts (d = 1) one gamma serves any generator. EL2 is
    gamma exp(-alpha (d - 1)), gamma at the parent, and NL2, which has no lower bound, stops pushing at a limit.
    """

    def __init__(self, original: Gan, adaptation: Weights, params: Params) -> None:
        start = learned(original.generator)
        device = next(original.parameters()).device
        self.params = params
        self.adapted = [
            {name: adaptation[f"{k}.{name}"].to(device) for name in start} for k in range(params.models)
        ]
        self.start = [squared_distance(start, theta_n) for theta_n in self.adapted]

    def __call__(self, generator: nn.Module) -> Tensor:
        """The loss at the generator's current parameters, with its weight."""
        params, d = self.params, self.distance(dict(generator.named_parameters()))
        if params.repulsion == "il2":
            return params.repulsion_weight * (1 / d)
        if params.repulsion == "nl2":
            return params.repulsion_weight * -(d.clamp(max=params.repulsion_limit) if self.relative else d)
        if params.distance == "paper_code":
            return EL2_IN_CODE * torch.exp(-params.repulsion_weight * d)
        return params.repulsion_weight * torch.exp(-params.repulsion_scale * (d - 1 if self.relative else d))

    @property
    def relative(self) -> bool:
        """Whether the parent is at distance 1."""
        return self.params.distance == "relative"

    def distance(self, theta: Weights) -> Tensor:
        """d, from all K at once."""
        if self.params.distance == "paper_code":
            means = [torch.stack([F.mse_loss(theta[name], n[name]) for name in n]).mean() for n in self.adapted]
            return len(means) / 2 * torch.stack(means).sum()
        distances = [squared_distance(theta, n) for n in self.adapted]
        if self.relative:
            distances = [d / start for d, start in zip(distances, self.start, strict=True)]
        return torch.stack(distances).mean()


def squared_distance(first: Weights, second: Weights) -> Tensor:
    """|first - second|^2 over all tensors."""
    return torch.stack([(first[name] - second[name]).square().sum() for name in second]).sum()


# ---------------------------------------------------------------- what each latent should become


class Pairs:
    """Latents, and the image that the candidate should draw for each.

    A wanted latent keeps its image. An unwanted one is sent to a wanted image: each to a different one, at the
    least total squared pixel distance from what the candidate draws now (optimal transport between samples of
    equal size). What is redirected is thus distributed as the wanted images are, and moves as little as that
    allows; assigning anew while it moves lets neighbours settle on neighbours instead of on their average.
    """

    def __init__(
        self,
        original: Gan,
        negatives: Samples,
        positives: Samples,
        oracle: Oracle | None,
        params: Params,
        session: Session,
    ) -> None:
        if negatives.latents is None or positives.latents is None:
            raise BadInput(
                "preservation and redirection need the samples' latents",
                "set preservation_weight and redirection_weight to 0",
            )
        self.original, self.oracle, self.params, self.session = original, oracle, params, session
        self.given = torch.cat([negatives.latents, positives.latents[: params.preserved]])
        self.negatives = len(negatives)

    def draw_anew(self, turn: int) -> None:
        """The given samples and a pool of fresh latents, sorted by what the parent draws for them."""
        random = stream(self.session, 3 + 10 * turn)
        device = next(self.original.parameters()).device
        fresh = self.original.draw_latents(self.params.pool, random)
        latents = torch.cat([self.given, fresh]).to(device)
        images = in_parts(self.original, latents)
        unwanted = torch.arange(len(latents), device=device) < self.negatives
        if self.oracle is not None:
            margin = self.params.margin / self.params.margin_shrinks**turn
            unwanted |= in_parts(self.oracle.probability_unwanted, images) > margin
        need(
            bool((~unwanted).any()),
            "no image of the parent is clearly wanted",
            "check the oracle and the request's classes",
        )
        self.turn = turn
        self.wanted_latents, self.wanted_images = latents[~unwanted], images[~unwanted]
        candidates = self.wanted_images[torch.randperm(len(self.wanted_images), generator=random)]
        moved = min(int(unwanted.sum()), len(candidates), MOST_MOVED)
        places = torch.nonzero(unwanted).flatten()
        if turn > 0:  # the first ones are the given ones, which an earlier round has had
            places = places[torch.randperm(len(places), generator=random)]
        self.unwanted_latents, self.candidates = latents[places[:moved]], candidates[:moved]
        self.assigned, self.odds = torch.arange(moved), torch.ones(moved)

    def assign(self, generator: nn.Module) -> None:
        """Sends each unwanted latent to the wanted image that suits what the generator draws for it."""
        from scipy.optimize import linear_sum_assignment  # slow to import, and only needed here

        drawn = in_parts(generator, self.unwanted_latents)
        cost = torch.cdist(drawn.flatten(1), self.candidates.flatten(1)).square()
        self.assigned = torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1])
        if self.params.focus:
            assert self.oracle is not None  # `unlearn` has seen to that
            self.odds = 1 + self.params.focus * in_parts(self.oracle.probability_unwanted, drawn).cpu()

    def draw(self, count: int, share: float, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, target images, and which of them were moved (a `share` of all): this process's part of `count`."""
        moved = round(count * share) if len(self.assigned) else 0
        stay = torch.randint(len(self.wanted_latents), (count - moved,), generator=random)
        if moved and self.params.focus:
            go = torch.multinomial(self.odds, moved, replacement=True, generator=random)
        else:
            go = torch.randint(max(1, len(self.assigned)), (moved,), generator=random)
        latents = torch.cat([self.wanted_latents[stay], self.unwanted_latents[go]])
        targets = torch.cat([self.wanted_images[stay], self.candidates[self.assigned[go]]])
        is_moved = torch.arange(count, device=latents.device) >= count - moved
        return ranks.own_part(latents), ranks.own_part(targets), ranks.own_part(is_moved)

    def state_dict(self) -> dict[str, Tensor]:
        """The round, the assignment and what it was drawn by; all else follows from the seed."""
        return {"turn": torch.tensor(self.turn), "assigned": self.assigned, "odds": self.odds}

    def load_state_dict(self, state: Weights) -> None:
        """Continues from a saved round and assignment."""
        self.draw_anew(int(state["turn"]))
        self.assigned, self.odds = state["assigned"].cpu(), state["odds"].cpu()


METHOD = Method(
    name="adapt_then_unlearn",
    family="gan",
    # What is measured is what the model draws. Until a probe that reads weights says more, more is not claimed.
    claim="output suppression",
    paper="Tiwary et al., Adapt then Unlearn, TMLR 2025, arXiv 2309.14054",
    params=Params,
    presets=PRESETS,
    adapt=adapt,
    unlearn=unlearn,
    does="Learns what the unwanted looks like in weights, then fine-tunes on the wanted, away from those weights.",
    choose="A generator without its training data: all images are its own. The default for generators.",
    costs="Minutes; as many copies of the generator as adapted models.",
    needs=("negative", "positive"),
    preference=Preference(50, "it works on the generator's own samples alone"),
)
