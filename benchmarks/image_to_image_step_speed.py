"""How long does a step of unlearning a model that completes images take beside the same arithmetic written plainly?

python benchmarks/image_to_image_step_speed.py [--kinds mae] [--repeats 9] [--timed 6] [--threads 1]

The plain form is written here from the loss: the teacher's pass of what is kept and of noise, the pupil's of what is
kept and of what is to be forgotten, four passes apart; the mean of each map's squared differences; a backward pass;
AdamW as the library has it by default. What it is shown was drawn before, and costs it nothing. Ours is the method
itself, with its draws, checks and reports, once with the teacher's passes made beforehand, and once with all of them in
the step. The models are those of `image_to_image.py`, their weights as drawn: a step costs the same whatever they are.

All forms see the same images, masks, noise and noise levels, and their losses are compared step by step. For the time
they run in one process, in turns; ratios are of neighbours in time, and their median counts. Times are the processor's,
which waiting for other work is no part of: with one thread they are a step's own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from copy import deepcopy
from typing import Any, cast

import torch
from completions import HIDDEN, KINDS, fresh
from recording import record
from torch import nn

from expunge.methods.image_to_image import METHOD, ROLES, Lesson, Params, rate_at
from expunge.methods.training import Material, Samples, Session, Weights, prepare, stream
from expunge.models.image_to_image import ImageToImage, asked_to_complete

FASTER = 1.5  # the goal, of diffusion with cached passes
IMAGES = 512  # of each kind: noise, for a step costs the same whatever they show


class Timed(Session):
    """Notes when each step was reported, and its losses."""

    def __init__(self, seed: int, threads: int) -> None:
        super().__init__(seed, threads)
        self.moments: list[float] = []
        self.losses: list[dict[str, float]] = []

    def report(self, step: int, total: int, **scalars: float) -> None:
        """A step has ended."""
        self.moments.append(time.process_time())
        self.losses.append(scalars)


def plainly(parent: ImageToImage, material: Material, params: Params, steps: int, threads: int) -> Timed:
    """The same steps by the formula."""
    session = Timed(0, threads)
    prepare(session)
    lesson, random = Lesson(parent, material, params, session), stream(session, 3)
    shown = [{role: lesson.showing[role].of(*lesson.dealt(role, step), random) for role in ROLES}
             for step in range(steps)]
    teacher, pupil = deepcopy(parent).eval().requires_grad_(False), deepcopy(parent).eval().requires_grad_(False)
    moving = list(pupil.encoder_parameters().values())
    for parameter in moving:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(moving, lr=params.rate, betas=(params.beta1, params.beta2),
                                  weight_decay=params.weight_decay)
    for step in range(steps):
        losses = {}
        for role, name, weight in (("stay", "retain", 1.0), ("forget", "forget", params.alpha)):
            seen, aim = shown[step][role]  # type: ignore[index]
            with torch.no_grad():
                wanted = teacher.encode(aim.images, aim.mask, aim.chance)
            found = pupil.encode(seen.images, seen.mask, seen.chance)
            losses[name] = weight * torch.stack(
                [((one - other) ** 2).mean() for one, other in zip(found, wanted, strict=True)]).sum()
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, params)
        optimizer.zero_grad()
        (losses["retain"] + losses["forget"]).backward()
        nn.utils.clip_grad_norm_(moving, params.longest)
        optimizer.step()
        session.report(step + 1, steps, **{name: loss.item() for name, loss in losses.items()})
    return session


def ours(parent: ImageToImage, material: Material, params: Params, cached: Weights, threads: int) -> Timed:
    """The method's steps."""
    session = Timed(0, threads)
    METHOD.unlearn(parent, cached, material, params, session)
    return session


def per_step(session: Timed) -> float:
    """Processor seconds per step, the first one left out."""
    return (session.moments[-1] - session.moments[0]) / (len(session.moments) - 1)


def apart(one: Timed, other: Timed) -> float:
    """How far two forms' losses ever are from each other, in parts of the larger sum of losses."""
    sums = [[sum(losses.values()) for losses in form.losses] for form in (one, other)]
    return max(abs(a - b) / max(a, b) for a, b in zip(*sums, strict=True))


def measured(kind: str, repeats: int, timed: int, threads: int) -> dict[str, Any]:
    """One kind's times, ratios and losses."""
    torch.manual_seed(0)
    parent = asked_to_complete(fresh(kind), HIDDEN)
    random = torch.Generator().manual_seed(1)
    forget, retain = (Samples(torch.rand(IMAGES, *parent.image_shape, generator=random) * 2 - 1) for _ in ROLES)
    material = Material(forget=forget, retain=retain)
    params = cast(Params, METHOD.parameters("default", {"steps": timed + 1, "scale": "plain"}))
    began = time.process_time()
    cached = METHOD.adapt(parent, material, params, Session(0, threads))
    adapted = time.process_time() - began
    turns, farthest = [], 0.0
    for _ in range(repeats + 1):
        forms = [plainly(parent, material, params, timed + 1, threads), ours(parent, material, params, {}, threads),
                 ours(parent, material, params, cached, threads)]
        farthest = max(farthest, *(apart(forms[0], form) for form in forms[1:]))
        turns.append([per_step(form) for form in forms])
    turns = turns[1:]
    return {"kind": kind, "turns": turns, "seconds": [statistics.median(one) for one in zip(*turns, strict=True)],
            "ratios": {name: [turn[0] / turn[place] for turn in turns] for name, place in (("every", 1), ("once", 2))},
            "apart": farthest, "adapt_s": adapted, "params": params.model_dump(mode="json")}


def table(rows: list[dict[str, Any]], load: list[float], threads: int) -> str:
    """Medians side by side."""
    params = rows[0]["params"]
    lines = [f"Batches of {params['batch']} images to keep and as many to forget, {threads} thread(s), beside other "
             f"work: load average {min(load):.1f} to {max(load):.1f} on {os.cpu_count()} processors. The goal is "
             f"{FASTER} for diffusion, with the teacher's passes made once.", "",
             "| kind | plain, ms per step | ours, all passes in the step | ours, the teacher's made once | plain over"
             " ours, all passes (lowest to highest) | plain over ours, made once | losses differ by at most |"
             " making them, s | goal |", "|" + "---|" * 9]
    for row in rows:
        plain, every, once = (f"{1000 * seconds:.1f}" for seconds in row["seconds"])
        ratios = {name: f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
                  for name, found in row["ratios"].items()}
        met = statistics.median(row["ratios"]["once"]) >= FASTER
        goal = "" if row["kind"] != "diffusion-inpainting" else "met" if met else "**missed**"
        lines.append(f"| {row['kind']} | {plain} | {every} | {once} | {ratios['every']} | {ratios['once']} |"
                     f" {row['apart']:.1e} of them | {row['adapt_s']:.1f} | {goal} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--timed", type=int, default=6, help="steps of a turn")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    load, rows = [os.getloadavg()[0]], []
    for kind in asked.kinds:
        rows.append(measured(kind, asked.repeats, asked.timed, asked.threads))
        load.append(os.getloadavg()[0])
    record("image_to_image_step_speed", {"rows": rows, "load": load, "threads": asked.threads},
           table(rows, load, asked.threads))


if __name__ == "__main__":
    main()
