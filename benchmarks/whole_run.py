"""How long does the demo's run take, how much of that is overhead, how much memory, and is it repeatable?

    python benchmarks/whole_run.py [--digits 8 8 8]

Runs `expunge demo --json` in fresh folders, every digit once and the 8 three times. Memory is the largest sum of
resident sizes over the whole process tree, looked at 20 times a second: shared pages count once per process, so it
errs upwards.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from recording import record


def demo(digit: int, folder: Path) -> dict[str, Any]:
    """One demo: its JSON, the wall clock of the whole command, and its peak memory."""
    began, peak = time.monotonic(), 0
    expunge = Path(sys.executable).parent / "expunge"
    command = [str(expunge), "demo", "--json", "--digit", str(digit), "--folder", str(folder)]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, tree_memory(process))
        time.sleep(0.05)
    found: dict[str, Any] = json.loads(process.stdout.read().decode().replace(str(folder), "demo"))
    candidate = json.loads(next(folder.glob(".expunge/results/unlearn-*/candidate/record.json")).read_text())
    return {"command_seconds": time.monotonic() - began, "peak_mib": peak / 2**20, "exit": process.returncode,
            "candidate": candidate["weights"]["sha256"], **found}


def tree_memory(process: psutil.Process) -> int:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def quality(rows: list[dict[str, Any]]) -> list[str]:
    """One line per demo: what it reached, as its own report says."""
    lines = ["| digit | verdict | PUL (95 %) | residual rate, upper | FID before → after (ratio) | least share kept |",
             "|---|---|---|---|---|---|"]
    for row in rows:
        pul, fid = row["pul"], row["fid"]
        kept = min(share["after"] / share["before"] for name, share in row["shares"].items()
                   if int(name) not in row["forgotten"])
        lines.append(
            f"| {row['forgotten'][0]} | {row['verdict']} | {pul['estimate']:.2%} ({pul['lower']:.2%} to"
            f" {pul['upper']:.2%}) | {row['residual_rate']['upper']:.2%} | {fid['before']:.3f} → {fid['after']:.3f}"
            f" ({fid['after'] / fid['before']:.2f}) | {kept:.2f} |")
    return lines


def cost(rows: list[dict[str, Any]]) -> list[str]:
    """Seconds per room, overhead and memory, over all demos."""
    lines = ["| figure | median | min | max | limit |", "|---|---|---|---|---|"]

    def add(name: str, values: list[float], limit: str = "") -> None:
        median = statistics.median(values)
        lines.append(f"| {name} | {median:.1f} | {min(values):.1f} | {max(values):.1f} | {limit} |")

    for room in (room for room in rows[0]["seconds"] if room != "total"):
        add(f"{room}, s", [row["seconds"][room] for row in rows])
    add("run in all, s", [row["seconds"]["total"] for row in rows], "120")
    add("overhead, s", [row["overhead_seconds"] for row in rows], "10")
    add("demo command, s", [row["command_seconds"] for row in rows])
    add("peak memory, MiB", [row["peak_mib"] for row in rows], "2048")
    return lines


def main() -> None:
    """Runs the demos one after the other."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--digits", type=int, nargs="+", default=[8, 8, *range(10)],
                           help="a digit given twice shows whether its candidate is the same both times")
    rows = []
    for digit in arguments.parse_args().digits:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(demo(digit, Path(scratch) / "demo"))
        print(f"digit {digit}: {rows[-1]['state']}, {rows[-1]['seconds']['total']:.1f} s", file=sys.stderr)
    candidates = {digit: {row["candidate"] for row in rows if row["forgotten"] == [digit]}
                  for digit in {row["forgotten"][0] for row in rows}}
    repeated = [digit for digit in candidates if sum(row["forgotten"] == [digit] for row in rows) > 1]
    same = [f"Digit {digit}: {sum(row['forgotten'] == [digit] for row in rows)} runs of seed 0,"
            f" {len(candidates[digit])} candidate digest(s)." for digit in repeated]
    record("whole_run", {"seed": 0, "threads": 2, "rows": rows},
           "\n".join([*quality(rows), "", *cost(rows), "", *same]))


if __name__ == "__main__":
    main()
