"""How long does the demo's run take, how much of that is overhead, how much memory, and is it repeatable?

    python benchmarks/whole_run.py [--runs 3]

Runs `expunge demo --json` in fresh folders. Memory is the largest sum of resident sizes over the whole
process tree, looked at 20 times a second: shared pages count once per process, so it errs upwards.
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
    found: dict[str, Any] = json.loads(process.stdout.read())
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


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--digit", type=int, default=8)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = [demo(chosen.digit, Path(scratch, str(number))) for number in range(chosen.runs)]
    rooms = [room for room in rows[0]["seconds"] if room != "total"]
    lines = ["| figure | median | min | max | limit |", "|---|---|---|---|---|"]

    def add(name: str, values: list[float], limit: str = "") -> None:
        lines.append(f"| {name} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} | {limit} |")

    for room in rooms:
        add(f"{room}, s", [row["seconds"][room] for row in rows])
    add("run in all, s", [row["seconds"]["total"] for row in rows], "120")
    add("overhead, s", [row["overhead_seconds"] for row in rows], "10")
    add("demo command, s", [row["command_seconds"] for row in rows])
    add("peak memory, MiB", [row["peak_mib"] for row in rows], "2048")
    digests = {row["candidate"] for row in rows}
    lines.append(f"\nexit codes {sorted({row['exit'] for row in rows})}; {len(digests)} distinct candidate digest(s)"
                 f" in {len(rows)} runs of seed 0, digit {chosen.digit}")
    record("whole_run", {"seed": 0, "digit": chosen.digit, "rows": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
