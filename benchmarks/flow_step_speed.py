"""How long does a step of taming a flow take beside the five-pass form of the same arithmetic, and do both stop alike?

python benchmarks/flow_step_speed.py MNIST_FOLDER [--seeds 3] [--repeats 7] [--steps 800] [--pretrain 2000] [--toy]

The five-pass form is written here by what is known of the authors' code: a look at all forget images, the forget batch
with gradients, the remember batch through the parent and through the candidate, the remember batch once more for a
log, and 1,024 remember images every 10 steps for mu and sigma. Ours is the method itself, with its checks, reports and
resumable state. Both run in one process, in turns; ratios are of neighbours in time, and their median counts. Then
both go on, from the same seed, until every forget image is within epsilon of its threshold, and the steps at which
they stop are compared: they start from the same weights and differ in which points and images they draw.

MNIST_FOLDER holds the four idx files. `--toy` takes 8x8 digits and seconds instead; nothing is recorded then.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recording import record
from torch import Tensor

DIGIT, IMAGES, STATISTICS, EVERY = 3, 8, 1024, 10


def mnist(folder: Path) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 28, 28] in [-1, 1] and labels, of the training part."""

    def read(name: str, header: int) -> Any:
        packed = folder / f"{name}.gz"
        data = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
        return np.frombuffer(data, np.uint8, offset=header).copy()

    pixels = torch.from_numpy(read("train-images-idx3-ubyte", 16)).view(-1, 1, 28, 28)
    return pixels.float() / 127.5 - 1, torch.from_numpy(read("train-labels-idx1-ubyte", 8))


def toy() -> tuple[Tensor, Tensor]:
    """The 8x8 digits of scikit-learn, at four bits."""
    from sklearn.datasets import load_digits

    found = load_digits()
    levels = torch.tensor(found.images, dtype=torch.float32).clamp(max=15)[:, None]
    return levels * (2 / 15) - 1, torch.tensor(found.target)


class FivePasses:
    """The loop with all passes, by the same formulas, without a check or a report."""

    def __init__(self, parent: Any, forget: Tensor, retain: Tensor, params: Any, seed: int) -> None:
        self.original, self.flow = deepcopy(parent).requires_grad_(False), deepcopy(parent).requires_grad_(True)
        self.forget, self.retain, self.params = parent.levels(forget), parent.levels(retain), params
        self.random = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(self.flow.parameters(), lr=params.rate)
        self.number, self.mean, self.std, self.logged = 0, 0.0, 0.0, 0.0

    def reached(self) -> bool:
        """Pass 1, and the statistics where they are due."""
        from expunge.methods.taming_flow import bits

        flow, params = self.flow, self.params
        with torch.no_grad():
            if self.number % EVERY == 0:
                chosen = torch.randperm(len(self.retain), generator=self.random)[:STATISTICS]
                now = torch.cat([bits(flow, part) for part in flow.points(self.retain[chosen], self.random).split(512)])
                self.mean, self.std = now.mean().item(), now.std().item()
            found = bits(flow, flow.points(self.forget, self.random))
        away = (found - self.mean - params.delta * self.std).abs()
        return bool((away <= params.epsilon * params.delta * self.std).all())

    def step(self) -> None:
        """Passes 2 to 5."""
        from expunge.methods.taming_flow import bits, losses_of

        flow, params, random = self.flow, self.params, self.random
        hand = torch.randperm(len(self.forget), generator=random)[: params.batch]
        likely = flow.points(self.retain[torch.randint(len(self.retain), (params.batch,), generator=random)], random)
        forgotten = bits(flow, flow.points(self.forget[hand], random))
        with torch.no_grad():
            before = bits(self.original, likely)
        threshold = self.mean + params.delta * self.std
        losses = losses_of(forgotten, threshold, before, bits(flow, likely), params)
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        with torch.no_grad():
            self.logged = bits(flow, likely).mean().item()
        self.number += 1

    def run(self, steps: int) -> float:
        """Seconds per step."""
        begin = time.perf_counter()
        for _ in range(steps):
            self.reached()
            self.step()
        return (time.perf_counter() - begin) / steps

    def until_reached(self, most: int) -> int:
        """The step at which it stops; -1 if it does not."""
        for step in range(most):
            if self.reached():
                return step
            self.step()
        return -1


