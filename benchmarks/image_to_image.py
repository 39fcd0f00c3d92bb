"""Does a model that completes images forget half the classes, and complete the other half as before? Three kinds.

python benchmarks/image_to_image.py FOLDER --kept KEPT                   # all rows; what is kept is not done again
python benchmarks/image_to_image.py FOLDER --kept KEPT --kinds mae --datasets fashion --seeds 0
python benchmarks/image_to_image.py FOLDER --kept KEPT --table           # writes the results that are there
python benchmarks/image_to_image.py FOLDER --kept KEPT --trial '{"alpha": 0.1}' --kinds mae    # prints, records nothing
python benchmarks/image_to_image.py FOLDER --kept KEPT --steps 20        # to try the command out

`completions.py` says what is trained, forgotten and looked at. Measured are:

    retained    squared error in the hidden part of images that stay, relative to the parent's: paired interval
    KID ratio   completions of images that stay to other images of the test split, in the judge's features, candidate
                over parent: Fieller's interval from paired half-samples
    recognised  of images to forget, share that the judge names right once they are completed: by the parent, by the
                candidate, and with noise in the hole. Excess: candidate less noise, exact paired interval
    aim         the same share with the parent's completion of noise in the hole, which is what the method aims at: a
                candidate that reached it on every such image would be recognised as often
    variance    between the completions of images to forget, mean over the hidden pixels: parent, candidate, real images
    named       how often the judge names a candidate's completion of an image to forget 0, 1, ... 9
    left        how far the candidate's features of images to forget are from the method's aim, in parts of how far the
                parent's are, from the feature map next to the image to the deepest
    relearning  steps until a candidate is taught to complete them again, half of the way back to the parent, over those
                of the parent's decoder behind an encoder never trained: median over lessons and its interval
    without     the same over the steps of a model that was trained as long as the parent, and never saw an image of
                what is forgotten: what a candidate is that forgot and kept everything else
    seen        images in updates, as a share of those of the parent's training
    proxy       a row without any image that the parent knows and should keep: others of the same kinds stand in for
                them, of the test split beyond those looked at (KID compares with them, and is no goal there)
    other proxy the same with the other data set in their place: how far a stand-in may be from what stays
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import cast

from completions import FORGOTTEN, KINDS, MASKED, OTHER, ROWS, TRAINING, Completions
from generators import NotThere, Row, common_arguments, each_in_its_process, say
from recording import record

DEVELOPED_ON = ("fashion", 0)  # what the default's settings were found on, and the seed: all else is new to them
TRIED = ("mae", "vq-gan")
ERROR_GOAL, PROXY_GOAL, KID_GOAL, EXCESS_GOAL, PARENT_GOAL, JUDGE_GOAL = 0.02, 0.05, 1.05, 0.05, 0.40, 0.90


# ---------------------------------------------------------------- the table


def table(parents: list[Row], rows: list[Row]) -> str:
    """Every row, and which parts of the goal it misses."""
    lines = [
        f"Forgotten are {' and '.join(f'{name} {list(some)}' for name, some in FORGOTTEN.items())}. Hidden are "
        f"{' or '.join(f'{some.ratio:.1%} in squares of {name} pixels' for name, some in MASKED.items())}, anywhere, "
        f"of each image others. Goal: retained error at most {ERROR_GOAL:.0%} above the parent's ({PROXY_GOAL:.0%} for "
        f"`proxy`), upper end of the KID ratio at most {KID_GOAL}, excess at most {100 * EXCESS_GOAL:.0f} points, "
        f"where the parent's is at least {100 * PARENT_GOAL:.0f} and the judge is right on at least {JUDGE_GOAL:.0%} "
        "of real images, and relearning not sooner than an encoder that never knew.",
        f"Settings were found on {DEVELOPED_ON[0]}, seed {DEVELOPED_ON[1]}, by a few trials of {' and '.join(TRIED)}: "
        "rows of other kinds, data or seeds are new to them. Seconds are one thread's, taken beside other work.", "",
        "| data | kind | hidden | parameters (encoder) | judge | parent: images seen | seconds | recognised |"
        " with noise | aim | excess at least 40, judge at least 90 % |", "|" + "---|" * 11,
        *(f"| {one['dataset']} | {one['kind']} | {one['hidden']} | {one['parameters']:,} ({one['encoder']:,}) |"
          f" {one['judge']:.1%} | {one['samples']:,} | {one['seconds']:.0f} | {one['recognised']:.1%} |"
          f" {one['noise']:.1%} | {one['aim']:.1%} |"
          f" {_said(one['recognised'] - one['noise'] >= PARENT_GOAL and one['judge'] >= JUDGE_GOAL)} |"
          for one in parents), "",
        "| data | kind | hidden | row | seed | retained error | KID before → after | KID ratio | recognised: parent,"
        " candidate, noise | excess | retained recognised | forget error | variance: parent, candidate, real |"
        " named 0 to 9 | left, map by map | relearning | without | seen | seconds | misses |", "|" + "---|" * 20]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _said(good: bool) -> str:
    return "yes" if good else "**no**"


def _line(row: Row) -> str:
    retain, forget = (row["error"][half] for half in ("retain", "forget"))
    ratio = row["kid_ratio"]
    known = row["recognised"]
    return (f"| {row['dataset']} | {row['kind']} | {row['hidden']} | {row['row']} | {row['seed']} |"
            f" {retain[1]:+.1%} ({retain[2]:+.1%} to {retain[3]:+.1%}) | {row['kid'][0]:.3f} → {row['kid'][1]:.3f} |"
            f" {'none: the parent is like real' if ratio is None else _between(ratio)} |"
            f" {known['before']:.1%}, {known['after']:.1%}, {known['noise']:.1%} |"
            f" {100 * row['excess'][0]:+.1f} ({100 * row['excess'][1]:+.1f} to {100 * row['excess'][2]:+.1f}) |"
            f" {row['retained_recognised'][0]:.1%} → {row['retained_recognised'][1]:.1%} | {forget[1]:+.0%} |"
            f" {', '.join(f'{one:.3f}' for one in row['variance'])} | {' '.join(map(str, row['named']))} |"
            f" {' '.join(f'{one:.2f}' for one in row['left'])} | {_again(row, 'never exposed')} |"
            f" {_again(row, 'without')} |"
            f" {row['seen']:.1%} | {row['adapt_s'] + row['unlearn_s']:.0f} | {missed(row)} |")


def _again(row: Row, beside: str) -> str:
    if (found := row.get("relearned")) is None:
        return "not asked"
    return f"{beside} did not learn it" if found[beside] is None else _between(found[beside])


def _between(found: list[float]) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f} to {found[2]:.3f})"


def missed(row: Row) -> str:
    """The parts of the goal that a row does not meet."""
    ratio, by_proxy = row["kid_ratio"], row["row"].endswith("proxy")
    parts = {"retained error": row["error"]["retain"][1] <= (PROXY_GOAL if by_proxy else ERROR_GOAL),
             "KID": ratio is not None and ratio[2] <= KID_GOAL,
             "excess": row["excess"][0] <= EXCESS_GOAL,
             "relearning": row.get("relearned") is None or row["relearned"]["never exposed"] is None
             or row["relearned"]["never exposed"][2] >= 1,
             "parent's excess": row["excess_before"][0] >= PARENT_GOAL}
    if by_proxy:
        del parts["KID"]
    return ", ".join(f"**{part}**" for part, met in parts.items() if not met) or "nothing"


def main() -> None:
    """Makes what is missing, parents each in a process of its own, and writes the table."""
    parser = common_arguments(__doc__ or "")
    parser.add_argument("--datasets", nargs="+", choices=OTHER, default=list(OTHER))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--hidden", nargs="+", choices=MASKED, default=["4x4"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--table", action="store_true", help="write what is there, and make nothing")
    parser.add_argument("--trial", type=json.loads, metavar="JSON", help="settings to try, on images of their own")
    parser.add_argument("--no-relearning", action="store_true", help="teach no model again, which needs another parent")
    asked = parser.parse_args()

    def bench_of(dataset: str, where: str) -> Completions:
        bench = cast(Completions, Completions.of(asked, dataset, looks=asked.table))
        return replace(bench, hidden=MASKED[where], trial=asked.trial is not None)

    if asked.one:
        dataset, where, kind = asked.one
        bench_of(dataset, where).parent_of(kind)
        print(json.dumps({}))
        return
    tasks = list(product(asked.datasets, asked.hidden, asked.kinds))
    if not asked.table:
        for _ in each_in_its_process(tasks, asked.jobs, asked.threads):
            pass
    parents, rows, missing = [], [], []
    for dataset, where, kind in tasks:
        bench, task = bench_of(dataset, where), f"{dataset} {where} {kind}"
        try:
            parents.append({"hidden": where, **bench.parents(kind)})
        except NotThere:
            missing.append(task)
            continue
        say(f"{parents[-1]}")
        for row, seed in product(asked.rows, asked.seeds):
            try:
                rows.append({"hidden": where, **bench.measured(kind, row, seed, asked.trial)})
                if asked.trial is None and row == "default" and not asked.no_relearning:
                    rows[-1]["relearned"] = bench.relearned(kind, row, seed)
            except NotThere:
                missing.append(f"{task} {row} {seed}")
            else:
                say(f"{task} {row} {seed}: {rows[-1]}")
    if not parents:
        raise SystemExit("there is nothing to tell yet")
    text = table(parents, rows) + (
        f"\n\nNot run yet, and done by the same command: {'; '.join(missing)}." if missing else "")
    if asked.steps is None and asked.trial is None:
        record("image_to_image", {"training": TRAINING, "kinds": KINDS,
                                  "masks": {name: some.model_dump(mode="json") for name, some in MASKED.items()},
                                  "forgotten": FORGOTTEN, "parents": parents, "rows": rows}, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
