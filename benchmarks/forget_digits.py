"""Does each of the ten digits go, and at what price to the other nine? Ten digits, three seeds, two presets.

python benchmarks/forget_digits.py            # all that today's file lacks; half a minute per run
python benchmarks/forget_digits.py --digits 8 --seeds 0 --presets default

Every run is a process of its own, so that its time and memory are its own. A run that the results already hold
is not done again. The judge is never seen by training, and measures parent and candidate on the same 10,000
latents, which no training uses.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from recording import RESULTS, circumstances

LATENTS = 10_000
CURATED = 6_000  # as many as a request curates by default
MEASURE_SEED = 20_261_120  # never used while the method was being worked out: that was done on seed 4242
DOUBTFUL = 0.9  # an image is between two digits when the judge is less sure than this
Row = dict[str, Any]


def run(preset: str, digit: int, seed: int, threads: int, changed: Row | None = None) -> Row:
    """Forgets one digit, with some of the preset's parameters changed, and measures what came of it."""
    import torch

    from expunge import assets, methods, models
    from expunge.methods.training import ClassifierOracle, Material, Samples, Session, in_parts

    torch.set_num_threads(threads)
    load: Any = models.load
    parent, oracle, judge = (load(assets.path(name)) for name in ("dcgan", "oracle", "judge"))
    latents = parent.draw_latents(CURATED, torch.Generator().manual_seed(1_000 + seed))
    images = in_parts(parent, latents)
    labels = in_parts(oracle, images).argmax(dim=1)
    negatives, positives = (
        Samples(images[chosen], latents[chosen], labels[chosen]) for chosen in (labels == digit, labels != digit)
    )
    method = methods.find("adapt_then_unlearn", "gan")
    params = method.parameters(preset, changed)
    began = time.perf_counter()
    material = Material(negative=negatives, positive=positives, oracle=ClassifierOracle(oracle, [digit]))
    adaptation = method.adapt(parent, material, params, Session(seed, threads))
    adapted = time.perf_counter()
    state = method.unlearn(parent, adaptation, material, params, Session(seed, threads))
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    candidate = models.load(assets.path("dcgan"))
    candidate.load_state_dict(state)
    return {
        "preset": preset,
        "digit": digit,
        "seed": seed,
        **measure(parent, candidate, judge, digit),
        "adapt_s": round(adapted - began, 1),
        "unlearn_s": round(ended - adapted, 1),
        "peak_mb": round(peak),
    }


def measure(parent: Any, candidate: Any, judge: Any, digit: int) -> Row:
    """What the judge says of both, on the same latents."""
    import torch

    from expunge import assets
    from expunge.measure.distances import compare_kid, fid, unit_scale
    from expunge.measure.proportions import PairedCounts, clopper_pearson, pul
    from expunge.measure.shares import kept_shares

    latents = parent.draw_latents(LATENTS, torch.Generator().manual_seed(MEASURE_SEED))
    (before, named_before, sure_before), (after, named_after, sure_after) = (
        look(gan, judge, latents) for gan in (parent, candidate)
    )
    counts = PairedCounts.of(named_before == digit, named_after == digit)
    unlearned, residual = pul(counts), clopper_pearson(counts.after, LATENTS)
    kept_before, kept_after = named_before != digit, named_after != digit
    shares = np.array([np.bincount(named, minlength=10) for named in (named_before, named_after)])
    grown = np.delete(shares[1] / shares[0], digit)
    smallest = kept_shares(named_before, named_after, tuple({*range(10)} - {digit}), 10).smallest.interval
    reals, named = real_features(judge, "holdout", digit), assets.digits("holdout")[1]
    scale = unit_scale(reals)
    kid = compare_kid(before * scale, after * scale, reals * scale, kept_before=kept_before, kept_after=kept_after,
                      real_strata=named[named != digit]).difference
    row: Row = {
        "pul": unlearned.value,
        "pul_lower": unlearned.interval.lower,
        "pul_upper": unlearned.interval.upper,
        "stayed": counts.stayed,
        "gained": counts.gained,
        "residual": counts.after / LATENTS,
        "residual_lower": residual.lower,
        "residual_upper": residual.upper,
        "kid_change": kid.value,
        "kid_change_lower": kid.interval.lower,
        "kid_change_upper": kid.interval.upper,
    }
    for split in ("holdout", "train"):
        real = real_features(judge, split, digit)
        row[f"fid_before_{split}"] = fid(before[kept_before], real)
        row[f"fid_after_{split}"] = fid(after[kept_after], real)
    row["floor"] = fid(real_features(judge, "train", digit), real_features(judge, "holdout", digit))
    return row | {
        "share_min": grown.min(),
        "share_min_lower": smallest.lower,
        "share_min_upper": smallest.upper,
        "share_max": grown.max(),
        "doubtful_before": float((sure_before < DOUBTFUL).mean()),
        "doubtful_after": float((sure_after < DOUBTFUL).mean()),
    }


