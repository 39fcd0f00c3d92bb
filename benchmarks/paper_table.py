"""The table of Adapt-then-Unlearn on its own terms, with the rows of this project: PUL, FID and Ret-FID on MNIST.

python benchmarks/paper_table.py FOLDER --kept FOLDER                # all that is not kept yet, then the table
python benchmarks/paper_table.py FOLDER --kept FOLDER --seeds 0      # every row once
python benchmarks/paper_table.py FOLDER --kept FOLDER --rows         # trains nothing: the table of what there is

Every run is a process of its own and kept; one that is kept is not done again, and one that was stopped begins anew
(a reference goes on). The parent is that of `pretrain_generators.py`. Every row is measured on the same latents, by
the same judge, which no training has asked, and against the same images of the test split:

    PUL       (n_before - n_after) / n_before, n being latents whose image the judge calls the class
    FID       between all images of the row and the test split without the class, on the judge's features
    Ret-FID   the same, between the row and a generator retrained without the class, in place of the test split

each with 95 % intervals of one run on the chance of latents and images: exact for PUL; for either FID a jackknife's, of
what it exceeds the value of perfect images at the same counts (its floor) by. Mean and standard deviation are over the
seeds of unlearning; parent and reference have one seed. Samples seen are the images that stand for real ones in the
steps taken, repetitions counted, as for training from scratch; what a method draws to choose from is in its seconds.
Not every row is given the same: the redactions and retraining read real training images, all others the parent's own.
Rejection sampling leaves the model as it is and drops what the oracle calls the class: no candidate, but what a
candidate is worth is to be seen beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from generators import (
    FEATURED,
    MEASURE_SEED,
    RECIPES,
    Arm,
    Bench,
    NotThere,
    Row,
    Seen,
    common_arguments,
    each_in_its_process,
)
from recording import record

from expunge import methods
from expunge.measure.distances import fid, fid_excess
from expunge.measure.proportions import Estimate, PairedCounts, clopper_pearson, pul
from expunge.methods.training import in_parts

REAL = ("forget", "retain", "negative", "positive", "oracle")
ARMS = {
    "fine-tune": Arm("fine_tune"),
    "EWC": Arm("fine_tune", "ewc"),
    "extrapolation": Arm("extrapolation"),
    "NL2": Arm("adapt_then_unlearn", "paper", {"repulsion": "nl2"}),
    "IL2": Arm("adapt_then_unlearn", "paper", {"repulsion": "il2"}),
    "EL2": Arm("adapt_then_unlearn", "paper", {"repulsion": "el2"}),
    "redaction, data": Arm("data_redaction", "paper", {"variant": "data"}, REAL),
    "redaction, validity": Arm("data_redaction", "paper", {"variant": "validity"}, REAL),
    "redaction, classifier": Arm("data_redaction", "paper", {"variant": "classifier"}, REAL),
    "the project's own": Arm("adapt_then_unlearn", "default"),
}
FIXED = ("parent", "retrain", "rejection sampling")  # no seed of unlearning
ROWS = ("parent", "retrain", "rejection sampling", *ARMS)


def run(bench: Bench, row: str, unwanted: int, seed: int) -> Row:
    """Makes what a row needs, or finds it kept, and how long it took."""
    if row in ARMS:
        gan, facts = bench.candidate(ARMS[row], unwanted, seed)
    else:
        gan, facts = bench.reference(unwanted) if row == "retrain" else bench.parent()
    bench.classifier("oracle")
    bench.test_seen()
    bench.drawn(gan, facts, FEATURED)
    if row == "rejection sampling":
        called_by_oracle(bench)
    return {"seconds": facts["seconds"]}


def called_by_oracle(bench: Bench) -> np.ndarray:
    """The class that the oracle sees in the parent's image of each latent that is measured."""
    oracle, oracle_facts = bench.classifier("oracle")
    parent, facts = bench.parent()

    def look() -> Seen:
        latents = parent.draw_latents(FEATURED, torch.Generator().manual_seed(MEASURE_SEED))
        sure, named = in_parts(lambda part: oracle(parent(part)), latents).softmax(dim=1).max(dim=1)
        return Seen(np.empty((0, 0), np.float32), named.numpy(), sure.numpy())

    return bench.seen({"oracle": oracle_facts["sha256"], "weights": facts["sha256"], "seed": MEASURE_SEED}, look).named


