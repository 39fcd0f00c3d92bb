"""How long do the console's pages take with ten thousand runs and a million entries, and in how much memory?

    python benchmarks/console.py [--entries 1000000] [--runs 10000] [--work FOLDER] [--kept-index]

The ledger is filled as in `ledger.py`; of the runs, every third awaits approval under a policy with a deadline, by a
statement of the gate. One more run is a whole one, with report and controls: its page is asked for as well. The console
is started as `expunge console` starts it and asked through loopback, each page so many times, one after the other: its
answer is timed whole, and what the server's processor spends on it, which is the figure to compare on a busy machine.
Before, its index is made from nothing. `--work` is kept and used again; with `--kept-index` its index as well, and how
long that took to make is said as it was then.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import psutil
from ledger import fill
from recording import record

from expunge.console.index import FILE
from expunge.contracts import ClassifierSource, DataSource, Forget, ParentSource, Request, write_record
from expunge.digests import sha256_file
from expunge.evidence.database import Database
from expunge.evidence.keys import SigningKey
from expunge.evidence.statements import RoomPredicate, Statement, sign_statement
from expunge.measure.policy import preset_bytes
from expunge.room import STATEMENT_FILE
from expunge.runs import Run, RunState
from expunge.settings import KEYS_VARIABLE, RUN_VARIABLE, WORKSPACE_VARIABLE, Workspace
from pipelines.workspace import initialise

TIMES = 30
POLICY = preset_bytes("debug") + b"deadline_days: 5\n"
INDEX = "index.json"  # beside the workspace: how long its index took to make
PAGES = {
    "queue": "/", "queue, one state": "/?state=awaiting_approval", "audit trail": "/audit",
    "audit trail, in the middle": "/audit?before={half}", "audit trail, one person": "/audit?person=grace",
    "audit trail, a digest": "/audit?digest={digest}",
    "one run": "/runs/looked-at.1",
    "queue as JSON, 200 runs": "/api/v1/runs?limit=200",
    "50 proofs": "/api/v1/ledger/proofs?size={size}&{positions}",
}


def begin_runs(workspace: Workspace, count: int) -> None:
    """Requests, policies and states of so many runs."""
    from sqlalchemy import text

    rows: list[dict[str, Any]] = []
    for number in range(count):
        run = Run(workspace, f"request-{number}.1")
        if run.folder.exists():
            continue
        run.folder.mkdir(parents=True)
        run.policy_file.write_bytes(POLICY)
        write_record(run.request_file, Request(
            id=f"request-{number}", requester="ada", reason="safety", model=f"model-{number % 100}", policy="debug",
            checkpoint=ParentSource(uri="builtin:digits"), oracle=ClassifierSource(uri="builtin:oracle"),
            judge=ClassifierSource(uri="builtin:judge"), holdout=DataSource(uri="builtin:holdout"),
            forget=Forget(classes=(8,))))
        state = RunState(run=run.name, request_id=f"request-{number}", request_sha256=sha256_file(run.request_file),
                         attempt=1, state="running", started_at="2026-01-01T00:00:00+00:00")
        rows.append({"run": run.name, "state": ("awaiting_approval", "released", "refused")[number % 3],
                     "since": datetime.now(UTC).isoformat(timespec="seconds"), "record": state.record})
    if rows:
        with Database(workspace).ready().writing() as connection:
            connection.execute(text("INSERT INTO runs (run, state, revision, since, record) "
                                    "VALUES (:run, :state, 1, :since, :record)"), rows)


def enter_gates(workspace: Workspace, entries: int, count: int) -> None:
    """The gate's statement of each run that waits: beside its result, and at the end of the ledger."""
    waiting = range(0, count, 3)

    def made(position: int, key: SigningKey) -> bytes:
        number = waiting[position - entries]
        said = RoomPredicate(
            room="gate", run=f"request-{number}.1", inputs={}, params={}, code_sha256="0" * 64, image="", version="0",
            python="3", machine="any", started_at=datetime.now(UTC).isoformat(timespec="seconds"), seconds=1.0)
        signed = sign_statement(Statement.over({}, said), key)
        result = workspace.results / f"gate-{number:016x}-1"
        result.mkdir(parents=True, exist_ok=True)
        (result / STATEMENT_FILE).write_bytes(signed)
        return signed

    fill(workspace, entries + len(waiting), made)


