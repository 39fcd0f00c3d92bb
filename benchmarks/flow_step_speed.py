"""How long does a step of taming a flow take beside the five-pass form of the same arithmetic, and do both stop alike?

python benchmarks/flow_step_speed.py FOLDER --kept KEPT [--counts 4 8 15] [--seeds 0 1 2] [--repeats 15] [--timed 40]

The five-pass form is written here by what is known of the authors' code: a look at all forget images, the forget batch
with gradients, the remember batch through the parent and through the candidate, the remember batch once more for a
log, and 1,024 remember images every 10 steps for mu and sigma. Ours is the method itself, with its checks, reports and
resumable state. The parent is the Glow of `flow_forgetting.py`, kept in the same folder.

Both see the same draws: the same forget images in the same order, the same remember images, the same points of both,
the same 1,024 images and points for statistics, and at each step the same point of every forget image to decide
whether to stop (one each, where the method's own default is the mean of several). What is left between them is what
the form is about: how mu and sigma are refreshed, and when all forget images are looked at. Both go on until every
forget image is within epsilon of its threshold, and the steps at which they stop are compared.

For the time both run in one process, in turns; ratios are of neighbours in time, and their median counts.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any, cast

import torch
from flow_forgetting import CLASS, Taming
from generators import common_arguments
from recording import record

from expunge.methods import taming_flow
from expunge.methods.taming_flow import Params, Watch, bits, losses_of
from expunge.methods.training import Deck, Material, Samples, Session, Weights, prepare, stream
from expunge.models.flow import Flow

FASTER = 1.5  # the goal
Problem = tuple[Flow, Material, Weights, Params, int]  # parent, images, what `adapt` learned, settings, seed


class Timed(Session):
    """Notes when each step was reported, and what was said in the end."""

    def __init__(self, seed: int, threads: int) -> None:
        super().__init__(seed, threads)
        self.moments: list[float] = []
        self.notes: list[str] = []

    def report(self, step: int, total: int, **scalars: float) -> None:
        """A step has ended."""
        self.moments.append(time.perf_counter())

    def note(self, text: str) -> None:
        """What the method has to say."""
        self.notes.append(text)


def ours(problem: Problem, steps: int, ends: bool) -> tuple[int | None, list[float]]:
    """The method: the step at which it stopped, None if it did not, and the moments at which steps ended."""
    parent, material, adaptation, params, seed = problem
    session = Timed(seed, torch.get_num_threads())
    changed = params.model_copy(update={"steps": steps, "stop": "reached" if ends else "never"})
    taming_flow.METHOD.unlearn(parent, adaptation, material, changed, session)
    stopped = ends and session.notes[0].startswith("every")
    return len(session.moments) if stopped else None, session.moments


def five_passes(problem: Problem, steps: int, ends: bool) -> tuple[int | None, list[float]]:
    """The same with all passes, by the same formulas and draws, without a check or a report."""
    parent, material, adaptation, params, seed = problem
    session = Session(seed, torch.get_num_threads())
    prepare(session)
    random = stream(session, 2)
    original, flow = deepcopy(parent).eval().requires_grad_(False), deepcopy(parent).eval().requires_grad_(True)
    optimizer = torch.optim.Adam(flow.parameters(), lr=params.rate)
    forget, retain = (original.levels(material.samples(role).images) for role in ("forget", "retain"))
    watch = Watch(flow.points(retain[adaptation["chosen"]], stream(session, 3)), adaptation["before"], len(forget),
                  params)
    deck = Deck(material.samples("forget"), params.batch, session, 4)
    moments = []
    for step in range(steps):
        with torch.no_grad():
            if step % params.refresh_every == 0:
                watch.refresh_wholly(flow)
            seen = bits(flow, flow.points(forget, stream(session, 1000 + step)))
            if watch.within(seen) and ends:
                return step, moments
        unlikely = flow.points(forget[deck.rows(step)], random)
        likely = flow.points(retain[torch.randint(len(retain), (params.batch,), generator=random)], random)
        forgotten = bits(flow, unlikely)
        with torch.no_grad():
            before = bits(original, likely)
        losses = losses_of(forgotten, watch.threshold, before, bits(flow, likely), params)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        with torch.no_grad():
            bits(flow, likely).mean().item()
        moments.append(time.perf_counter())
    return None, moments


def per_step(form: Callable[..., tuple[int | None, list[float]]], problem: Problem, steps: int) -> float:
    """Seconds per step, the first one left out."""
    _, moments = form(problem, steps + 1, False)
    return (moments[-1] - moments[0]) / steps


def apart(problem: Problem) -> float:
    """How far the threshold by a part of the statistics' images ever is from that by all, in allowed distances."""
    found = []

    class Watched(Watch):
        """Takes both at every refresh, and goes on with the part's."""

        def refresh(self, flow: Flow) -> None:
            self.refresh_wholly(flow)
            whole, allowed = self.threshold, self.params.epsilon * self.params.delta * self.std
            super().refresh(flow)
            found.append(abs(self.threshold - whole) / allowed)

    plain: Any = taming_flow.Watch
    taming_flow.Watch = Watched  # type: ignore[misc]
    try:
        ours(problem, problem[3].steps, True)
    finally:
        taming_flow.Watch = plain  # type: ignore[misc]
    return max(found)


