"""How good are generators trained on MNIST and on Fashion-MNIST, and what does training them take?

python benchmarks/pretrain_generators.py FOLDER --kept FOLDER
python benchmarks/pretrain_generators.py FOLDER --kept FOLDER --recipe stylegan2-32 --datasets mnist

Trains, on the train split only, the recipe's generator, a judge and an oracle for either data set, each in a process of
its own, and keeps them for the other benchmarks. A generator that was stopped goes on from where it was.

FID is measured on the judge's features, 10,000 generated images against the 10,000 of the test split; the floor is that
of as many images of the train split that the judge has not learned on, against the same. An image is doubtful when the
judge is less sure of it than 90 %.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from generators import CLASSES, FEATURED, RECIPES, Bench, Row, common_arguments, each_in_its_process, generated, real
from recording import record

from expunge.measure.distances import fid, fid_excess
from expunge.measure.shares import class_shares
from expunge.models.supervised import Labelled

DOUBTFUL = 0.9


def train(bench: Bench, what: str) -> Row:
    """Trains one of the three, if it is not there yet."""
    _, facts = bench.parent() if what == "parent" else bench.classifier("judge" if what == "judge" else "oracle")
    return {"seconds": facts["seconds"]}


def measure(bench: Bench) -> Row:
    """What the three are worth."""
    judge, judge_facts = bench.classifier("judge")
    oracle, oracle_facts = bench.classifier("oracle")
    parent, facts = bench.parent()
    torch.set_num_threads(bench.threads)
    test, drawn = real(judge, bench.test), generated(parent, judge, FEATURED)
    unseen = bench.halves()["oracle"][:FEATURED]
    others = real(judge, Labelled(bench.train.pixels[unseen], bench.train.labels[unseen]))
    above = fid_excess(drawn.features, test.features, real_strata=bench.test.labels)
    names = CLASSES[bench.dataset]
    accuracy = {"judge": test.named, "oracle": real(oracle, bench.test).named}
    return {
        "dataset": bench.dataset, "recipe": bench.recipe, "weights": facts["sha256"],
        "parameters": {name: sum(theta.numel() for theta in getattr(parent, name).parameters())
                       for name in ("generator", "discriminator")},
        "samples": facts["samples"], "seconds": facts["seconds"],
        "judge_seconds": judge_facts["seconds"], "oracle_seconds": oracle_facts["seconds"],
        "accuracy": {name: float((named == bench.test.labels).mean()) for name, named in accuracy.items()},
        "fid": fid(drawn.features, test.features), "floor": fid(others.features, test.features),
        "fid_above_floor": {"value": above.value, **above.interval.model_dump(mode="json")},
        "shares": dict(zip(names, class_shares(drawn.named, len(names)), strict=True)),
        "test_shares": dict(zip(names, class_shares(test.named, len(names)), strict=True)),
        "doubtful": float((drawn.sure < DOUBTFUL).mean()), "test_doubtful": float((test.sure < DOUBTFUL).mean()),
    }


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| data set | parameters, G + D | samples seen | minutes | images/s | FID | real against real |"
             " FID above its floor (95 %) | shares of classes, least to most | doubtful (real) | judge right |",
             "|" + "---|" * 11]
    for row in rows:
        above, shares = row["fid_above_floor"], np.array(list(row["shares"].values()))
        lines.append(
            f"| {row['dataset']} | {row['parameters']['generator']:,} + {row['parameters']['discriminator']:,} |"
            f" {row['samples']:,} | {row['seconds'] / 60:.1f} | {row['samples'] / row['seconds']:,.0f} |"
            f" {row['fid']:.3f} | {row['floor']:.3f} |"
            f" {above['value']:.3f} ({above['lower']:.3f} to {above['upper']:.3f}) |"
            f" {shares.min():.1%} to {shares.max():.1%} | {row['doubtful']:.1%} ({row['test_doubtful']:.1%}) |"
            f" {row['accuracy']['judge']:.2%} |")
    return "\n".join(lines)


def main() -> None:
    """Both data sets, and the table."""
    parser = common_arguments(__doc__)
    parser.add_argument("--datasets", nargs="+", choices=CLASSES, default=list(CLASSES))
    asked = parser.parse_args()
    if asked.one:
        dataset, what = asked.one
        bench = Bench.of(asked, dataset)
        print(json.dumps(measure(bench) if what == "measure" else train(bench, what)))
        return
    trainings = [(dataset, what) for dataset in asked.datasets for what in ("parent", "judge", "oracle")]
    for _ in each_in_its_process(trainings, asked.jobs, asked.threads):
        pass
    rows = [row for _, row in each_in_its_process([(dataset, "measure") for dataset in asked.datasets], asked.jobs,
                                                  asked.threads)]
    rows.sort(key=lambda row: asked.datasets.index(row["dataset"]))
    recipe = RECIPES[asked.recipe]
    told = [f"- recipe: {asked.recipe} ({recipe.architecture} {recipe.config})", f"- training: {recipe.training}",
            f"- threads: {asked.threads} each, {asked.jobs} trainings at a time", *(
                ["- **cut short, to try the command out**"] if asked.steps else [])]
    if asked.steps:
        print("\n".join([*told, "", table(rows)]))
    else:
        record(f"pretrain_generators-{asked.recipe}", {"setting": {"recipe": asked.recipe, "threads": asked.threads,
                                                   "jobs": asked.jobs}, "rows": rows},
               "\n".join([*told, "", table(rows)]))


if __name__ == "__main__":
    main()
