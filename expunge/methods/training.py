"""What the methods share: samples, the session that the room hands over, and a seeded, resumable loop."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from expunge.contracts import Compute
from expunge.errors import BadInput, NonFiniteLoss
from expunge.models import ranks

Weights = dict[str, Tensor]

ANOTHER = "choose a method that does not: 'expunge methods' says what each needs"
NOTHING_IN = {  # problem and remedy, by role
    "forget": ("training: there is no image of what is to be forgotten", "name images that show it"),
    "retain": ("training: there is no image of what is to stay", "name images that show it"),
    "negative": ("forget: there is no image of what is to be forgotten",
                 "check the oracle and forget.classes, or raise sampling.curate"),
    "positive": ("forget: there is no image of what is to stay",
                 "check the oracle and forget.classes, or raise sampling.curate"),
}
CHECKPOINT_EVERY = 50  # steps between offers of resumable state, where a session does not go by the clock


@dataclass(frozen=True)
class Samples:
    """Images with what is known of them.

    Attributes:
        images: [N, C, H, W] in the model's range.
        latents: [N, latent_dim] that the parent turned into the images, or None.
        labels: [N] integer classes, or None.
    """

    images: Tensor
    latents: Tensor | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


class Oracle(Protocol):
    """Says what is unwanted, and lets gradients through."""

    def probability_unwanted(self, images: Tensor) -> Tensor:
        """Probabilities [B] for images [B, C, H, W]."""
        ...


class ClassifierOracle:
    """An oracle made of a classifier and the classes that are unwanted."""

    def __init__(self, classifier: nn.Module, unwanted: Sequence[int]) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.unwanted = list(unwanted)

    def probability_unwanted(self, images: Tensor) -> Tensor:
        """The classifier's summed softmax over the unwanted classes, [B] for images [B, C, H, W]."""
        probabilities: Tensor = self.classifier(images).softmax(dim=1)
        return probabilities[:, self.unwanted].sum(dim=1)


@dataclass(frozen=True)
class Material:
    """What a method may see of what is to be lost and of what is to stay. What a request did not bring is None.

    Attributes:
        negative: the parent's own samples that are unwanted.
        positive: the parent's own samples that are wanted.
        forget: real images that are unwanted.
        retain: real images that are wanted.
        oracle: who says of any image what is unwanted.
        restricted: the classes that a classifier is to lose; () stands for those of `forget`'s labels.
    """

    negative: Samples | None = None
    positive: Samples | None = None
    forget: Samples | None = None
    retain: Samples | None = None
    oracle: Oracle | None = None
    restricted: tuple[int, ...] = ()

    def samples(self, role: Literal["negative", "positive", "forget", "retain"]) -> Samples:
        """The set of that role; BadInput if there is none, or nothing in it."""
        found: Samples | None = getattr(self, role)
        if found is None:
            real = role in ("forget", "retain")
            raise BadInput(f"method: it needs {role} samples" + (", which are real images" if real else ""),
                           "name them in the request: training" if real else ANOTHER)
        need(len(found), *NOTHING_IN[role])
        return found

    def judged_by(self) -> Oracle:
        """The oracle; BadInput if there is none."""
        if self.oracle is None:
            raise BadInput("method: it needs an oracle", ANOTHER)
        return self.oracle


class Session:
    """What the room hands a method besides data. This one keeps and reports nothing; rooms override it.

    Attributes:
        seed: the only source of randomness.
        threads: CPU threads; part of what makes a run repeatable.
        device: where to train.
    """

    def __init__(self, seed: int, threads: int = 2, device: torch.device | str = "cpu") -> None:
        self.seed = seed
        self.threads = threads
        self.device = torch.device(device)

    def report(self, step: int, total: int, **scalars: float) -> None:
        """Called after steps worth telling of; `scalars` are losses and the like."""

    def note(self, text: str) -> None:
        """Tells whoever watches the run one thing worth knowing, in a sentence."""

    def resume(self) -> dict[str, Any] | None:
        """The last state given to `checkpoint` by a run that was killed, or None."""
        return None

    def wants_state(self, step: int) -> bool:
        """Whether to offer state to continue from after so many steps."""
        return step % CHECKPOINT_EVERY == 0

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Offers state to continue from: tensors, plain values, and containers of them."""

    def compute(self) -> Compute:
        """What the resulting bits depend on besides the seed."""
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return Compute(
            device=f"{device} x {ranks.count()}" if ranks.count() > 1 else device, threads=self.threads,
            torch=torch.__version__, instruction_set=torch.backends.cpu.get_cpu_capability(),
            machine=platform.machine())


def prepare(session: Session) -> None:
    """Sets thread count and deterministic kernels: same seed and threads, same bits on a CPU."""
    torch.set_num_threads(session.threads)
    # Of two public ways to say so this one does not first import a compiler, which took longer than a short stage.
    torch.set_deterministic_debug_mode("error" if session.device.type == "cpu" else "warn")
    # Every tensor is written before it is read here; filling fresh memory first cost a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def stream(session: Session, purpose: int) -> torch.Generator:
    """An independent random stream on the CPU for one purpose of a run."""
    return torch.Generator().manual_seed((session.seed * 1_000_003 + purpose) % 2**63)


def pick(images: Tensor, count: int, random: torch.Generator) -> Tensor:
    """`count` of the images [N, ...], with replacement; of them, this process's part."""
    return images[ranks.own_part(torch.randint(len(images), (count,), generator=random))]