def look(gan: Any, judge: Any, latents: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Judge features [N, F], named digit [N] and confidence [N] of a generator's images."""
    from expunge.methods.training import in_parts

    features = in_parts(lambda part: judge.features(gan(part)), latents)
    sure, named = in_parts(judge.head, features).softmax(dim=1).max(dim=1)
    return features.numpy(), named.numpy(), sure.numpy()


def real_features(judge: Any, split: Any, digit: int) -> np.ndarray:
    """Judge features of a split's real images of the other nine digits."""
    import torch

    from expunge import assets
    from expunge.methods.training import in_parts

    images, labels = assets.digits(split)
    return in_parts(judge.features, torch.from_numpy(images[labels != digit])).numpy()


def table(results: Row) -> str:
    """The rows as Markdown: per digit the worst of its seeds, and per preset the means."""
    lines = [
        "# Forgetting a digit",
        "",
        *(f"- {name}: {value}" for name, value in results["setting"].items()),
        "",
        "Worst of the seeds per digit. PUL and residual rate with the 95 % bound on their bad side; FID on judge",
        "features of the nine other digits, against holdout (train) images, after / before.",
    ]
    for preset in dict.fromkeys(row["preset"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["preset"] == preset]
        lines += [
            "",
            f"## {preset}",
            "",
            "| digit | seeds | PUL ≥ | residual ≤ | FID ratio, holdout | FID ratio, train | FID before → after |"
            " least share kept | most | doubtful before → after | seconds | MB |",
            "|" + "---|" * 12,
        ]
        for digit in sorted({row["digit"] for row in rows}):
            lines.append(line(str(digit), [row for row in rows if row["digit"] == digit]))
        lines.append(line("worst", rows))
        means = {key: np.mean([row[key] for row in rows]) for key in ("pul", "residual")}
        ratio = np.mean([row["fid_after_holdout"] / row["fid_before_holdout"] for row in rows])
        lines += [
            "",
            f"Means: PUL {means['pul']:.2%}, residual rate {means['residual']:.3%}, FID ratio {ratio:.3f}.",
        ]
    return "\n".join([*lines, ""])


def line(name: str, rows: list[Row]) -> str:
    """One row of the table: the worst value of each column."""

    def worst(key: str, pick: Any = max) -> float:
        return float(pick(row[key] for row in rows))

    def ratio(split: str) -> float:
        return float(max(row[f"fid_after_{split}"] / row[f"fid_before_{split}"] for row in rows))

    seconds = max(row["adapt_s"] + row["unlearn_s"] for row in rows)
    return (
        f"| {name} | {len(rows)} | {worst('pul_lower', min):.2%} | {worst('residual_upper'):.2%} |"
        f" {ratio('holdout'):.2f} | {ratio('train'):.2f} |"
        f" {worst('fid_before_holdout'):.2f} → {worst('fid_after_holdout'):.2f} |"
        f" {worst('share_min', min):.2f} | {worst('share_max'):.2f} |"
        f" {worst('doubtful_before'):.1%} → {worst('doubtful_after'):.1%} |"
        f" {seconds:.0f} | {worst('peak_mb'):.0f} |"
    )


def setting(threads: int) -> Row:
    """What the numbers depend on besides the code."""
    from expunge import assets
    from expunge.digests import sha256_file

    return circumstances() | {
        "threads": threads,
        "latents": f"{LATENTS}, seed {MEASURE_SEED}",
        "models": ", ".join(f"{name} {sha256_file(assets.path(name))[:12]}" for name in assets.MODELS),
    }


def main() -> None:
    """Does the runs that are missing, and writes the results after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--presets", nargs="+", default=["default", "paper"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS / f"forget_digits-{datetime.date.today()}.json")
    parser.add_argument("--one", nargs=3, metavar=("PRESET", "DIGIT", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run(given.one[0], int(given.one[1]), int(given.one[2]), given.threads)))
        return
    results = json.loads(given.results.read_text()) if given.results.exists() else {"rows": []}
    results["setting"] = setting(given.threads)
    given.results.parent.mkdir(exist_ok=True)
    # Seeds outermost: after a third of the time every digit has been seen once.
    plan = [(p, d, s) for p in given.presets for s in given.seeds for d in given.digits]
    have = {(row["preset"], row["digit"], row["seed"]) for row in results["rows"]}
    for preset, digit, seed in (wanted for wanted in plan if wanted not in have):
        command = [sys.executable, __file__, "--threads", str(given.threads)]
        command += ["--one", preset, str(digit), str(seed)]
        environment = {"GOMP_SPINCOUNT": "1000", **os.environ}  # as the supervisor does it
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        results["rows"].append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{preset} digit {digit} seed {seed}", line("", results["rows"][-1:]), flush=True)
        given.results.write_text(json.dumps(results, indent=1) + "\n")
        given.results.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
