"""The adversarial game that GAN methods continue: two players, their optimizers, and what both need beforehand."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.methods.method import setting
from expunge.methods.training import Loop, Session, Weights, need, pick, stream
from expunge.models import Gan, ranks
from expunge.models.adam import Adam
from expunge.models.adversarial import Average, PathLength, discriminator_loss, generator_loss, r1_penalty
from expunge.models.stylegan2 import Stylegan2Generator


class TrainingParams(BaseModel):
    """Settings of two players' training: rates are Adam's, counts are of images or steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = setting(64, "images per step", ge=4)
    generator_rate: float = setting(1e-3, "peak learning rate of G; as in pre-training", gt=0)
    discriminator_rate: float = setting(1e-3, "peak learning rate of D; as in pre-training", gt=0)
    r1_weight: float = setting(0.2, "gradient penalty on D (gamma of Mescheder et al. 2018)", ge=0)
    r1_every: int = setting(8, "steps between gradient penalties (lazy regularisation)", ge=1)
    r1_apart: bool = setting(False, "take a step of its own by the gradient penalty, as StyleGAN2's public code does")
    generator_beta2: float = setting(0.99, "Adam's beta2 for G; its beta1 is 0", ge=0, lt=1)
    discriminator_beta2: float = setting(0.99, "Adam's beta2 for D; its beta1 is 0", ge=0, lt=1)
    ema_decay: float = setting(0.99, "averaging of G over steps; 0 keeps the last weights", ge=0, lt=1)
    ema_warm_up: bool = setting(True, "average over fewer steps at first, so that the parent fades sooner")
    warming: float = setting(0.0, "first part of the steps, over which both rates rise; 0: they start high", ge=0, le=1)
    cooling: float = setting(0.5, "last part of the steps, over which both rates fall to 0; 0: they stay", ge=0, le=1)
    fresh_noise: bool = setting(
        False, "StyleGAN2 only: noise drawn anew per image, and pixels not cut to their range in training")
    style_mixing: float = setting(0.0, "StyleGAN2 only: chance that two latents lead a batch's images", ge=0, le=1)
    path_length_weight: float = setting(0.0, "StyleGAN2 only: weight of path-length regularisation", ge=0)
    path_length_every: int = setting(4, "steps between path-length penalties (lazy regularisation)", ge=1)


LAZY_G, LAZY_D = 4 / 5, 16 / 17  # what Karras et al. 2020, appendix B, do to Adam for penalties every 4 and 16 steps

# A StyleGAN2 (Karras et al. 2020) is trained so by the public PyTorch implementation, at a rate of 0.002.
AS_STYLEGAN2: dict[str, Any] = {
    "batch": 16,
    "generator_rate": 0.002 * LAZY_G,
    "generator_beta2": 0.99**LAZY_G,
    "discriminator_rate": 0.002 * LAZY_D,
    "discriminator_beta2": 0.99**LAZY_D,
    "r1_weight": 10.0,
    "r1_every": 16,
    "r1_apart": True,
    "path_length_weight": 2.0,
    "path_length_every": 4,
    "style_mixing": 0.9,
    "fresh_noise": True,
    "ema_decay": 0.5 ** (32 / 10_000),
    "ema_warm_up": False,
    "cooling": 0.0,
}


class GameParams(TrainingParams):
    """Settings of a game that goes on from a trained parent."""

    warm_up_steps: int = setting(200, "steps in which a fresh discriminator learns alone, before each stage", ge=1)