class Deck:
    """Rows of a set in shuffled order, epoch after epoch; which ones a step sees follows from the seed alone."""

    def __init__(self, samples: Samples, batch: int, session: Session, purpose: int) -> None:
        self.samples = samples
        self.batch = min(batch, len(samples))
        self._session, self._purpose = session, purpose
        self._orders: dict[int, Tensor] = {}

    def rows(self, step: int) -> Tensor:
        """The rows of a step, [batch]; an epoch's last ones and the next one's first may share a step."""
        count = len(self.samples)
        places = torch.arange(step * self.batch, (step + 1) * self.batch)
        first, last = int(places[0]) // count, int(places[-1]) // count
        self._orders = {epoch: self._orders[epoch] if epoch in self._orders else self._order(epoch)
                        for epoch in range(first, last + 1)}
        return torch.cat([self._orders[epoch][places[places // count == epoch] % count]
                          for epoch in range(first, last + 1)])

    def deal(self, step: int) -> tuple[Tensor, Tensor]:
        """This process's part of a step's images [B, C, H, W] and their classes [B]."""
        rows = ranks.own_part(self.rows(step))
        assert self.samples.labels is not None
        return self.samples.images[rows], self.samples.labels[rows]

    def _order(self, epoch: int) -> Tensor:
        random = stream(self._session, 1_000 * (epoch + 1) + self._purpose)
        return torch.randperm(len(self.samples), generator=random)


@torch.no_grad()
def in_parts(function: Callable[[Tensor], Tensor], inputs: Tensor, size: int = 512) -> Tensor:
    """The function of inputs [N, ...], `size` at a time, without gradients."""
    return torch.cat([function(part) for part in inputs.split(size)])


def weights(module: nn.Module, device: torch.device | str | None = None) -> dict[str, Tensor]:
    """A copy of the module's state, on `device` if given."""
    state = module.state_dict()
    return {name: tensor.detach().clone().to(device or tensor.device) for name, tensor in state.items()}


def learned(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the module's parameters: what training moves. Running statistics and the like are not among them."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


class Loop:
    """A training loop that can be killed between any two steps and gives the same bits when continued.

    `parts` are whatever has state_dict() and load_state_dict(); `random` is the loop's only random stream. It goes
    through `steps` once, or, while `enough(rounds so far)` says no, up to `rounds` times.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        steps: int,
        parts: Mapping[str, Any],
        random: torch.Generator,
        rounds: int = 1,
        enough: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.session = session
        self.name = name
        self.steps = steps
        self.parts = parts
        self.random = random
        self.rounds = rounds
        self.enough = enough

    def run(self, one_step: Callable[[int], dict[str, Tensor]]) -> None:
        """Calls `one_step(step)`, which does one update and returns its losses, for every step still to do.

        Raises:
            NonFiniteLoss: a loss is not finite; names the step.
        """
        for step in range(self._resume(), self.rounds * self.steps):
            begun, inner = divmod(step, self.steps)
            if begun and inner == 0 and self.enough(begun):
                break
            losses = ranks.mean_of_losses(one_step(step))
            for name, loss in losses.items():
                if not math.isfinite(loss):
                    raise NonFiniteLoss(
                        f"{self.name}: {name} loss is {loss} at step {step}", "lower the rates or the weights"
                    )
            if not ranks.first():
                continue
            # Another round is not foreseen: progress is towards the end of this one.
            self.session.report(step + 1, (begun + 1) * self.steps, **losses)
            if step + 1 < self.rounds * self.steps and self.session.wants_state(step + 1):
                self.session.checkpoint(self._state(step + 1))

    def _resume(self) -> int:
        state = self.session.resume()
        if state is None or state["loop"] != self.name:
            return 0
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.random.set_state(state["random"].cpu())
        return int(state["step"])

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "loop": self.name,
            "step": step,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "random": self.random.get_state(),
        }


class Kept:
    """Tensors that a loop has finished and must not lose when it is killed; one of its `parts`."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors so far."""
        return dict(self.tensors)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from saved tensors."""
        self.tensors = dict(state)


def need(condition: object, problem: str, remedy: str) -> None:
    """Raises BadInput unless the condition holds."""
    if not condition:
        raise BadInput(problem, remedy)
