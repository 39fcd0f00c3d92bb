"""How large are the images, how long until a room in a container is at work, and what does a container add to a step?

    make images && python benchmarks/images.py [--runs 3]      # --runs 0: the sizes alone

Carries out a request with as little learning as it can have, `--runs` times in processes and as often in containers,
taking turns. All from the runs' own events: the seconds of a step are those from the end of the one before to its own
end; its overhead is what of them is not the room's own work (starting, importing, hashing, signing, and Kubeflow's
part). A room's cold start is from the start of its container, as the engine says, to the event with which it begins to
work. The images' files are in the page cache, but for what the first run may still read from disk.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import docker
from kills import ENDED, EXPUNGE, REQUEST, environment, fresh
from recording import record

from expunge.events import TITLES
from pipelines.containers import IMAGE, ROOM_LABEL, WORKSPACE_LABEL, find_image

BASE = "python:3.11-slim-bookworm"
LIMITS = {IMAGE: 1.6e9, IMAGE.replace(":cpu", ":console"): 400e6}  # bytes that an image may add to its base
RUNNERS = ("subprocess", "docker")
ROOMS = [room for room in TITLES if room != "deploy"]  # a run ends at the gate


def sizes(engine: docker.DockerClient) -> dict[str, Any]:
    """Bytes of the base and of each image, and of each of the layers between."""
    base = engine.images.get(BASE)
    below = sum(1 for layer in base.history() if layer["Size"])
    found: dict[str, Any] = {"base": base.attrs["Size"], "images": {}}
    for name in LIMITS:
        image = engine.images.get(name)
        layers = [{"bytes": one["Size"], "by": one["CreatedBy"][:120]} for one in image.history() if one["Size"]]
        found["images"][name] = {"bytes": image.attrs["Size"], "layers": layers[: len(layers) - below]}
    return found


def one_run(engine: docker.DockerClient, folder: Path, runner: str) -> list[dict[str, Any]]:
    """Each room of one run: its seconds, of these the overhead, and in a container its cold start."""
    workspace, since = fresh(folder), time.time()
    command = [EXPUNGE, "run", REQUEST, "--json", "--runner", runner]
    done = subprocess.run(command, cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    if done.returncode not in ENDED:
        raise SystemExit(f"{folder}: ended with {done.returncode}: {done.stderr}")
    told = engine.events(since=int(since), until=int(time.time()) + 1, decode=True, filters={
        "event": "start", "label": f"{WORKSPACE_LABEL}={workspace.root}"})
    began = {one["Actor"]["Attributes"][ROOM_LABEL]: one["timeNano"] / 1e9 for one in told}
    assert set(began) == (set(ROOMS) if runner == "docker" else set())
    rows, before = [], None
    started: dict[str, float] = {}
    for event in map(json.loads, next(workspace.root.glob("runs/*/events.jsonl")).read_text().splitlines()):
        if event["kind"] == "started":
            started[event["room"]] = event["at"]
        if event["kind"] == "finished":
            room, at = event["room"], event["at"]
            rows.append({
                "runner": runner, "room": room, "work": event["seconds"],
                "overhead": None if before is None else at - before - event["seconds"],
                "cold_start": started[room] - began[room] if began else None})
            before = at
    return rows


def table_of_sizes(found: dict[str, Any]) -> str:
    """A line for each image."""
    lines = ["| image | MB | added to the base, MB | limit |", "|---|---|---|---|"]
    for name, limit in LIMITS.items():
        size = found["images"][name]["bytes"]
        added = size - found["base"]
        lines.append(f"| {name} | {size / 1e6:.0f} | {added / 1e6:.0f} | {limit / 1e6:.0f}:"
                     f" {'kept' if added <= limit else 'EXCEEDED'} |")
    return "\n".join(lines)


def table_of_steps(found: dict[str, Any]) -> str:
    """A line for each room."""
    lines = [
        f"Medians of {found['runs']} runs each. Load of the machine (1 minute): {found['load'][0]:.1f} at first,"
        f" {found['load'][1]:.1f} in the end; cores: {os.cpu_count()}.", "",
        "| room | cold start in a container, s | overhead in a container, s | in a process, s | difference, s |",
        "|---|---|---|---|---|"]

    def median(runner: str, room: str, what: str) -> float | None:
        values = [row[what] for row in found["rows"] if (row["runner"], row["room"]) == (runner, room)]
        return None if None in values else statistics.median(values)

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    differences = []
    for room in ROOMS:
        inside, outside = (median(runner, room, "overhead") for runner in ("docker", "subprocess"))
        difference = None if inside is None or outside is None else inside - outside
        differences += [] if difference is None else [difference]
        lines.append(f"| {TITLES[room]} | {shown(median('docker', room, 'cold_start'))} | {shown(inside)} |"
                     f" {shown(outside)} | {shown(difference)} |")
    lines += ["", f"A container adds {statistics.median(differences):.2f} s to a step: the median of the rooms but the"
              " first, before which the run itself has to begin."]
    return "\n".join(lines)


def main() -> None:
    """Measures, writes the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=3)
    runs = arguments.parse_args().runs
    find_image()
    engine = docker.from_env()
    if not runs:
        measured = sizes(engine)
        record("image_sizes", measured, table_of_sizes(measured))
        return
    before, rows = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory(prefix="images-") as scratch:
        for number in range(runs):
            for runner in RUNNERS:
                rows += one_run(engine, Path(scratch, f"{runner}-{number}"), runner)
    found = {"runs": runs, "load": [before, os.getloadavg()[0]], "sizes": sizes(engine), "rows": rows}
    record("images", found, f"{table_of_sizes(found['sizes'])}\n\n{table_of_steps(found)}")


if __name__ == "__main__":
    main()