class Game:
    """The candidate's two players and their optimizers."""

    def __init__(self, original: Gan, params: TrainingParams) -> None:
        self.params = params
        self.original = original
        self.gan = deepcopy(original).requires_grad_(True)
        ranks.share_batch_norm(self.gan)
        self.painter = self._adam(self.gan.generator, params.generator_rate, params.generator_beta2)
        self.teller = self._adam(self.gan.discriminator, params.discriminator_rate, params.discriminator_beta2)
        self.paths = PathLength()
        need(
            self.styled or not (params.fresh_noise or params.style_mixing or params.path_length_weight),
            "method.params: fresh_noise, style_mixing and path_length_weight are for a StyleGAN2, and this is none",
            "set them to false, 0 and 0, or choose another preset",
        )

    @staticmethod
    def _adam(player: nn.Module, rate: float, beta2: float) -> Adam:
        # beta1 = 0: momentum lets the two players overshoot each other (Karras et al. 2018, appendix A.1).
        return Adam(player.parameters(), lr=rate, betas=(0.0, beta2))

    @property
    def styled(self) -> bool:
        """Whether G is led by styles."""
        return isinstance(self.gan.generator, Stylegan2Generator)

    def latents(self, count: int, random: torch.Generator) -> Tensor:
        """This process's part of `count` latents."""
        drawn = ranks.own_part(self.original.draw_latents(count, random))
        return drawn.to(next(self.gan.parameters()).device)

    def paint(self, latents: Tensor, random: torch.Generator) -> Tensor:
        """G's images for latents [B, latent_dim], as training shows them: with noise and second latents if asked."""
        generator = self.gan.generator
        if not isinstance(generator, Stylegan2Generator):
            return self.gan(latents)
        w = self._styles(generator, latents, random)
        return generator(w, in_w=True, noise=self._noise(random), bounded=not self.params.fresh_noise)

    def even_paths(self, step: int, random: torch.Generator) -> Weights:
        """One more update of G, by the path lengths of half a batch, where it is due; the loss, or none."""
        generator, params = self.gan.generator, self.params
        if not params.path_length_weight or step % params.path_length_every:
            return {}
        assert isinstance(generator, Stylegan2Generator)
        w = self._styles(generator, self.latents(params.batch // 2, random), random)
        penalty = self.paths(lambda styles: generator.synthesise(styles, self._noise(random)), w, random)
        loss = {"path length": params.path_length_weight * params.path_length_every * penalty}
        self.draw(loss)
        return loss

    def _styles(self, generator: Stylegan2Generator, latents: Tensor, random: torch.Generator) -> Tensor:
        """Latents in W, [B, layers, latent_dim], by chance those of two latents each."""
        w = generator.per_layer(generator.style(latents))
        mixing = self.params.style_mixing
        if not mixing or torch.rand((), generator=random).item() >= mixing:
            return w
        second = self.latents(len(latents) * ranks.count(), random)
        crossover = int(torch.randint(1, generator.layers, (), generator=random))
        return torch.cat([w[:, :crossover], generator.per_layer(generator.style(second))[:, crossover:]], dim=1)

    def _noise(self, random: torch.Generator) -> torch.Generator | None:
        return random if self.params.fresh_noise else None

    def average(self) -> Average:
        """An average of G that begins here."""
        return Average(self.gan.generator, self.params.ema_decay, self.params.ema_warm_up)

    def start_over(self) -> None:
        """Back to the original's weights, with fresh optimizers' state."""
        self.gan.load_state_dict(self.original.state_dict())
        self.painter.state.clear()
        self.teller.state.clear()
        self.paths.load_state_dict(PathLength().state_dict())

    def pace(self, step: int, steps: int) -> None:
        """Sets both rates for one of `steps`: they rise over the first part (`warming`) and fall over the last one."""
        warming, cooling = self.params.warming, self.params.cooling
        risen = min(1.0, (step + 1) / steps / warming) if warming else 1.0
        left = min(1.0, (1 - step / steps) / cooling) if cooling else 1.0
        self.painter.param_groups[0]["lr"] = self.params.generator_rate * min(risen, left)
        self.teller.param_groups[0]["lr"] = self.params.discriminator_rate * min(risen, left)

    def teach(
        self, step: int, real: Tensor, fake: Tensor, shunned: Tensor | None = None, weight: float = 0.0
    ) -> Tensor:
        """One update of D: `real` against `fake`, and against `shunned` by the weight."""

        def loss(discriminator: nn.Module) -> Tensor:
            told = discriminator_loss(discriminator(real), discriminator(fake))
            if shunned is not None and weight:
                told = told + weight * F.softplus(discriminator(shunned)).mean()
            return told

        return self.teach_by(step, real, loss)

    def teach_by(self, step: int, real: Tensor, loss_of: Callable[[nn.Module], Tensor]) -> Tensor:
        """One update of D by a method's own loss, and by the gradient penalty at `real` where it is due."""
        discriminator = self.gan.discriminator.requires_grad_(True)
        loss = loss_of(discriminator)
        due = step % self.params.r1_every == 0
        if due and not self.params.r1_apart:
            loss = loss + self._r1(real)
        self._learn(self.teller, loss)
        if due and self.params.r1_apart:
            self._learn(self.teller, self._r1(real))
        return loss.detach()

    def _r1(self, real: Tensor) -> Tensor:
        return self.params.r1_weight * self.params.r1_every * r1_penalty(self.gan.discriminator, real)

    @staticmethod
    def _learn(optimizer: Adam, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        ranks.average_gradients(optimizer.param_groups[0]["params"])
        optimizer.step()

    def fooled(self, fake: Tensor) -> Tensor:
        """G's adversarial loss, with D held still."""
        return generator_loss(self.gan.discriminator.requires_grad_(False)(fake))

    def draw(self, losses: Weights) -> None:
        """One update of G by the sum of the losses."""
        self._learn(self.painter, torch.stack(list(losses.values())).sum())

    def parts(self) -> dict[str, Any]:
        """What must be saved to continue."""
        parts = {"gan": self.gan, "painter": self.painter, "teller": self.teller}
        return parts | {"paths": self.paths} if self.params.path_length_weight else parts


# A lesson: one update of D in a game, at a step, by a batch of the parent's samples and a random stream.
Lesson = Callable[[Game, int, Tensor, torch.Generator], Tensor]


def warm_up(
    original: Gan, real: Tensor, shunned: Tensor | None, params: GameParams, session: Session, weight: float = 0.0
) -> None:
    """Teaches a fresh discriminator, in place, what the stage will ask it: `real` against the parent's samples."""

    def lesson(game: Game, step: int, fake: Tensor, random: torch.Generator) -> Tensor:
        shown = None if shunned is None else pick(shunned, params.batch // 4, random)
        return game.teach(step, pick(real, params.batch, random), fake, shown, weight)

    warm_up_by(original, lesson, params, session)


def warm_up_by(original: Gan, lesson: Lesson, params: GameParams, session: Session) -> None:
    """Teaches a fresh discriminator, in place, by a method's own lessons; one that has learned is left alone."""
    if not original.fresh_discriminator:
        return
    random = stream(session, 4)
    game = Game(original, params)

    def one_step(step: int) -> dict[str, Tensor]:
        fake = original(game.latents(params.batch, random))
        return {"discriminator": lesson(game, step, fake, random)}

    Loop(session, "warm up", params.warm_up_steps, game.parts(), random).run(one_step)
    original.discriminator.load_state_dict(game.gan.discriminator.state_dict())
