"""Which of the additions to Adapt-then-Unlearn makes a digit go, which keeps the rest, and on what does it depend?

nice python benchmarks/ablation.py                          # all that today's file lacks; most of an hour on one core
python benchmarks/ablation.py --digits 8 --seeds 0 1 --arms "default" "default, no guidance"

The four additions (redaction, guidance, preservation, redirection) are turned off one at a time in the preset
`default`, and on one at a time in the preset `paper`, with the weights that `default` gives them. Every arm has one
round, so that none makes up for another by repeating; `default` itself is also run with as many as it wants. Levels
of what the additions depend on are tried on the first digit only. Runs, latents and measures are those of
`forget_digits.py`.
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
from forget_digits import Row, run, setting
from recording import RESULTS

ONE_ROUND = {"rounds": 1}
ADDITIONS = ("redaction", "guidance", "preservation", "redirection")
LEVELS: dict[str, tuple[float, ...]] = {
    "pool": (0, 1024),
    "redaction_weight": (2.0,),
    "guidance_weight": (0.1, 10.0),
    "preservation_weight": (5.0, 500.0),
    "redirection_weight": (0.5, 50.0),
    "repulsion_weight": (1.0,),
    "adversarial_weight": (0.0, 1.0),
}
Arm = tuple[str, Row]  # a preset, and what is changed in it


def arms() -> dict[str, Arm]:
    """By name: the two presets, each addition off in one and on in the other."""
    default = _default()
    off = {name: {f"{name}_weight": 0.0} for name in (*ADDITIONS, "repulsion")}
    on = {name: {f"{name}_weight": default[f"{name}_weight"]} for name in ADDITIONS}
    for paired in ("preservation", "redirection"):
        on[paired]["pool"] = default["pool"]
    return {
        "default": ("default", ONE_ROUND),
        **{f"default, no {name}": ("default", ONE_ROUND | changed) for name, changed in off.items()},
        "paper": ("paper", ONE_ROUND),
        **{f"paper with {name}": ("paper", ONE_ROUND | changed) for name, changed in on.items()},
        "paper with guidance and preservation": ("paper", ONE_ROUND | on["guidance"] | on["preservation"]),
        "default, all rounds": ("default", {}),
    }


def levels() -> dict[str, Arm]:
    """By name: `default` with one of the settings at another level."""
    return {f"default, {name} {value:g}": ("default", ONE_ROUND | {name: value})
            for name, values in LEVELS.items() for value in values}


def _default() -> dict[str, Any]:
    from expunge import methods

    found: dict[str, Any] = methods.find("adapt_then_unlearn", "gan").parameters().model_dump()
    return found


def table(results: Row) -> str:
    """Per arm what its digits and seeds came to, and below every run with its intervals."""
    rows = results["rows"]
    done = {row["arm"] for row in rows}
    missing = [name for name in (*arms(), *levels()) if name not in done]
    lines = ["# Which addition does what", "", *(f"- {name}: {value}" for name, value in results["setting"].items())]
    if missing:
        lines += ["", f"**Not run yet**, and done by the same command: {'; '.join(missing)}."]
    for title, names in (("Arms", arms()), ("Levels, on one digit", levels())):
        lines += ["", f"## {title}", "",
                  "| arm | runs | PUL, mean (worst) | residual rate, mean | FID ratio, mean (worst) |"
                  " KID change, mean | least share kept | doubtful after, mean | seconds, mean |", "|" + "---|" * 9]
        lines += [_summary(name, found) for name in names if (found := [row for row in rows if row["arm"] == name])]
    lines += ["", "## Every run", "",
              "PUL and residual rate with 95 % intervals (exact); FID against holdout images of the nine other digits,"
              " after / before, has none that covers; KID change in units of the real features, and the least share of"
              " a digit that was kept, with 95 % intervals.", "",
              "| arm | digit | seed | PUL | residual rate | FID ratio | KID change | least share kept | seconds |",
              "|" + "---|" * 9]
    lines += [_line(row) for name in (*arms(), *levels()) for row in rows if row["arm"] == name]
    return "\n".join([*lines, ""])


def _ratio(row: Row) -> float:
    return float(row["fid_after_holdout"] / row["fid_before_holdout"])


def _seconds(row: Row) -> float:
    return float(row["adapt_s"] + row["unlearn_s"])


def _summary(name: str, rows: list[Row]) -> str:
    def mean(key: str) -> float:
        return float(np.mean([row[key] for row in rows]))

    ratios = [_ratio(row) for row in rows]
    return (f"| {name} | {len(rows)} | {mean('pul'):.2%} ({min(row['pul'] for row in rows):.2%}) |"
            f" {mean('residual'):.2%} | {np.mean(ratios):.2f} ({max(ratios):.2f}) | {mean('kid_change'):+.4f} |"
            f" {min(row['share_min'] for row in rows):.2f} | {mean('doubtful_after'):.1%} |"
            f" {np.mean([_seconds(row) for row in rows]):.0f} |")


def _line(row: Row) -> str:
    def between(key: str, form: str) -> str:
        return f"{row[f'{key}_lower']:{form}} to {row[f'{key}_upper']:{form}}"

    return (f"| {row['arm']} | {row['digit']} | {row['seed']} | {row['pul']:.2%} ({between('pul', '.2%')}) |"
            f" {row['residual']:.2%} ({between('residual', '.2%')}) | {_ratio(row):.2f} |"
            f" {row['kid_change']:+.4f} ({between('kid_change', '+.4f')}) |"
            f" {row['share_min']:.2f} ({between('share_min', '.2f')}) | {_seconds(row):.0f} |")


def main() -> None:
    """Does the runs that are missing, and writes the results after each."""
    known = arms() | levels()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, nargs="+", default=[8, 1, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", choices=known, default=list(known), metavar="ARM")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS / f"ablation-{datetime.date.today()}.json")
    given = parser.parse_args()
    results = json.loads(given.results.read_text()) if given.results.exists() else {"rows": []}
    results["setting"] = setting(given.threads)
    # After the first digit every arm has been seen once; its levels come last.
    plan = [(arm, digit, seed) for seed in given.seeds for digit in given.digits for arm in arms()]
    plan += [(arm, given.digits[0], seed) for seed in given.seeds for arm in levels()]
    have = {(row["arm"], row["digit"], row["seed"]) for row in results["rows"]}
    for arm, digit, seed in plan:
        if arm not in given.arms or (arm, digit, seed) in have:
            continue
        preset, changed = known[arm]
        results["rows"].append({"arm": arm, **run(preset, digit, seed, given.threads, changed)})
        print(_line(results["rows"][-1]), flush=True)
        given.results.write_text(json.dumps(results, indent=1) + "\n")
        given.results.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
