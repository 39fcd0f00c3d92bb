"""How long does a run of debug size take from a library's folder to the release, for each kind that completes images?

    python benchmarks/debug_runs.py [--kinds mae] [--times 3]

The example's script trains a model of seconds on the built-in digits, which is not counted. Then, in a fresh folder
and through the commands that a person types: the run, the approval, the release. It is what the tests go through, too.
Memory is the largest sum of resident sizes over the run's process tree, which counts shared pages once per process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from recording import record
from whole_run import tree_memory

from expunge.settings import Workspace

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "image-to-image"
LIMIT = 60
sys.path.insert(0, str(ROOT / "tests"))
from small_image_to_image import OF_SECONDS  # noqa: E402 - what the tests go through
from tests_support import write_policy  # noqa: E402


def typed(folder: Path, *words: str) -> tuple[float, float, str]:
    """Seconds that a command takes, its peak memory in MiB, and what it printed."""
    command = [str(Path(sys.executable).parent / "expunge"), *words]
    began, peak = time.monotonic(), 0
    with tempfile.TemporaryFile() as out:
        process = psutil.Popen(command, cwd=folder, stdout=out, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            peak = max(peak, tree_memory(process))
            time.sleep(0.05)
        out.seek(0)
        return time.monotonic() - began, peak / 2**20, out.read().decode()


def one(kind: str, folder: Path) -> dict[str, Any]:
    """A kind's run to its release."""
    of_kind = OF_SECONDS[kind]
    training = [sys.executable, str(EXAMPLE / "train.py"), "--kind", kind, "--threads", "1", *of_kind.training]
    subprocess.run(training, cwd=folder, check=True, stdout=subprocess.DEVNULL,
                   env=os.environ | {"OMP_NUM_THREADS": "1"})
    typed(folder, "init")
    for person, role in (("ada", "requester"), ("grace", "reviewer")):
        typed(folder, "keys", "new", person, "--role", role)
    if of_kind.policy:
        write_policy(Workspace(folder / ".expunge"), of_kind.request["policy"], of_kind.policy)
    request = yaml.safe_load((EXAMPLE / "request.yaml").read_text()) | of_kind.request
    (folder / "request.yaml").write_text(yaml.safe_dump(request))
    run, peak, said = typed(folder, "run", "request.yaml", "--json")
    approval, _, _ = typed(folder, "approve", request["id"], "--as", "grace", "--reason", "it completes them no more")
    release, _, ended = typed(folder, "release", request["id"], "--json")
    found = json.loads(said)
    return {"kind": kind, "run": run, "approve": approval, "release": release, "total": run + approval + release,
            "peak_mib": peak, "rooms": found["seconds"], "verdict": found["verdict"],
            "state": json.loads(ended)["state"]}


def table(rows: list[dict[str, Any]]) -> str:
    """A line per kind: medians."""
    lines = ["| kind | run, s | approval, s | release, s | in all, s (least to most) | limit, s | peak memory, MiB |"
             " ended as |", "|" + "---|" * 8]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        run, approval, release, total, peak = (
            statistics.median(row[name] for row in mine) for name in ("run", "approve", "release", "total", "peak_mib"))
        between = f"{min(row['total'] for row in mine):.1f} to {max(row['total'] for row in mine):.1f}"
        lines.append(f"| {kind} | {run:.1f} | {approval:.1f} | {release:.1f} | {total:.1f} ({between}) | {LIMIT} |"
                     f" {peak:.0f} | {', '.join(sorted({row['state'] for row in mine}))} |")
    return "\n".join(lines)


def main() -> None:
    """Runs them one after the other."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kinds", nargs="+", choices=OF_SECONDS, default=list(OF_SECONDS))
    arguments.add_argument("--times", type=int, default=3)
    asked = arguments.parse_args()
    rows = []
    for kind in [kind for kind in asked.kinds for _ in range(asked.times)]:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one(kind, Path(folder)))
        print(f"{kind}: {rows[-1]['state']}, {rows[-1]['total']:.1f} s", file=sys.stderr)
    record("debug_runs", {"seed": 0, "threads": 1, "rows": rows}, table(rows))


if __name__ == "__main__":
    main()
