"""What every benchmark writes down beside its figures: when, on what, with which versions."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def circumstances() -> dict[str, Any]:
    """Date, machine, versions and commit."""
    commit = subprocess.run(["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"], check=False,
                            capture_output=True, text=True).stdout.strip()
    return {
        "date": datetime.now(UTC).date().isoformat(), "processor": _processor(), "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(), "python": platform.python_version(), "torch": version("torch"),
        "commit": commit or None,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def record(name: str, found: dict[str, Any], table: str) -> Path:
    """Writes `<name>-<date>.json` and `.md` to the results folder and prints the table."""
    around = circumstances()
    target = RESULTS / f"{name}-{around['date']}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"circumstances": around, **found}, indent=1) + "\n")
    heading = "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in around.items())
    target.with_suffix(".md").write_text(f"# {name.replace('_', ' ')}\n\n{heading}\n\n{table}\n")
    print(table)
    return target
