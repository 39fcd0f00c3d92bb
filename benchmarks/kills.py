"""What does a kill leave behind, and does the same command end as if nothing had happened?

    python benchmarks/kills.py [--kills 200] [--seed 0] [--work FOLDER]

Small requests are run and killed at random moments with SIGKILL, the same command each time until it completes:
one time in two the supervisor is killed, else one of its descendants (engine, shell, step, Git), drawn at random.
The moment is uniform after the start of the command or, seven times in ten, after the next room with work to do.
After each kill: does a process live on, is a lock still held? After each completed run: is every file whole, is
every result what was signed, is the candidate that of an undisturbed run? `--work` is kept: the same command
continues a benchmark that was stopped.
"""

import argparse
import fcntl
import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import yaml
from recording import record

from expunge.errors import DoesNotVerify
from expunge.evidence.verify import verify_workspace
from expunge.room import verify_result
from expunge.settings import KEYS_VARIABLE, WORKSPACE_VARIABLE, Workspace
from pipelines.demo import request_for

EXPUNGE = Path(sys.executable).parent / "expunge"
REQUEST = "request.yaml"
ENDED = (0, 10, 20, 21, 22)  # a verdict, whichever: the smallest request need not forget well
KILLS_PER_RUN = 12  # then the run is left to complete
ORPHANS_WITHIN = 5.0  # seconds in which everything that belonged to a killed run must be gone
ALWAYS_ANEW = frozenset({"gate"})  # people sign and time passes: it has no result to reuse
LEFTOVERS = ("*.half", "*.scratch", "*.resume", "alive*", "cancel.*", "kfp*", ".*.tmp", "*-journal", ".current",
             ".git/*.lock", ".git/objects/??/tmp_obj_*")


def smallest_request() -> dict[str, Any]:
    """The demo's request with as little work as it can have: what is killed is the machinery, not the learning."""
    request = request_for(8, 0, True)
    request["method"]["params"] = {"steps": 10, "adapt_steps": 2, "fisher_samples": 8}
    return {**request, "sampling": {"curate": 600, "evaluate": 500}, "threads": 1}


def fresh(folder: Path) -> Workspace:
    """A new folder with the request and an empty workspace."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / REQUEST).write_text(yaml.safe_dump(smallest_request()))
    subprocess.run([EXPUNGE, "init"], cwd=folder, env=environment(folder), check=True, stdout=subprocess.DEVNULL)
    return Workspace(folder / ".expunge")


def environment(folder: Path) -> dict[str, str]:
    """Every process of a run carries the folder's name in its environment: that is how orphans are found."""
    return {**os.environ, WORKSPACE_VARIABLE: str(folder / ".expunge"), KEYS_VARIABLE: str(folder / "keys")}