def finish_one(workspace: Workspace) -> None:
    """One run that has come all the way to people."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from finished_run import FinishedRun
    from tests_support import write_policy

    if Run(workspace, "looked-at.1").page.exists():
        return
    os.environ[RUN_VARIABLE] = "looked-at.1"
    run = FinishedRun(workspace, name="looked-at.1", request_id="looked-at")
    write_policy(workspace, "debug", POLICY, run_folder=run.policy_file.parent)
    run.make().gate()
    run.as_run("awaiting_approval").page.write_text("<h1>Report</h1>")
    del os.environ[RUN_VARIABLE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--kept-index", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {KEYS_VARIABLE: str(folder / "keys"), WORKSPACE_VARIABLE: str(folder / ".expunge")}
        workspace = initialise(Workspace(folder / ".expunge"))
        fill(workspace, given.entries)
        enter_gates(workspace, given.entries, given.runs)
        begin_runs(workspace, given.runs)
        finish_one(workspace)
        if not given.kept_index:
            for file in (*workspace.root.glob(f"{FILE}*"), *folder.glob(INDEX)):
                file.unlink()
        load = os.getloadavg()[0]
        found: dict[str, Any] = {"entries": given.entries, "runs": given.runs, "times": TIMES, "load_average": load,
                                 **measured(workspace, given.entries, folder / INDEX)}
    lines = [f"{given.entries:,} entries, {given.runs:,} runs; load average of the machine when it began "
             f"{found['load_average']:.1f}", "", "| what | result |", "|---|---|",
             f"| index made from nothing, at a load of {found['index']['load_average']:.1f} | "
             f"{found['index']['seconds']} s, {found['index_mib']} MiB |",
             *(f"| {name} | {one['processor_ms']} ms of a processor; {one['median_ms']} ms, the longest of {TIMES} "
               f"{one['longest_ms']} ms |" for name, one in found["pages"].items()),
             f"| memory of the server | {found['memory_mib']} MiB at most |"]
    record("console", found, "\n".join(lines))


def measured(workspace: Workspace, entries: int, index: Path) -> dict[str, Any]:
    """What the server does, asked as a browser asks."""
    expunge = Path(sys.executable).with_name("expunge")
    began = time.monotonic()
    with subprocess.Popen([expunge, "console", "--port", "0", "--json"], stdout=subprocess.PIPE, text=True) as served:
        try:
            assert served.stdout is not None
            told = json.loads(served.stdout.readline())
            asker = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
            asker.open(told["link"]).read()
            while not _is_ready(told["address"]):
                time.sleep(0.2)
            if not index.exists():
                index.write_text(json.dumps({"seconds": round(time.monotonic() - began, 1),
                                             "load_average": os.getloadavg()[0]}))
            process = psutil.Process(served.pid)
            first = asker.open(f"{told['address']}/api/v1/ledger/entries?limit=1&before={entries // 3}").read()
            places = {"half": entries // 2, "size": entries, "digest": json.loads(first)["entries"][0]["sha256"],
                      "positions": "&".join(f"position={number * (entries // 50)}" for number in range(50))}
            pages = {name: timed(asker, told["address"] + path.format(**places), process)
                     for name, path in PAGES.items()}
            memory = process.memory_info().rss
            status = Path(f"/proc/{served.pid}/status").read_text()
            peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        finally:
            served.terminate()
    size = sum(file.stat().st_size for file in workspace.root.glob(f"{FILE}*"))
    return {"index": json.loads(index.read_text()), "index_mib": round(size / 2**20), "pages": pages,
            "memory_mib": round(int(peak[1]) / 1024 if peak else memory / 2**20)}


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz") as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def timed(asker: urllib.request.OpenerDirector, address: str, process: psutil.Process) -> dict[str, float]:
    """Milliseconds of each whole answer, the middle one and the longest; and of the server's processor, on average."""
    spent: list[float] = []
    before = process.cpu_times()
    for _ in range(TIMES):
        began = time.perf_counter()
        asker.open(address).read()
        spent.append((time.perf_counter() - began) * 1000)
        time.sleep(0.05)  # as many as one person may ask for in a second
    after = process.cpu_times()
    processor = (after.user + after.system - before.user - before.system) * 1000 / TIMES
    return {"processor_ms": round(processor, 1), "median_ms": round(statistics.median(spent), 1),
            "longest_ms": round(max(spent), 1)}


if __name__ == "__main__":
    main()
