"""What the benchmarks of flows share: small MNIST at five bits, a judge, and Glows trained from scratch.

Images are the files' 28 pixels on a black border of two, means of 2x2 pixels, cut to five bits: 16x16 pixels of 32
levels. What takes long is kept and goes on as `generators.py` says. Real images to compare with are those of the test
split, which nothing has learned on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from generators import CLASSES, Bench, Made, NotThere, Row, Seen, Watched, as_tensors, digest
from numpy.typing import NDArray
from scipy.special import stdtrit

from expunge.digests import atomic_path
from expunge.measure.distances import KidComparison
from expunge.methods.training import in_parts, stream
from expunge.models import ModelSpec, build
from expunge.models.flow import Flow, fit_likelihood
from expunge.models.supervised import Labelled

BITS, SMALL = 5, 16
CONFIG: dict[str, Any] = {"channels": 1, "side": SMALL, "levels": 2, "steps": 8, "hidden": 32, "bits": BITS}
TRAINING: dict[str, Any] = {"steps": 8_000, "batch": 64, "rate": 2e-3}
OF_TWO: dict[str, Any] = TRAINING | {"steps": 1_500}  # for two classes of the ten
DRAWS = 10_000
MEASURE_SEED = 20_261_122  # of points and latents; no training uses it
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Flows(Bench):
    """What the rows have in common: small images, a judge of them, and flows that learned some or all classes."""

    def images(self, split: Literal["train", "test"]) -> Labelled:
        """A split's images, [N, 1, 16, 16] of 32 levels, stored with eight bits."""
        whole = super().images(split)
        return Labelled(reduced(whole.pixels), whole.labels)

    def keep(self, name: str, made_from: Row, *rest: Any, **more: Any) -> Any:
        """As for all benchmarks; what is kept also goes by the size and depth of the images."""
        return super().keep(name, made_from | {"side": SMALL, "bits": BITS}, *rest, **more)

    def tensors(
        self, split: Literal["train", "test"], classes: Sequence[int] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [N, 1, 16, 16] in [-1, 1] and their classes, of some classes or, if none is named, of all."""
        part = self.train if split == "train" else self.test
        rows = np.isin(part.labels, classes) if len(classes) else np.ones(len(part), bool)
        return as_tensors(part.pixels[rows]), torch.from_numpy(part.labels[rows])

    def flow(self, classes: Sequence[int] = (), seed: int = 0) -> tuple[Flow, Row]:
        """A Glow that learned these classes of the train split, or all; and the facts of its training."""
        training = (OF_TWO if len(classes) else TRAINING) | ({} if self.steps is None else {"steps": self.steps})

        def make(session: Watched) -> Made:
            images, _ = self.tensors("train", classes)
            torch.set_num_threads(self.threads)
            torch.manual_seed(seed)
            flow = cast(Flow, build("glow", **CONFIG))
            fit_likelihood(flow, images, **training, random=stream(session, 1), session=session)
            return flow.state_dict(), self.flow_spec(), {"samples": training["steps"] * training["batch"]}

        name = "glow-" + ("parent" if not len(classes) else "of-" + "-".join(map(str, classes)))
        model, facts = self.keep(name, {"config": CONFIG, "training": training, "classes": list(classes)}, seed, make)
        return cast(Flow, model), facts

    def flow_spec(self) -> ModelSpec:
        """What a kept file says of itself."""
        return ModelSpec(architecture="glow", config=CONFIG, family="flow", classes=CLASSES[self.dataset])

    # ---------------------------------------------------------------- measuring

    def bits(self, flow: Flow, facts: Row, split: str, points: int = 1) -> Floats:
        """Bits/dim [N] of all images of a split, mean over some points of each, the same for every flow."""
        def look() -> Floats:
            levels = flow.levels(self.tensors(split)[0])  # type: ignore[arg-type]
            random = torch.Generator().manual_seed(MEASURE_SEED)
            return np.mean([likelihoods(flow, flow.points(levels, random)) for _ in range(points)], axis=0)

        return self.array({"weights": facts["sha256"], "bits": split, "points": points, "seed": MEASURE_SEED}, look)

    def array(self, key: Row, look: Callable[[], Floats]) -> Floats:
        """What `look` finds, from the folder if it has looked before."""
        file = self.kept / f"array-{digest(key)}.npy"
        if not file.exists():
            if self.looks:
                raise NotThere(file.name)
            found = look()
            with atomic_path(file) as half, half.open("wb") as opened:
                np.save(opened, found)
        return cast(Floats, np.load(file))

    def drawn_by(self, flow: Flow, facts: Row) -> Seen:
        """What the judge sees in a flow's draws, from latents that are the same for all."""
        judge, judge_facts = self.classifier("judge")
        latents = flow.draw_latents(DRAWS, torch.Generator().manual_seed(MEASURE_SEED))
        key = {"judge": judge_facts["sha256"], "weights": facts["sha256"], "draws": DRAWS, "seed": MEASURE_SEED}
        return self.seen(key, lambda: Seen.of(judge, lambda part: flow.images(flow(part)), latents))


def reduced(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images [N, 1, 32, 32] of eight bits as [N, 1, 16, 16] of five, stored with eight: means of 2x2 pixels."""
    means = pixels.reshape(len(pixels), 1, SMALL, 2, SMALL, 2).astype(np.uint16).sum(axis=(3, 5)) // 4
    levels = means >> (8 - BITS)
    return np.rint(levels * (255 / (2**BITS - 1))).astype(np.uint8)


def likelihoods(flow: Flow, points: torch.Tensor) -> Floats:
    """Bits/dim [N] of points, by what a flow itself says of them."""
    return in_parts(flow.log_prob, points).double().numpy() / (-flow.dimensions * math.log(2)) + flow.bits - 1


def relative(before: Floats, after: Floats) -> list[float]:
    """Mean after over mean before, less 1, with the ends of its paired 95 % interval (delta method)."""
    value = after.mean() / before.mean()
    error = (after - value * before).std(ddof=1) / math.sqrt(len(before)) / before.mean()
    return [float(value - 1 + reach * error) for reach in (0, -1.96, 1.96)]


def ratio(found: KidComparison) -> list[float]:
    """KID after over KID before with the ends of its 95 % interval (Fieller 1954); infinite where before may be 0.

    Variances and covariance are those of the comparison's half-samples, which are the same for all three intervals.
    """
    t = float(stdtrit(found.freedom, 0.975))
    errors = [(one.interval.upper - one.interval.lower) / 2 / t for one in (found.before, found.after)]
    together = (errors[0] ** 2 + errors[1] ** 2 - found.error**2) / 2
    b, a = found.before.value, found.after.value
    second, first, none = b**2 - (t * errors[0]) ** 2, a * b - t**2 * together, a**2 - (t * errors[1]) ** 2
    if second <= 0:
        return [a / b, 0.0, math.inf]
    spread = math.sqrt(max(0.0, first**2 - second * none))
    return [a / b, (first - spread) / second, (first + spread) / second]