def start(folder: Path) -> psutil.Popen:
    """The command, as a person would give it."""
    with (folder / "output.txt").open("ab") as output:
        return psutil.Popen([EXPUNGE, "run", REQUEST, "--json"], cwd=folder, env=environment(folder),
                            stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def victim_of(command: psutil.Popen, chance: random.Random) -> tuple[psutil.Process, str]:
    """Who is to be killed, and what it is."""
    below = command.children(recursive=True) if chance.random() < 0.5 else []
    if not below:
        return command, "supervisor"
    victim = chance.choice(below)
    line = " ".join(victim.cmdline())
    names = {"pipelines.engine": "engine", "kfp.dsl.executor_main": "step", "git": "git"}
    shell = Path(line.partition(" ")[0]).name in ("sh", "bash", "dash")
    return victim, "shell" if shell else next((name for part, name in names.items() if part in line), "other")


def belonging_to(folder: Path) -> list[str]:
    """Processes that work in a folder's workspace, whoever their parent is by now."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{folder}/".encode() in (entry / "environ").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


def orphans(folder: Path) -> tuple[int, float]:
    """How many processes still live when patience ends, and how long it took until there were none."""
    began = time.monotonic()
    while left := belonging_to(folder):
        if time.monotonic() - began > ORPHANS_WITHIN:
            return len(left), ORPHANS_WITHIN
        time.sleep(0.02)
    return 0, round(time.monotonic() - began, 3)


def held_locks(root: Path) -> list[str]:
    """Lock files of the workspace that stay held. A process that is ending lets go of its memory before its files."""
    until = time.monotonic() + ORPHANS_WITHIN
    while (held := locked_files(root)) and time.monotonic() < until:
        time.sleep(0.02)
    return held


def locked_files(root: Path) -> list[str]:
    """Lock files of the workspace that somebody holds at this moment."""
    held = []
    for pattern in ("*.lock", "alive.*"):
        for file in root.rglob(pattern):
            with file.open("rb") as handle:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    held.append(str(file.relative_to(root)))
    return held


def events(root: Path) -> list[dict[str, Any]]:
    """Everything that the rooms have said so far."""
    lines = b"".join(file.read_bytes() for file in sorted(root.glob("runs/*/events.jsonl"))).splitlines()
    return [json.loads(line) for line in lines]


def wait_for_work(command: psutil.Popen, root: Path, already: int) -> bool:
    """Waits until a room is entered that has something to do; whether that came before the end."""
    while command.poll() is None:
        lines = b"".join(file.read_bytes() for file in root.glob("runs/*/events.jsonl")).splitlines()[already:]
        if any(b'"started"' in line and b'"reused"' not in line for line in lines):
            return True
        time.sleep(0.05)
    return False


def cut_room(said: list[dict[str, Any]]) -> str:
    """The room that was at work when the last of these events was written."""
    for event in reversed(said):
        if event["kind"] in ("finished", "failed"):
            return f"after {event['room']}"
        if event["kind"] == "started":
            return str(event["room"])
    return "before the first room"


def redone(said: list[dict[str, Any]], since: int, until: int) -> list[str]:
    """Rooms that had finished before `since` and were entered for new work between `since` and `until`."""
    finished = {event["room"] for event in said[:since] if event["kind"] == "finished"}
    anew = {event["room"] for event in said[since:until] if event["kind"] == "started" and not event.get("reused")}
    return sorted((finished & anew) - ALWAYS_ANEW)


def candidate(root: Path) -> str:
    """The digest of the weights that the run made."""
    found = {json.loads(file.read_text())["weights"]["sha256"]
             for file in root.glob("results/unlearn-*/candidate/record.json")}
    return ", ".join(sorted(found))


def wrongs(workspace: Workspace) -> Iterator[str]:
    """Everything that is not as it must be in the workspace of a run that has completed."""
    root = workspace.root
    yield from (f"left behind: {file.relative_to(root)}" for pattern in LEFTOVERS for file in root.rglob(pattern))
    for file in (*root.glob("runs/*/*.json"), *root.glob("results/*/**/*.json")):
        try:
            json.loads(file.read_bytes())
        except ValueError:
            yield f"half written: {file.relative_to(root)}"
    for result in root.glob("results/*-*-[0-9]*"):
        if result.is_dir():
            try:
                verify_result(workspace, result)
            except DoesNotVerify as error:
                if not result.name.startswith("adapt-"):  # destroyed on purpose, and the ledger says so
                    yield str(error)
    for place in (workspace.sample_remote, workspace.samples / ".dvc" / "cache"):
        for file in place.glob("files/md5/??/*"):
            if hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() != file.parent.name + file.name:
                yield f"not its md5: {file.relative_to(root)}"
    for database in (workspace.ledger, workspace.tracking / "mlflow.db"):
        with closing(sqlite3.connect(database)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                yield f"damaged: {database.relative_to(root)}"
    for arguments in (("fsck", "--strict", "--no-dangling"), ("status", "--porcelain")):
        said = subprocess.run(["git", "-C", workspace.samples, *arguments], capture_output=True, text=True, check=False)
        if said.returncode or said.stdout:
            yield f"git {arguments[0]}: {said.stdout}{said.stderr}".strip()
    yield from (f"{found.object}: {found.message}" for found in verify_workspace(workspace) if not found.ok)


def killed_run(folder: Path, number: int, seed: int, span: float, kills: int, expected: str) -> list[dict[str, Any]]:
    """One run, killed up to `kills` times and then left to complete. One row per kill."""
    chance = random.Random(f"{seed}/{number}")
    workspace = fresh(folder)
    rows: list[dict[str, Any]] = []
    marks: list[int] = []
    code: int | None = None
    while code not in ENDED:
        moment, at_work = chance.uniform(0, span), chance.random() < 0.7
        already = len(events(workspace.root))
        command, began = start(folder), time.monotonic()
        try:
            if at_work:
                wait_for_work(command, workspace.root, already)
            code = command.wait(moment if len(rows) < kills else None)
            if code not in ENDED:
                raise SystemExit(f"{folder}: ended with {code} although nobody killed it; see output.txt")
            continue
        except psutil.TimeoutExpired:
            pass
        try:
            victim, what = victim_of(command, chance)
            seconds = time.monotonic() - began
            victim.kill()
        except psutil.NoSuchProcess:
            code = command.wait()
            continue
        code = command.wait()
        if code in ENDED:  # the run was over but for the telling
            what += ", at the very end"
        left, gone_after = orphans(folder)
        said = events(workspace.root)
        marks.append(len(said))
        rows.append({"run": number, "seconds": round(seconds, 2), "victim": what, "exit": code,
                     "cut": cut_room(said), "orphans": left, "gone_after": gone_after,
                     "locks_held": held_locks(workspace.root)})
    said = events(workspace.root)
    wrong, made = list(wrongs(workspace)), candidate(workspace.root)
    for row, since, until in zip(rows, marks, [*marks[1:], len(said)], strict=True):
        row |= {"redone": redone(said, since, until), "candidate_same": made == expected, "wrong": wrong}
    return rows


def benchmark(kills: int, seed: int, work: Path) -> dict[str, Any]:
    """All the kills, continuing where an earlier call was stopped."""
    work.mkdir(parents=True, exist_ok=True)
    log = work / "rows.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    began = time.monotonic()
    undisturbed = fresh(work / "undisturbed")
    if (code := start(work / "undisturbed").wait()) not in ENDED:
        raise SystemExit(f"the undisturbed run ended with {code}; see {work / 'undisturbed' / 'output.txt'}")
    seconds, expected = time.monotonic() - began, candidate(undisturbed.root)
    began, before = time.monotonic(), len(rows)
    number = max((row["run"] for row in rows), default=0)
    while len(rows) < kills:
        number += 1
        made = killed_run(work / f"run-{number}", number, seed, 0.2 * seconds, min(KILLS_PER_RUN, kills - len(rows)),
                          expected)
        with log.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in made)
        rows += made
        left = (kills - len(rows)) * (time.monotonic() - began) / max(1, len(rows) - before)
        bad = [row for row in made if not is_good(row)]
        print(f"{len(rows)} of {kills} kills, {number} runs, {left / 60:.0f} min left"
              + "".join(f"\n  {row}" for row in bad), file=sys.stderr, flush=True)
        if not bad:
            shutil.rmtree(work / f"run-{number}")
    return {"seed": seed, "request": smallest_request(), "undisturbed_seconds": round(seconds, 1),
            "candidate_sha256": expected, "rows": rows}


def is_good(row: dict[str, Any]) -> bool:
    """Whether a kill did no harm."""
    return not (row["orphans"] or row["locks_held"] or row["redone"] or row["wrong"]) and bool(row["candidate_same"])


def table(found: dict[str, Any]) -> str:
    """A summary, then one line per kill."""
    rows = found["rows"]
    runs = len({row["run"] for row in rows})
    slowest = max(row["gone_after"] for row in rows)
    lines = [
        f"{len(rows)} kills in {runs} runs, seed {found['seed']}. {sum(map(is_good, rows))} did no harm.", "",
        "| what must not be | seen |", "|---|---|",
        f"| a process that lived on for {ORPHANS_WITHIN:.0f} s (the slowest was gone after {slowest:.2f} s)"
        f" | {sum(row['orphans'] > 0 for row in rows)} |",
        f"| a lock that stayed held | {sum(bool(row['locks_held']) for row in rows)} |",
        f"| a finished room done again | {sum(bool(row['redone']) for row in rows)} |",
        f"| another candidate than undisturbed | {sum(not row['candidate_same'] for row in rows)} |",
        f"| something half written, left behind or unverifiable | {sum(bool(row['wrong']) for row in rows)} |", "",
        "Killed: " + ", ".join(f"{what} {count}" for what, count in Counter(
            row["victim"].partition(",")[0] for row in rows).most_common()) + ".",
        "At work: " + ", ".join(f"{what} {count}" for what, count in Counter(row["cut"] for row in rows).most_common())
        + ".", "",
        "| run | after, s | killed | at work | exit | orphans | gone after, s | finished rooms redone | candidate same"
        " | wrong |", "|---|---|---|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['run']} | {row['seconds']} | {row['victim']} | {row['cut']} | {row['exit']} | {row['orphans']} |"
        f" {row['gone_after']} | {', '.join(row['redone']) or 'none'} | {'yes' if row['candidate_same'] else 'NO'} |"
        f" {'; '.join(row['wrong']) or 'nothing'} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Kills, checks, writes the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--work", type=Path, help="where runs lie and rows are kept; to continue, name it again")
    given = arguments.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="kills-"))
    print(f"working in {work}", file=sys.stderr)
    found = benchmark(given.kills, given.seed, work.absolute())
    record("kills", found, table(found))


if __name__ == "__main__":
    main()
