"""Does one setting, frozen beforehand, forget every class of MNIST and of Fashion-MNIST as well as retraining does?

python benchmarks/goal.py FOLDER --kept FOLDER                             # all twenty classes
python benchmarks/goal.py FOLDER --kept FOLDER --datasets mnist --classes 0 1
python benchmarks/goal.py FOLDER --kept FOLDER --preset default --classes  # trains nothing: what there is

For each class four runs, each a process of its own and kept: the reference (retrained without the class), the setting
(a preset of adapt_then_unlearn), and the rows EWC and EL2 of `paper_table.py`; one seed each. A class reaches all if

    rate      the judge calls no more images the class than of the reference's: the upper end of the 95 % interval of
              the difference of the two rates (exact, on the same latents) is at most 0.2 points
    FID       is better than EWC's and than EL2's: the 95 % intervals of both differences lie below 0
    Ret-FID   likewise, against the reference's images in place of the test split's
    samples   seen are at most 1 % of those that training from scratch sees

Seconds are told as each process took them, beside whatever else ran: what it costs is measured by `cost.py`, alone.
FID as in `paper_table.py`: all images of the row against the test split without the class, on the judge's features.
The difference of two rows is on the same latents, with a paired jackknife's interval. Where a class misses, the table
says what.
"""

from __future__ import annotations

import json

from generators import (
    CLASSES,
    FEATURED,
    MEASURE_SEED,
    Arm,
    Bench,
    NotThere,
    Row,
    common_arguments,
    each_in_its_process,
)
from paper_table import ARMS, plain
from recording import record

from expunge.measure.distances import fid, fid_difference
from expunge.measure.proportions import PairedCounts, paired_difference

RIVALS = ("EWC", "EL2")
RATE_MARGIN, SAMPLES_SHARE = 0.002, 0.01
LATENTS = 30_000  # at 10,000 the interval of a difference of rates is as wide as the margin
SEED = 0


def arms(preset: str) -> dict[str, Arm]:
    """The setting and its rivals."""
    return {"setting": Arm("adapt_then_unlearn", preset), **{name: ARMS[name] for name in RIVALS}}


def latents(bench: Bench) -> int:
    """On how many latents all is measured; fewer when the command is only tried out."""
    return LATENTS if bench.steps is None else FEATURED


def run(bench: Bench, preset: str, row: str, unwanted: int) -> Row:
    """Makes a run, or finds it kept, and looks at it."""
    if row in ("parent", "reference"):
        gan, facts = bench.parent() if row == "parent" else bench.reference(unwanted)
    else:
        gan, facts = bench.candidate(arms(preset)[row], unwanted, SEED)
    bench.classifier("oracle")
    bench.test_seen()
    bench.drawn(gan, facts, latents(bench))
    return {"seconds": facts["seconds"]}


def figures(bench: Bench, preset: str, unwanted: int) -> Row:
    """What a class came to; NotThere if one of its runs has not been done."""
    reference, reference_facts = bench.reference(unwanted)
    retrained = bench.drawn(reference, reference_facts, latents(bench))
    rows = {}
    for name, arm in arms(preset).items():
        gan, facts = bench.candidate(arm, unwanted, SEED)
        rows[name] = (bench.drawn(gan, facts, latents(bench)), facts)
    parent = bench.drawn(*bench.parent(), latents(bench))
    labels = bench.test.labels
    real, strata = bench.test_seen().features[labels != unwanted], labels[labels != unwanted]
    mine, facts = rows["setting"]
    rate = paired_difference(PairedCounts.of(retrained.named == unwanted, mine.named == unwanted))
    seconds = facts["adapt_s"] + facts["unlearn_s"]
    found: Row = {
        "dataset": bench.dataset, "class": unwanted, "name": CLASSES[bench.dataset][unwanted],
        "rates": {name: float((seen.named == unwanted).mean()) for name, seen in {
            "parent": parent, "reference": retrained, **{name: seen for name, (seen, _) in rows.items()}}.items()},
        "rate_difference": plain(rate),
        "fid": {name: fid(seen.features, real) for name, seen in {
            "reference": retrained, **{name: seen for name, (seen, _) in rows.items()}}.items()},
        "ret_fid": {name: fid(seen.features, retrained.features) for name, (seen, _) in rows.items()},
        "fid_difference": {name: plain(fid_difference(rows[name][0].features, mine.features, real, real_strata=strata))
                           for name in RIVALS},
        "ret_fid_difference": {name: plain(fid_difference(rows[name][0].features, mine.features, retrained.features))
                               for name in RIVALS},
        "samples": facts["samples"], "samples_share": facts["samples"] / reference_facts["samples"],
        "seconds": seconds, "retraining_seconds": reference_facts["seconds"],
        "cheaper": reference_facts["seconds"] / seconds, "drawn": facts["drawn"],
    }
    found["missed"] = [name for name, held in {
        "rate": rate.interval.upper <= RATE_MARGIN,
        "FID": all(each["upper"] < 0 for each in found["fid_difference"].values()),
        "Ret-FID": all(each["upper"] < 0 for each in found["ret_fid_difference"].values()),
        "samples": found["samples_share"] <= SAMPLES_SHARE,
    }.items() if not held]
    return found