# ------------------------------------------------------------------------------------------------ figures


def figures(bench: Bench, row: str, unwanted: int, seed: int) -> Row:
    """All that is said of one run; NotThere if it has not been done."""
    parent, parent_facts = bench.parent()
    if row in ARMS:
        gan, facts = bench.candidate(ARMS[row], unwanted, seed)
    elif row == "retrain":
        gan, facts = bench.reference(unwanted)
    else:
        gan, facts = parent, parent_facts
    before, after = bench.drawn(parent, parent_facts, FEATURED), bench.drawn(gan, facts, FEATURED)
    shown = np.ones(FEATURED, dtype=bool)
    if row == "rejection sampling":
        shown = called_by_oracle(bench) != unwanted
    labels = bench.test.labels
    real, strata = bench.test_seen().features[labels != unwanted], labels[labels != unwanted]
    counts = PairedCounts.of(before.named == unwanted, (after.named == unwanted) & shown)
    found: Row = {
        "row": row, "class": unwanted, "seed": seed,
        "pul": plain(pul(counts)) if counts.before else None,
        "residual": residual(after.named[shown] == unwanted),
        "fid": fid(after.features[shown], real),
        "fid_above": plain(fid_excess(after.features[shown], real, real_strata=strata)),
        "ret_fid": None, "ret_fid_above": None,
        "samples": facts["samples"] if row in ARMS or row == "retrain" else 0,
        "seconds": facts.get("adapt_s", 0.0) + facts["unlearn_s"] if row in ARMS else (
            facts["seconds"] if row == "retrain" else 0.0),
        "drawn": facts.get("drawn"), "peak_mb": facts.get("peak_mb"), "weights": facts["sha256"],
    }
    if row != "retrain":
        try:
            reference = bench.drawn(*bench.reference(unwanted), FEATURED).features
        except NotThere:
            return found
        found["ret_fid"] = fid(after.features[shown], reference)
        found["ret_fid_above"] = plain(fid_excess(after.features[shown], reference))
    return found


def plain(estimate: Estimate) -> Row:
    """An estimate as it is written down."""
    return {"value": estimate.value, **estimate.interval.model_dump(mode="json")}


def residual(hits: np.ndarray) -> Row:
    """The share of images that the judge still calls the class."""
    interval = clopper_pearson(int(hits.sum()), len(hits))
    return {"value": float(hits.mean()), **interval.model_dump(mode="json")}


# -------------------------------------------------------------------------------------------------- table


def table(rows: list[Row], classes: list[int], pretraining: Row | None) -> str:
    """The rows as Markdown, one table per class, and what is missing."""
    known, lines = methods.available(), []
    for unwanted in classes:
        lines += ["", f"## Class {unwanted}", "",
                  "| row | seeds | PUL, % (95 %) | residual rate, % (95 %) | FID | above its floor (95 %) | Ret-FID |"
                  " above its floor (95 %) | samples seen | seconds |", "|" + "---|" * 10]
        missing = []
        for name in ROWS:
            found = [row for row in rows if row["row"] == name and row["class"] == unwanted]
            if found:
                lines.append(line(name, found))
            elif name in ARMS and ARMS[name].method not in known:
                missing.append(f"{name} (there is no method {ARMS[name].method})")
            else:
                missing.append(f"{name} (not run)")
        lines += ["", f"Missing: {', '.join(missing)}."] if missing else []
    if pretraining is not None:
        lines += ["", f"The parent took {pretraining['samples']:,} samples and {pretraining['seconds']:.0f} seconds."]
    return "\n".join(lines)


