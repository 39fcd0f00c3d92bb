"""What does forgetting a class cost beside retraining without it, on one machine, in one run?

python benchmarks/cost.py FOLDER --kept FOLDER [--preset brief] [--dataset mnist] [--unwanted 8] [--repeats 4]

The parent and the oracle are those of `pretrain_generators.py`, found in the kept folder or made first. Everything
else is done anew, one process after the other, for nothing else to be measured than the work: half of the repeats
(seeds of their own), then retraining without the class, then the other half. Leave the machine alone meanwhile.

Seconds are of both stages, as for retraining of its steps; curation, by which the parent's own samples come to be, is
told apart. Samples seen are the images that stand for real ones in the steps taken, repetitions counted. What the
results are worth is in `goal.py`.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from generators import CLASSES, Arm, Bench, Row, common_arguments, each_in_its_process
from recording import record


def borrowed(bench: Bench, folder: Path) -> Bench:
    """The same bench on a fresh folder that holds nothing but the parent and the oracle."""
    bench.parent()
    bench.classifier("oracle")
    for kind in (f"{bench.recipe}-parent", "oracle"):
        for file in bench.kept.glob(f"{bench.dataset}-{kind}-*"):
            shutil.copy(file, folder)
    return replace(bench, kept=folder)


def run(bench: Bench, preset: str, unwanted: int, what: str, seed: int) -> Row:
    """One retraining, or one unlearning; what it took."""
    if what == "retraining":
        _, facts = bench.reference(unwanted)
        return {"seconds": facts["seconds"], "samples": facts["samples"]}
    _, facts = bench.candidate(Arm("adapt_then_unlearn", preset), unwanted, seed)
    stages = facts["adapt_s"] + facts["unlearn_s"]
    return {"seconds": stages, "samples": facts["samples"], "curation": facts["seconds"] - stages,
            "drawn": facts["drawn"], "peak_mb": facts["peak_mb"]}


def table(preset: str, retrained: Row, unlearned: list[Row]) -> str:
    """Both, side by side."""
    seconds = [row["seconds"] for row in unlearned]
    cheaper = [retrained["seconds"] / each for each in seconds]
    curation = statistics.median(row["curation"] for row in unlearned)
    samples = unlearned[0]["samples"]
    return "\n".join([
        "| | samples seen | seconds | curation, s | times cheaper |", "|---|---|---|---|---|",
        f"| retraining | {retrained['samples']:,} | {retrained['seconds']:.1f} | – | – |",
        f"| {preset}, median of {len(seconds)} | {samples:,} ({samples / retrained['samples']:.2%}) |"
        f" {statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) | {curation:.1f} |"
        f" {statistics.median(cheaper):.1f} ({min(cheaper):.1f} to {max(cheaper):.1f}) |"])


def main() -> None:
    """Measures all of it, and writes the table."""
    parser = common_arguments(__doc__)
    parser.add_argument("--preset", default="brief", help="of adapt_then_unlearn")
    parser.add_argument("--dataset", choices=CLASSES, default="mnist")
    parser.add_argument("--unwanted", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=4)
    asked = parser.parse_args()
    bench = Bench.of(asked, asked.dataset)
    if asked.one:
        folder, what, seed = asked.one
        print(json.dumps(run(replace(bench, kept=Path(folder)), asked.preset, asked.unwanted, what, int(seed))))
        return
    with tempfile.TemporaryDirectory() as folder:
        borrowed(bench, Path(folder))
        order = [("unlearning", seed) for seed in range(asked.repeats)]
        order.insert(len(order) // 2, ("retraining", 0))
        done = {key[1:]: row for key, row in each_in_its_process([(folder, *each) for each in order], 1, asked.threads)}
    if len(done) < len(order):
        raise SystemExit("a run failed: see above")
    retrained = done.pop(("retraining", 0))
    told = [f"- {asked.dataset}, class {CLASSES[asked.dataset][asked.unwanted]}; parent: {asked.recipe};"
            f" threads: {asked.threads}; one process at a time",
            *([f"- **cut to {asked.steps} steps, to try the command out**"] if asked.steps else [])]
    text = "\n".join([*told, "", table(asked.preset, retrained, list(done.values()))])
    if asked.steps:
        print(text)
    else:
        record(f"cost-{asked.recipe}", {
            "setting": {"preset": asked.preset, "recipe": asked.recipe, "dataset": asked.dataset,
                        "unwanted": asked.unwanted, "threads": asked.threads},
            "retraining": retrained, "unlearning": list(done.values())}, text)


if __name__ == "__main__":
    main()