def table(rows: list[Row], missing: list[str]) -> str:
    """The classes as Markdown."""
    lines = ["| class | rate, % : parent, reference, setting | difference, points (95 %) | FID: EWC, EL2, setting |"
             " setting - EWC (95 %) | setting - EL2 (95 %) | Ret-FID: EWC, EL2, setting | setting - EWC (95 %) |"
             " setting - EL2 (95 %) | samples seen | seconds (retraining) | misses |", "|" + "---|" * 12]
    for row in rows:
        rates, rate = row["rates"], row["rate_difference"]
        lines.append(
            f"| {row['dataset']} {row['name']} | {100 * rates['parent']:.2f}, {100 * rates['reference']:.3f},"
            f" {100 * rates['setting']:.3f} | {100 * rate['value']:.3f} ({100 * rate['lower']:.3f} to"
            f" {100 * rate['upper']:.3f}) | " + " | ".join(
                f"{row[key]['EWC']:.3f}, {row[key]['EL2']:.3f}, {row[key]['setting']:.3f} | " + " | ".join(
                    f"{each['value']:.3f} ({each['lower']:.3f} to {each['upper']:.3f})"
                    for each in row[f"{key}_difference"].values()) for key in ("fid", "ret_fid"))
            + f" | {row['samples']:,} ({row['samples_share']:.2%}) | {row['seconds']:.1f}"
              f" ({row['retraining_seconds']:.0f}; {row['cheaper']:.0f}×) | {', '.join(row['missed']) or 'nothing'} |")
    reached = sum(not row["missed"] for row in rows)
    lines += ["", f"{reached} of {len(rows)} classes reach all of it.",
              *([f"Not run: {', '.join(missing)}."] if missing else [])]
    return "\n".join(lines)


def main() -> None:
    """Does the runs that are missing, and writes the table."""
    parser = common_arguments(__doc__)
    parser.add_argument("--datasets", nargs="+", choices=CLASSES, default=list(CLASSES))
    parser.add_argument("--classes", type=int, nargs="*", default=list(range(10)), help="to run; the table has all")
    parser.add_argument("--preset", default="default", help="of adapt_then_unlearn: the setting")
    asked = parser.parse_args()
    if asked.one:
        dataset, row, unwanted = asked.one
        print(json.dumps(run(Bench.of(asked, dataset), asked.preset, row, int(unwanted))))
        return
    benches = {dataset: Bench.of(asked, dataset, looks=True) for dataset in asked.datasets}

    def look(dataset: str, unwanted: int) -> Row | None:
        try:
            return figures(benches[dataset], asked.preset, unwanted)
        except NotThere:
            return None

    def kept(dataset: str, row: str, unwanted: int) -> bool:
        try:
            run(benches[dataset], asked.preset, row, unwanted)
        except NotThere:
            return False
        return True

    runs = [(dataset, row, unwanted) for unwanted in asked.classes for dataset in asked.datasets
            for row in ("reference", *arms(asked.preset))]
    wanted = [key for key in runs if not kept(*key)]
    if wanted:
        # First what all others stand on, lest two runs make it at the same time.
        parents = dict.fromkeys((dataset, "parent", 0) for dataset, _, _ in wanted)
        for some in (parents, wanted):
            for _ in each_in_its_process(some, asked.jobs, asked.threads):
                pass
    found = {(dataset, unwanted): look(dataset, unwanted) for dataset in asked.datasets for unwanted in range(10)}
    rows = [row for row in found.values() if row is not None]
    missing = [f"{dataset} {CLASSES[dataset][unwanted]}" for (dataset, unwanted), row in found.items() if row is None]
    told = [f"- setting: adapt_then_unlearn, preset {asked.preset}; parent: {asked.recipe}; one seed ({SEED})",
            f"- latents: {latents(benches[asked.datasets[0]]):,}, seed {MEASURE_SEED};"
            f" threads: {asked.threads} each, {asked.jobs} runs at a time",
            *([f"- **cut to {asked.steps} steps, to try the command out**"] if asked.steps else [])]
    text = "\n".join([*told, "", table(rows, missing)])
    if asked.steps:
        print(text)
    else:
        record(f"goal-{asked.recipe}", {
            "setting": {"preset": asked.preset, "recipe": asked.recipe, "threads": asked.threads, "jobs": asked.jobs,
                        "latents": LATENTS, "measure_seed": MEASURE_SEED, "seed": SEED}, "rows": rows}, text)


if __name__ == "__main__":
    main()
