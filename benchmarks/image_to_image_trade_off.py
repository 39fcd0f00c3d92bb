"""What does forgetting cost the rest, over the weight of the forget loss: the default, the paper's, and the baselines?

python benchmarks/image_to_image_trade_off.py FOLDER --kept KEPT            # all rows; what is kept is not done again
python benchmarks/image_to_image_trade_off.py FOLDER --kept KEPT --methods default paper --alphas 0.1 --seeds 0
python benchmarks/image_to_image_trade_off.py FOLDER --kept KEPT --table    # writes the results that are there

The masked autoencoder of `completions.py` forgets half of the garments by each method at each weight alpha, with as
many images in updates. Two numbers are the axes, of the same images behind the same masks: how much the error of images
that stay rises, and by how much more often than behind noise the judge recognises those that should be forgotten.

A method's front, over its weights, fills a part of the box from (no rise, no excess) to (`WORST`, the parent's excess):
its hypervolume, as a share of the box. Fronts are compared seed by seed, and the interval of the mean difference is
Student's over seeds: it knows of chance in the training, not in the choice of images.

The paper's settings are those of its authors' code for MAGE, made for a model far larger than this one, and learn
slowly here: there is also a row of the paper's loss and noise at the rate and schedule of the default.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, cast

from completions import Completions
from generators import NotThere, Row, common_arguments, each_in_its_process, say
from recording import record

from expunge.errors import BadInput, NonFiniteLoss
from expunge.measure.means import mean_of
from expunge.methods import find

DATASET, KIND = "fashion", "mae"
STEPS, ALPHAS, SEEDS = 400, (0.03, 0.1, 0.3, 1.0), (0, 1, 2)
WORST = 1.0  # of the rise in error: twice the parent's
NO_WEIGHT = ("fine_tune",)  # has no forget loss


@dataclass(frozen=True)
class Way:
    """A row of the table: a method, its preset, and what differs from that."""

    method: str
    preset: str
    changed: Mapping[str, Any] = field(default_factory=dict)


def ways() -> dict[str, Way]:
    """By name; all see as many images, and the baselines learn at the rate and schedule of the default."""
    default = find("image_to_image", "image_to_image").parameters("default", {"steps": STEPS})
    paper = find("image_to_image", "image_to_image").parameters("paper", {})
    schedule = {name: getattr(default, name) for name in ("steps", "batch", "rate", "warm_up", "cooling", "longest")}
    baselines = ("max_loss", "noisy_label", "retain_label", "random_encoder", "fine_tune")
    return {
        "default": Way("image_to_image", "default", {"steps": STEPS}),
        "paper": Way("image_to_image", "paper", {"steps": STEPS * default.batch // paper.batch}),
        "paper, our rate": Way("image_to_image", "paper", schedule),
        **{name: Way("image_to_image_baselines", "default" if name == "max_loss" else name, schedule)
           for name in baselines}}


def point(bench: Completions, name: str, alpha: float, seed: int) -> Row:
    """Where a method comes out at a weight."""
    way = ways()[name]
    try:
        found = bench.measured(KIND, name, seed, {**way.changed, "alpha": alpha}, way.method, way.preset)
    except NonFiniteLoss as error:
        return {"name": name, "alpha": alpha, "seed": seed, "because": str(error)}
    return {"name": name, "alpha": alpha, "seed": seed, "rise": found["error"]["retain"][1],
            "excess": found["excess"][0], "excess_before": found["excess_before"][0], "seen": found["seen"],
            "seconds": found["adapt_s"] + found["unlearn_s"]}


def hypervolume(points: Iterable[tuple[float, float]], worst: tuple[float, float]) -> float:
    """Share of the box from (0, 0) to `worst` that lies beyond at least one of the points (x, y); less is better."""
    area, lowest = 0.0, worst[1]
    for x, y in sorted((max(x, 0.0), max(y, 0.0)) for x, y in points):
        if x < worst[0] and y < lowest:
            area += (worst[0] - x) * (lowest - y)
            lowest = y
    return area / (worst[0] * worst[1])


def volumes(rows: list[Row]) -> dict[str, dict[int, float]]:
    """By method and seed, of methods whose weights have all been run for that seed."""
    found: dict[str, dict[int, float]] = {}
    for name, seed in product(ways(), SEEDS):
        mine = [row for row in rows if (row["name"], row["seed"]) == (name, seed)]
        if len(mine) == len(weights(name)):
            there = [row for row in mine if "rise" in row]
            worst = max((row["excess_before"] for row in there), default=1.0)
            found.setdefault(name, {})[seed] = hypervolume(
                [(row["rise"], row["excess"]) for row in there], (WORST, worst))
    return found


def weights(name: str) -> tuple[float, ...]:
    """The weights that a method is run at."""
    return ALPHAS[:1] if name in NO_WEIGHT else ALPHAS


def table(rows: list[Row]) -> str:
    """Mean over seeds of each point, hypervolumes, and how much smaller each is than the default's."""
    lines = [f"{KIND} on {DATASET}, {STEPS} steps of the default and as many images for the others. A point is the "
             "rise of the error of images that stay / how much more often than behind noise a forgotten image is "
             f"recognised, in points: means over seeds. Hypervolume: share of the box to {WORST:+.0%} and the parent's "
             "excess.", "",
             "| method | " + " | ".join(f"alpha {alpha:g}" for alpha in ALPHAS) +
             " | hypervolume by seed | default less this (95 % over seeds) | seconds |",
             "|" + "---|" * (len(ALPHAS) + 4)]
    found = volumes(rows)
    for name in ways():
        points = [_point([row for row in rows if (row["name"], row["alpha"]) == (name, alpha)]) for alpha in ALPHAS]
        mine = found.get(name, {})
        each = ", ".join(f"{some:.3f}" for some in mine.values()) or "-"
        seconds = [row["seconds"] for row in rows if row["name"] == name and "seconds" in row]
        mean = f"{sum(seconds) / len(seconds):.0f}" if seconds else "-"
        less = _less(found.get("default", {}), mine, name)
        lines.append(f"| {name} | {' | '.join(points)} | {each} | {less} | {mean} |")
    return "\n".join(lines)