def compared(one: int | None, other: int | None, interval: int) -> str:
    """How far two stops are apart, in words."""
    if one is None or other is None:
        return "neither stops" if one is other else "only one stops"
    return "the same step" if one == other else f"{abs(one - other)} steps apart, " + (
        "within a refresh" if abs(one - other) <= interval else "more than a refresh")


def main() -> None:
    parser = common_arguments(__doc__ or "")
    parser.add_argument("--counts", type=int, nargs="+", default=[4, 8, 15], help="of images to forget")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--timed", type=int, default=40, help="steps of a turn; a multiple of the refreshes' interval")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    bench = cast(Taming, Taming.of(asked, "mnist"))
    parent, _ = bench.flow()
    params = taming_flow.METHOD.parameters(
        "default", {"draws": 1, **({} if asked.steps is None else {"steps": asked.steps})})

    def problem(count: int, seed: int) -> Problem:
        images, _ = bench.tensors("train")
        lost = torch.from_numpy(bench.chosen(str(count), seed))
        material = Material(forget=Samples(images[lost]), retain=Samples(images[~lost]))
        session = Session(seed, asked.threads)
        return parent, material, taming_flow.METHOD.adapt(parent, material, params, session), params, seed

    stops = []
    for count in asked.counts:
        for seed in asked.seeds:
            mine, theirs = (form(problem(count, seed), params.steps, True)[0] for form in (ours, five_passes))
            stops.append((count, seed, mine, theirs, compared(mine, theirs, params.refresh_every)))
    farthest = apart(problem(asked.counts[0], asked.seeds[0]))
    timing = problem(8, asked.seeds[0])
    turns, load = [], []
    for _ in range(asked.repeats + 1):
        load.append(os.getloadavg()[0])
        turns.append((per_step(ours, timing, asked.timed), per_step(five_passes, timing, asked.timed)))
    turns, ratios = turns[1:], [theirs / mine for mine, theirs in turns[1:]]
    mine, theirs = (statistics.median(one) for one in zip(*turns, strict=True))
    ratio = statistics.median(ratios)
    table = "\n".join([
        f"Images of class {CLASS['mnist']}, batch {params.batch}, rate {params.rate:g}, {asked.threads} threads; load "
        f"average of the machine {min(load):.1f} to {max(load):.1f} on {os.cpu_count()} processors.", "",
        "| form | ms per step, 8 images to forget |", "|---|---|",
        f"| ours | {1000 * mine:.1f} |", f"| five passes | {1000 * theirs:.1f} |", "",
        f"Five passes take {ratio:.2f} times as long (median of {len(ratios)} ratios, from {min(ratios):.2f} to "
        f"{max(ratios):.2f}); the goal is {FASTER}: {'met' if ratio >= FASTER else 'missed'}.", "",
        "| images | seed | ours stops at step | five passes stop at step | |", "|---|---|---|---|---|",
        *(f"| {count} | {seed} | {'not' if one is None else one} | {'not' if other is None else other} | {words} |"
          for count, seed, one, other, words in stops), "",
        f"Along one of our runs the threshold by {params.refresh_images} images was never farther than {farthest:.3f} "
        f"of the allowed distance from that by {params.statistics}.",
    ])
    found = {"params": params.model_dump(mode="json"), "turns": turns, "load": load, "ratio": ratio, "stops": stops,
             "farthest": farthest}
    if asked.steps is None:
        record("flow_step_speed", found, table)
    else:
        print(table)


if __name__ == "__main__":
    main()