class Ours:
    """The method's own loop."""

    def __init__(self, parent: Any, forget: Tensor, retain: Tensor, params: Any, seed: int) -> None:
        from expunge.methods import taming_flow
        from expunge.methods.training import Material, Samples, Session

        class Timed(Session):
            """Notes when each step was reported, and whether it stopped."""

            def __init__(self) -> None:
                super().__init__(seed, torch.get_num_threads())
                self.moments: list[float] = []
                self.notes: list[str] = []

            def report(self, step: int, total: int, **scalars: float) -> None:
                self.moments.append(time.perf_counter())

            def note(self, text: str) -> None:
                self.notes.append(text)

        self.method, self.session_for, self.parent, self.params = taming_flow.METHOD, Timed, parent, params
        self.material = Material(forget=Samples(forget), retain=Samples(retain))
        self.adaptation = self.method.adapt(parent, self.material, params, Timed())

    def _through(self, **changed: Any) -> Any:
        session = self.session_for()
        params = self.params.model_copy(update=changed)
        self.method.unlearn(self.parent, self.adaptation, self.material, params, session)
        return session

    def run(self, steps: int) -> float:
        """Seconds per step, the first one left out."""
        moments = self._through(steps=steps + 1, stop="never").moments
        return (moments[-1] - moments[0]) / steps

    def until_reached(self, most: int) -> int:
        """The step at which it stops; -1 if it does not."""
        session = self._through(steps=most)
        return len(session.moments) if session.notes[0].startswith("every") else -1


def apart(parent: Any, forget: Tensor, retain: Tensor, params: Any) -> float:
    """How far the threshold by a part of the statistics' images ever is from that by all, in allowed distances."""
    from expunge.methods import taming_flow

    found = []

    class Watched(taming_flow.Watch):
        """Takes both at every refresh, and goes on with the part's."""

        def refresh(self, flow: Any) -> None:
            self.refresh_wholly(flow)
            whole, allowed = self.threshold, self.params.epsilon * self.params.delta * self.std
            super().refresh(flow)
            found.append(abs(self.threshold - whole) / allowed)

    plain, taming_flow.Watch = taming_flow.Watch, Watched  # type: ignore[misc]
    try:
        Ours(parent, forget, retain, params, 0).until_reached(params.steps)
    finally:
        taming_flow.Watch = plain  # type: ignore[misc]
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--pretrain", type=int, default=2000)
    parser.add_argument("--timed", type=int, default=40)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--delta", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    if not given.toy and given.folder is None:
        parser.error("name the folder of MNIST's idx files, or --toy")
    from expunge.methods import taming_flow
    from expunge.models import build
    from expunge.models.flow import fit_likelihood

    torch.set_num_threads(given.threads)
    images, labels = toy() if given.toy else mnist(given.folder)
    config = {"side": 8, "levels": 2, "steps": 2, "hidden": 8, "bits": 4} if given.toy else {"side": 28}
    torch.manual_seed(0)
    parent = build("glow", **config).eval()
    trained = fit_likelihood(parent, images, given.pretrain, 64, 2e-3, torch.Generator().manual_seed(0))
    forget, retain = images[labels == DIGIT][:IMAGES], images[labels != DIGIT]
    params = taming_flow.METHOD.parameters("default", {"rate": given.rate, "delta": given.delta, "steps": given.steps})

    both = [form(parent, forget, retain, params, 1) for form in (Ours, FivePasses)]
    turns = [tuple(form.run(given.timed) for form in both) for _ in range(given.repeats + 1)][1:]
    ratio = statistics.median(theirs / own for own, theirs in turns)
    own, theirs = (statistics.median(one) for one in zip(*turns, strict=True))
    stops = [tuple(form(parent, forget, retain, params, seed).until_reached(given.steps) for form in (Ours, FivePasses))
             for seed in range(given.seeds)]
    farthest = apart(parent, forget, retain, params)
    alike = sum((mine < 0) == (other < 0) for mine, other in stops)
    table = "\n".join([
        f"{IMAGES} images of digit {DIGIT}, batch {params.batch}, {given.threads} threads; the flow's bits/dim after "
        f"{given.pretrain} steps: {statistics.mean(trained[-20:]):.3f}", "",
        "| form | ms per step |", "|---|---|",
        f"| ours | {1000 * own:.1f} |", f"| five passes | {1000 * theirs:.1f} |", "",
        f"Five passes take {ratio:.2f} times as long (median of {given.repeats} ratios, from "
        f"{min(b / a for a, b in turns):.2f} to {max(b / a for a, b in turns):.2f}).", "",
        "| seed | ours stops at step | five passes stop at step |", "|---|---|---|",
        *(f"| {seed} | {mine if mine >= 0 else 'not'} | {other if other >= 0 else 'not'} |"
          for seed, (mine, other) in enumerate(stops)), "",
        f"Both stop, or neither does, for {alike} of {given.seeds} seeds.", "",
        f"Along one of our runs the threshold by {params.refresh_images} images was never farther than {farthest:.3f} "
        f"of the allowed distance from that by {params.statistics}.",
    ])
    if given.toy:
        print(table)
        return
    record("flow_step_speed", {"arguments": {name: str(value) for name, value in vars(given).items()
                                             if name != "folder"},
                               "turns": turns, "ratio": ratio, "stops": stops, "farthest": farthest}, table)


if __name__ == "__main__":
    main()
