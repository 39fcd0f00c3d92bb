"""Are a few images, or a category, as unlikely to a flow as asked, and is everything else as it was? MNIST, Glow.

python benchmarks/flow_forgetting.py FOLDER --kept KEPT                      # all rows; what is kept is not done again
python benchmarks/flow_forgetting.py FOLDER --kept KEPT --rows 4 --seeds 0
python benchmarks/flow_forgetting.py FOLDER --kept KEPT --table              # writes the results that are there
python benchmarks/flow_forgetting.py FOLDER --kept KEPT --steps 20           # to try the command out

A Glow learns the train split (`flows.py` says which images). Each row tames it: 1, 4, 8 or 15 training images of one
class, chosen by the seed, or the whole class. The settings were chosen on another class and seed, which are no row. It
is measured by code that training does not use, on other points of the bins than any it saw:

    within      forget images whose z = (b - mu) / sigma is within epsilon of delta; b is the mean of ten points, mu and
                sigma are of 10,000 retained training images under the same model
    bits/dim    of the held-out images that are to stay, relative to the parent's, on the same points: paired interval;
                and the median of single images' ratios, on which a few outliers have no say
    KID ratio   of 10,000 draws to the test split in a judge's features, candidate over parent, from the same latents;
                the interval is Fieller's from paired half-samples
    seen        images in updates, repetitions counted, as a share of those of the pretraining; and with everything that
                was only looked at: by the parent, for statistics, before stopping
    same class  mean z of held-out images of the class; neighbours: of the held-out images nearest to the forget images
    drawn       share of draws that the judge takes for the class
    quantile    share of held-out images that are to stay and less likely, mean over the forget images
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from flows import CONFIG, DRAWS, MEASURE_SEED, TRAINING, Flows, likelihoods, ratio, relative
from generators import Made, NotThere, Row, Seen, Watched, common_arguments, digest, each_in_its_process, say
from numpy.typing import NDArray
from recording import record

from expunge.digests import write_atomically
from expunge.measure.distances import compare_kid, fid, kid, unit_scale
from expunge.methods import find, taming_flow
from expunge.methods.training import Material, Samples
from expunge.models.flow import Flow

CLASS = {"mnist": 8, "fashion": 6}
ROWS = {  # how many images, and by which preset
    "1": (1, "held"), "4": (4, "held"), "8": (8, "held"), "15": (15, "held"),
    "1, default": (1, "default"), "4, default": (4, "default"), "8, default": (8, "default"),
    "15, default": (15, "default"),
    "category": (None, "category"),
}
STATISTICS, POINTS = 10_000, 10
BITS_GOAL, KID_GOAL, SEEN_GOAL, STEPS_GOAL = 0.005, 1.05, 0.01, 800


class Taming(Flows):
    """What the rows have in common."""

    def chosen(self, row: str, seed: int) -> NDArray[np.bool_]:
        """Which training images a row forgets."""
        of_class = self.train.labels == CLASS[self.dataset]
        count = ROWS[row][0]
        if count is None:
            return of_class
        rows = np.flatnonzero(of_class)
        order = np.random.default_rng([seed, MEASURE_SEED]).permutation(rows)
        return np.isin(np.arange(len(of_class)), order[:count])

    def stays(self, row: str) -> NDArray[np.bool_]:
        """Which test images a row is to leave as they are: all of them, or those of the other classes."""
        of_class = self.test.labels == CLASS[self.dataset]
        return ~of_class if row == "category" else np.ones(len(of_class), bool)

    def tamed(self, row: str, seed: int, changed: Row | None = None) -> tuple[Flow, Row]:
        """The candidate of a row, and the facts of it."""
        parent, parent_facts = self.flow()
        method = find("taming_flow", "flow")
        short = {} if self.steps is None else {"steps": self.steps}
        params = method.parameters(ROWS[row][1], {**(changed or {}), **short})

        def make(session: Watched) -> Made:
            images, _ = self.tensors("train")
            lost = torch.from_numpy(self.chosen(row, seed))
            material = Material(forget=Samples(images[lost]), retain=Samples(images[~lost]))
            began, processor = time.perf_counter(), time.process_time()
            with counted() as passed:
                adaptation = method.adapt(parent, material, params, session)
                state = method.unlearn(parent, adaptation, material, params, session)
            return state, self.flow_spec(), {
                "unlearn_s": time.perf_counter() - began, "processor_s": time.process_time() - processor,
                "updates": session.done, "samples": passed["trained"], "looked": passed["looked"]}

        made_from = {"parent": parent_facts["sha256"], "params": params.model_dump(mode="json"), "row": row,
                     "class": CLASS[self.dataset]}
        model, facts = self.keep(f"tamed-{row.replace(', ', '-')}", made_from, seed, make, resumable=False)
        return cast(Flow, model), facts | {"params": params.model_dump(mode="json")}

    # ---------------------------------------------------------------- measuring

    def parents(self) -> Row:
        """How good the parent is: bits/dim and draws, beside real images of the train split."""
        parent, facts = self.flow()
        judge, judge_facts = self.classifier("judge")
        drawn, test = self.drawn_by(parent, facts), self.test_seen()
        rows = np.random.default_rng(MEASURE_SEED).permutation(len(self.train))[:DRAWS]
        key = {"judge": judge_facts["sha256"], "real": self.dataset, "split": "train", "rows": DRAWS}
        train = self.seen(key, lambda: Seen.of(judge, lambda part: part, self.tensors("train")[0][rows]))
        scale = unit_scale(test.features)
        accuracy = float((test.named == self.test.labels).mean())
        found = {name: [fid(some.features, test.features),
                        kid(some.features * scale, test.features * scale).value]
                 for name, some in (("draws", drawn), ("train", train))}
        return {"dataset": self.dataset, "bits_test": float(self.bits(parent, facts, "test").mean()),
                "seconds": facts["seconds"], "samples": facts["samples"], "judge_accuracy": accuracy, **found}

    def measured(self, row: str, seed: int, changed: Row | None = None) -> Row:
        """A row of the table; kept by the weights that it is of."""
        candidate, facts = self.tamed(row, seed, changed)
        parent, parent_facts = self.flow()
        key = {"weights": facts["sha256"], "parent": parent_facts["sha256"], "row": row, "seed": seed, "draws": DRAWS,
               "statistics": STATISTICS, "points": POINTS, "measure": MEASURE_SEED, "params": facts["params"]}
        file = self.kept / f"flow-row-{digest(key)}.json"
        if not file.exists():
            if self.looks:
                raise NotThere(file.name)
            torch.set_num_threads(self.threads)
            found = self.look(row, seed, (parent, parent_facts), (candidate, facts))
            write_atomically(file, (json.dumps(found) + "\n").encode())
        share = facts["samples"] / parent_facts["samples"]
        before, after = self.bits(parent, parent_facts, "test"), self.bits(candidate, facts, "test")
        return {"dataset": self.dataset, "row": row, "seed": seed, "steps": facts["updates"], "seen": share,
                "seen_all": (facts["samples"] + facts["looked"]) / parent_facts["samples"],
                "bits_median": float(np.median((after / before)[self.stays(row)]) - 1),
                "processor_s": facts["processor_s"], "params": facts["params"], **json.loads(file.read_text())}

    def look(self, row: str, seed: int, *both: tuple[Flow, Row]) -> Row:
        """Everything that is measured of parent and candidate."""
        lost = self.chosen(row, seed)
        params = both[1][1]["params"]
        random = np.random.default_rng([seed, 1, MEASURE_SEED])
        statistics = random.permutation(np.flatnonzero(~lost))[:STATISTICS]
        images, _ = self.tensors("train")
        held, held_labels = self.tensors("test")
        same, stays = held_labels.numpy() == CLASS[self.dataset], self.stays(row)
        asked = np.flatnonzero(lost)
        near = nearest(images[torch.from_numpy(asked[:100])], held, stays)
        found: Row = {"forget": len(asked)}
        of_held = []
        for name, (flow, facts) in zip(("before", "after"), both, strict=True):
            known = likelihoods(flow, points_of(flow, images[statistics], seed, 1))
            mean, std = float(known.mean()), float(known.std(ddof=1))
            forget = np.mean([likelihoods(flow, points_of(flow, images[asked], seed, 2 + k)) for k in range(POINTS)],
                             axis=0)
            of_test = self.bits(flow, facts, "test")
            of_held.append(of_test[stays])
            z = (forget - mean) / std
            found[name] = {
                "mean": mean, "std": std, "z": z.tolist() if len(z) <= 15 else None,
                "z_mean": float(z.mean()), "z_least": float(z.min()), "z_most": float(z.max()),
                "within": int((np.abs(z - params["delta"]) <= params["epsilon"] * params["delta"]).sum()),
                "same": float((of_test[same].mean() - mean) / std),
                "near": float((of_test[near].mean() - mean) / std),
                "quantile": float(np.mean([(of_test[stays] > one).mean() for one in forget]))}
        found["bits"] = relative(*of_held)
        drawn = [self.drawn_by(flow, facts) for flow, facts in both]
        real = self.test_seen()
        kept = [np.ones(DRAWS, bool) if row != "category" else one.named != CLASS[self.dataset] for one in drawn]
        scale = unit_scale(real.features[stays])
        compared = compare_kid(drawn[0].features * scale, drawn[1].features * scale, real.features[stays] * scale,
                               kept_before=kept[0], kept_after=kept[1])
        found["kid"] = [compared.before.value, compared.after.value, *ratio(compared)]
        found["fid"] = [fid(one.features[k], real.features[stays]) for one, k in zip(drawn, kept, strict=True)]
        found["share"] = [float((one.named == CLASS[self.dataset]).mean()) for one in drawn]
        return found


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Counts the images that pass through any flow: in updates, and without gradients."""
    passed, plain = {"trained": 0, "looked": 0}, taming_flow.bits

    def bits(flow: Flow, points: torch.Tensor) -> torch.Tensor:
        passed["trained" if torch.is_grad_enabled() else "looked"] += len(points)
        return plain(flow, points)

    taming_flow.bits = bits
    try:
        yield passed
    finally:
        taming_flow.bits = plain