def line(name: str, rows: list[Row]) -> str:
    """One row of the table."""
    def spread(values: list[float], digits: int) -> str:
        return f"{np.mean(values):.{digits}f}" + (f" ± {np.std(values):.{digits}f}" if len(values) > 1 else "")

    def hull(key: str, digits: int, times: float = 1.0) -> str:
        given = [row[key] for row in rows if row[key] is not None]
        if not given:
            return ""
        return (f"({times * min(each['lower'] for each in given):.{digits}f} to"
                f" {times * max(each['upper'] for each in given):.{digits}f})")

    def mean(key: str, digits: int, times: float = 1.0) -> str:
        given = [row[key] for row in rows if row[key] is not None]
        if not given:
            return "–"
        return spread([times * (each["value"] if isinstance(each, dict) else each) for each in given], digits)

    return (f"| {name} | {'–' if name in FIXED else len(rows)} | {mean('pul', 2, 100)} {hull('pul', 2, 100)} |"
            f" {mean('residual', 3, 100)} {hull('residual', 3, 100)} |"
            f" {mean('fid', 3)} | {mean('fid_above', 3)} {hull('fid_above', 3)} |"
            f" {mean('ret_fid', 3)} | {mean('ret_fid_above', 3)} {hull('ret_fid_above', 3)} |"
            f" {np.mean([row['samples'] for row in rows]):,.0f} | {mean('seconds', 0)} |")


def plan(asked: Any) -> Iterator[tuple[str, int, int]]:
    """Every run of the table: seeds outermost, so that after a third of the time every row has been seen once."""
    known = methods.available()
    for seed in asked.seeds:
        for unwanted in asked.classes:
            for row in ROWS:
                if row in asked.rows and (row not in FIXED or seed == asked.seeds[0]) and (
                        row not in ARMS or ARMS[row].method in known):
                    yield row, unwanted, seed


def main() -> None:
    """Does the runs that are missing, and writes the table."""
    parser = common_arguments(__doc__)
    parser.add_argument("--dataset", choices=("mnist", "fashion"), default="mnist")
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS, metavar="ROW", help=", ".join(ROWS))
    asked = parser.parse_args()
    if asked.one:
        row, unwanted, seed = asked.one
        print(json.dumps(run(Bench.of(asked, asked.dataset), row, int(unwanted), int(seed))))
        return

    bench = Bench.of(asked, asked.dataset, looks=True)

    def kept(key: tuple[str, int, int]) -> bool:
        try:
            run(bench, *key)
        except NotThere:
            return False
        return True

    wanted = [key for key in plan(asked) if not kept(key)]
    if wanted:
        # First what all others stand on, lest two runs make it at the same time.
        for _ in each_in_its_process([("parent", asked.classes[0], asked.seeds[0])], 1, asked.threads):
            pass
        for _ in each_in_its_process([key for key in wanted if key[0] != "parent"], asked.jobs, asked.threads):
            pass
    rows = []
    for seed in asked.seeds:
        for unwanted in asked.classes:
            for name in ROWS:
                if name not in FIXED or seed == asked.seeds[0]:
                    try:
                        rows.append(figures(bench, name, unwanted, seed))
                    except NotThere:
                        continue
    facts = bench.parent()[1] if rows else None
    recipe = RECIPES[asked.recipe]
    told = [f"- {asked.dataset}; parent: {asked.recipe} ({recipe.architecture} {recipe.config})",
            f"- latents: {FEATURED:,}, seed {MEASURE_SEED}; threads: {asked.threads} each, {asked.jobs} runs at a time",
            *([f"- **cut to {asked.steps} steps, to try the command out**"] if asked.steps else [])]
    text = "\n".join([*told, table(rows, asked.classes, facts)])
    if asked.steps:
        print(text)
    else:
        record(f"paper_table-{asked.dataset}-{asked.recipe}", {
            "setting": {"recipe": asked.recipe, "dataset": asked.dataset, "threads": asked.threads, "jobs": asked.jobs,
                        "latents": FEATURED, "measure_seed": MEASURE_SEED, "parent": facts,
                        "arms": {name: {"method": arm.method, "preset": arm.preset, **arm.changed,
                                        "given": list(arm.given)} for name, arm in ARMS.items()}},
            "rows": rows}, text)


if __name__ == "__main__":
    main()
