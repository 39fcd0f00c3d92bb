"""How does the default preset do on generators that share nothing with the built-in one?

python benchmarks/other_generators.py                      # the two of tests/guests, forgetting an 8
python benchmarks/other_generators.py --mnist FOLDER       # and the DCGAN of docs/your-own-model.md

Each is a run of the real command with the policy `standard`. FOLDER is a copy of examples/mnist in which the
walk-through has been followed up to its `expunge run`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from recording import record

EXPUNGE = Path(sys.executable).parent / "expunge"
GUESTS = Path(__file__).parent.parent / "tests" / "guests"
DIGITS = {name: {"uri": f"builtin://digits/{name}"} for name in ("oracle", "judge", "holdout")}
PAINTER = {"uri": "painter.safetensors", "architecture": "networks.py:painter", "latent": [40, 1, 1]}
DENSE = {"uri": "dense.safetensors", "architecture": "networks.py:DenseGan", "range": [0, 1],
         "latent_distribution": "uniform", "discriminator_output": "probability"}
BROUGHT = {"convolutional, alone, batch norm, tanh": PAINTER, "dense, with discriminator, uniform, sigmoid": DENSE}


def request(number: int, checkpoint: dict[str, Any], seed: int) -> dict[str, Any]:
    return {"id": f"other-{number}-{seed}", "requester": "ada", "reason": "safety", "model": "other",
            "checkpoint": checkpoint, "forget": {"classes": [8]}, **DIGITS, "seed": seed}


def run(folder: Path, file: str, what: str) -> dict[str, Any]:
    """One run of the command, and what it came to."""
    began = time.monotonic()
    done = subprocess.run([EXPUNGE, "run", file, "--json"], cwd=folder, capture_output=True, text=True, check=False)
    print(f"{what}: exit {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
    found = json.loads(done.stdout)
    if "problem" in found:
        sys.exit(f"{what}: {found['problem']}")
    steps = 0
    for line in (folder / ".expunge" / "runs" / found["run"] / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["room"] == "unlearn" and event.get("step"):
            steps = event["step"]
    return {"what": what, "steps": steps, **{key: found[key] for key in (
        "verdict", "reason", "pul", "residual_rate", "fid", "kid", "seconds")}}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--mnist", type=Path)
    ask.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    asked = ask.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for file in GUESTS.iterdir():
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        subprocess.run([EXPUNGE, "init"], cwd=folder, check=True, capture_output=True)
        for number, (what, checkpoint) in enumerate(BROUGHT.items()):
            for seed in asked.seeds:
                (folder / "request.yaml").write_text(yaml.safe_dump(request(number, checkpoint, seed)))
                rows.append({"seed": seed, **run(folder, "request.yaml", what)})
    if asked.mnist:
        rows.append({"seed": 0, **run(asked.mnist, "request.yaml", "MNIST, the walk-through's")})
    lines = ["| generator | seed | verdict | PUL (lower bound) | residual rate (upper bound) | FID before, after | "
             "steps of stage 2 | seconds |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        pul, rate, fid = row["pul"], row["residual_rate"], row["fid"]
        lines.append(
            f"| {row['what']} | {row['seed']} | {row['verdict']} | {pul['estimate']:.1%} ({pul['lower']:.1%}) | "
            f"{rate['estimate']:.2%} ({rate['upper']:.2%}) | {fid['before']:.2f}, {fid['after']:.2f} | "
            f"{row['steps']} | {row['seconds']['total']:.0f} |")
    record("other_generators", {"rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