def points_of(flow: Flow, images: torch.Tensor, seed: int, purpose: int) -> torch.Tensor:
    """Fresh points of images, the same for parent and candidate."""
    return flow.points(flow.levels(images), torch.Generator().manual_seed(MEASURE_SEED + 1_000 * seed + purpose))


def nearest(images: torch.Tensor, others: torch.Tensor, allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """For each image the place of the nearest other one, by pixels, among those that are allowed."""
    away = torch.cdist(images.flatten(1), others.flatten(1))
    away[:, torch.from_numpy(~allowed)] = math.inf
    return away.argmin(dim=1).numpy()


# ---------------------------------------------------------------- the table


def table(parents: list[Row], rows: list[Row]) -> str:
    """Every row, and which parts of the goal it meets."""
    lines = [
        f"Goal, per row: every forget image within epsilon; bits/dim within {BITS_GOAL:.1%} (whole interval); upper",
        f"end of the KID ratio at most {KID_GOAL}; at most {SEEN_GOAL:.0%} of the pretraining's images seen in updates "
        f"and at most {STEPS_GOAL} steps."]
    for parent in parents:
        here = [row for row in rows if row["dataset"] == parent["dataset"]]
        lines += ["", f"## {parent['dataset']}, class {CLASS[parent['dataset']]}", "",
                  f"The parent saw {parent['samples']:,} images in {parent['seconds'] / 60:.1f} minutes of a "
                  f"busy machine; "
                  f"{parent['bits_test']:.3f} bits/dim on the test split. Its draws: FID {parent['draws'][0]:.2f}, KID "
                  f"{parent['draws'][1]:.4f}; as many images of the train split: FID {parent['train'][0]:.2f}, KID "
                  f"{parent['train'][1]:.4f}. The judge is right on {parent['judge_accuracy']:.1%} of the test split."]
        for preset in dict.fromkeys(ROWS[row["row"]][1] for row in here):
            params = next(row["params"] for row in here if ROWS[row["row"]][1] == preset)
            lines += ["", f"Preset `{preset}`: " + ", ".join(f"{name} {params[name]:g}" for name in (
                "delta", "epsilon", "alpha", "gamma", "rate", "batch", "averaging")) + "."]
        if here:
            lines += [
                "", "| images | seed | steps | seen | seen, with looks | within | z before | z after (least to most) |"
                " bits/dim | its median | KID ratio | FID before → after | same class z | neighbours z | quantile |"
                " drawn | processor s | misses |", "|" + "---|" * 18]
        lines += [_line(row) for row in here]
    return "\n".join(lines)


def _line(row: Row) -> str:
    before, after = row["before"], row["after"]
    change, low, high = (f"{value:+.2%}" for value in row["bits"])
    return (f"| {row['row']} | {row['seed']} | {row['steps']} | {row['seen']:.2%} | {row['seen_all']:.1%} |"
            f" {after['within']} of {row['forget']} | {before['z_mean']:.2f} |"
            f" {after['z_mean']:.2f} ({after['z_least']:.2f} to {after['z_most']:.2f}) |"
            f" {change} ({low} to {high}) | {row['bits_median']:+.2%} |"
            f" {row['kid'][2]:.3f} ({row['kid'][3]:.3f} to {row['kid'][4]:.3f}) |"
            f" {row['fid'][0]:.2f} → {row['fid'][1]:.2f} | {before['same']:.2f} → {after['same']:.2f} |"
            f" {before['near']:.2f} → {after['near']:.2f} | {before['quantile']:.3f} → {after['quantile']:.3f} |"
            f" {row['share'][0]:.1%} → {row['share'][1]:.1%} |"
            f" {row['processor_s']:.0f} | {missed(row)} |")


def missed(row: Row) -> str:
    """The parts of the goal that a row does not meet. A category has no such stop: its images are not counted."""
    parts = {"within": row["row"] == "category" or row["after"]["within"] == row["forget"],
             "bits/dim": max(abs(end) for end in row["bits"][1:]) <= BITS_GOAL,
             "KID": row["kid"][4] <= KID_GOAL, "seen": row["seen"] <= SEEN_GOAL, "steps": row["steps"] <= STEPS_GOAL}
    return ", ".join(name for name, met in parts.items() if not met) or "none"


def main() -> None:
    """Makes what is missing, each run in a process of its own, and writes the table."""
    parser = common_arguments(__doc__ or "")
    parser.add_argument("--datasets", nargs="+", choices=CLASS, default=["mnist"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="write what is there, and make nothing")
    parser.set_defaults(jobs=1)
    asked = parser.parse_args()
    if asked.one:
        dataset, row, seed = asked.one
        bench = cast(Taming, Taming.of(asked, dataset))
        print(json.dumps(bench.parents() if row == "parent" else bench.measured(row, int(seed))))
        return
    plan = [(dataset, row, seed) for dataset in asked.datasets for seed in asked.seeds for row in asked.rows]
    first = [(dataset, "parent", 0) for dataset in asked.datasets]
    parents, rows = [], []
    if asked.table:
        for dataset, row, seed in [*first, *plan]:
            bench = cast(Taming, Taming.of(asked, dataset, looks=True))
            try:
                (parents if row == "parent" else rows).append(
                    bench.parents() if row == "parent" else bench.measured(row, seed))
            except NotThere:
                say(f"{dataset} {row} {seed}: not there yet")
    else:
        parents = [row for _, row in each_in_its_process(first, 1, asked.threads)]
        rows = [row for _, row in each_in_its_process(plan, asked.jobs, asked.threads)]
    if not parents:
        raise SystemExit("there is nothing to tell yet")
    order = {(dataset, row): place for place, (dataset, row) in enumerate(
        (dataset, row) for dataset in asked.datasets for row in asked.rows)}
    rows.sort(key=lambda row: (order[row["dataset"], row["row"]], row["seed"]))
    if asked.steps is None:
        record("flow_forgetting", {"config": CONFIG, "training": TRAINING, "parents": parents, "rows": rows},
               table(parents, rows))
    else:
        print(table(parents, rows))


if __name__ == "__main__":
    main()