def plot(rows: list[Row], target: Path) -> None:
    """A line per method through its weights, means over seeds, on the same axes for all."""
    from matplotlib.figure import Figure  # comes with MLflow

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(ways()):
        of_weights = [[row for row in rows if (row["name"], row["alpha"]) == (name, alpha) and "rise" in row]
                      for alpha in ALPHAS]
        means = [[100 * sum(row[what] for row in some) / len(some) for what in ("rise", "excess")]
                 for some in of_weights if some]
        if means:
            axes.plot(*zip(*means, strict=True), "o-", color=f"C{place}", label=name, markersize=4 if place else 6,
                      linewidth=1 if place else 2.5)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlim(-12, 100 * WORST)
    axes.set_xlabel("error of images that stay: rise, %")
    axes.set_ylabel("forgotten recognised\nmore often than behind noise, points")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=110)


def _point(rows: list[Row]) -> str:
    there = [row for row in rows if "rise" in row]
    if not there:
        return "loss not finite" if rows else "-"
    rise, excess = (sum(row[name] for row in there) / len(there) for name in ("rise", "excess"))
    return f"{rise:+.1%} / {100 * excess:+.1f}" + ("" if len(there) == len(rows) else f" ({len(there)} of {len(rows)})")


def _less(ours: dict[int, float], theirs: dict[int, float], name: str) -> str:
    both = sorted(set(ours) & set(theirs))
    if name == "default" or not both:
        return "-"
    try:
        found = mean_of([ours[seed] - theirs[seed] for seed in both])
    except BadInput:  # one seed says nothing of chance
        return f"{ours[both[0]] - theirs[both[0]]:+.3f} (one seed)"
    return f"{found.value:+.3f} ({found.interval.lower:+.3f} to {found.interval.upper:+.3f})"


def main() -> None:
    """Makes what is missing, each point in a process of its own, and writes the table."""
    parser = common_arguments(__doc__ or "")
    parser.add_argument("--methods", nargs="+", choices=ways(), default=list(ways()))
    parser.add_argument("--alphas", type=float, nargs="+", choices=ALPHAS, default=list(ALPHAS))
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="write what is there, and make nothing")
    asked = parser.parse_args()
    bench = cast(Completions, Completions.of(asked, DATASET, looks=asked.table))
    if asked.one:
        name, alpha, seed = asked.one
        print(json.dumps(point(bench, name, float(alpha), int(seed))))
        return
    plan = [(name, alpha, seed) for seed, name in product(asked.seeds, asked.methods) for alpha in weights(name)
            if alpha in asked.alphas]
    rows, missing = [], []
    if not asked.table:
        bench.parent_of(KIND)
        rows = [row for _, row in each_in_its_process(plan, asked.jobs, asked.threads)]
    else:
        for key in plan:
            try:
                rows.append(point(bench, *key))
            except NotThere:
                missing.append(" ".join(map(str, key)))
    if not rows:
        raise SystemExit("there is nothing to tell yet")
    rows.sort(key=lambda row: (list(ways()).index(row["name"]), row["alpha"], row["seed"]))
    text = table(rows) + (f"\n\nNot run yet, and done by the same command: {'; '.join(missing)}." if missing else "")
    if asked.steps is None:
        target = record("image_to_image_trade_off", {"rows": rows, "hypervolume": volumes(rows)}, text)
        plot(rows, target.with_suffix(".png"))
        with target.with_suffix(".md").open("a") as told:
            told.write(f"\n![A line per method: what it costs the rest, and what is left]({target.stem}.png)\n")
    else:
        say(text)


if __name__ == "__main__":
    main()
