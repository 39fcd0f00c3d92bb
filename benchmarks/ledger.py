"""How long do a proof, a full verification and an append take in a ledger of a million entries?

    python benchmarks/ledger.py [--entries 1000000] [--signed 100000] [--work FOLDER]

The ledger is filled past its own append, in large transactions; every envelope and every checkpoint is really signed.
Then: inclusion and consistency proofs at random places; what `expunge audit verify` does with a ledger, by as many
processes as there are cores, once with every signature, of another ledger of `--signed` entries, and once through all
of it with the newest checkpoint's alone, which is over every byte; and appends one by one with ``synchronous=FULL``.
On a busy machine what a processor spends on each entry is the figure to compare, not the rate. Memory is that of all
processes together. `--work` is kept and used again.
"""

import argparse
import os
import random
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
from recording import record

from expunge.digests import sha256_bytes
from expunge.evidence.checkpoints import Checkpoint, open_checkpoint, sign_checkpoint
from expunge.evidence.keys import OPERATOR, Keyring, SigningKey
from expunge.evidence.ledger import Ledger
from expunge.evidence.statements import RollbackPredicate, Statement, sign_statement
from expunge.evidence.tree import Growing, leaf_hash, verify_consistency, verify_inclusion
from expunge.evidence.verify_ledger import verify_ledger
from expunge.settings import KEYS_VARIABLE, Workspace
from pipelines.workspace import initialise

PROOFS, APPENDS, BATCH = 500, 500, 10_000


def envelope(number: int, key: SigningKey) -> bytes:
    """A signed statement of the size of a small room's, and of no file that would have to be there."""
    digest = f"{number:064x}"
    said = RollbackPredicate(model="benchmark", from_sha256=digest, to_sha256=digest, to_generation=number, by="grace",
                             reason="to measure with", at="2026-01-02T03:04:05+00:00")
    return sign_statement(Statement.over({
        f"releases/benchmark/{number}-{digest[:12]}/{name}": digest for name in ("model.safetensors", "release.json")
    }, said), key)


def fill(workspace: Workspace, entries: int, made: Callable[[int, SigningKey], bytes] = envelope) -> float:
    """Brings a ledger up to so many entries, as they are `made` by their number; the seconds that it took."""
    ledger, key, tree = Ledger.open(workspace), SigningKey.load(workspace, OPERATOR), Growing()
    for entry in ledger.entries():
        tree.add(leaf_hash(entry.envelope))
    origin, began = ledger.head.origin, time.monotonic()
    with closing(sqlite3.connect(workspace.ledger)) as database:
        database.execute("PRAGMA synchronous = OFF")
        while tree.size < entries:
            rows: dict[str, list[tuple[Any, ...]]] = {"entries": [], "nodes": [], "checkpoints": [], "digests": []}
            for number in range(tree.size, min(tree.size + BATCH, entries)):
                signed = made(number, key)
                leaf = leaf_hash(signed)
                rows["entries"].append((number, leaf, signed))
                rows["nodes"] += tree.add(leaf)
                rows["digests"].append((bytes.fromhex(sha256_bytes(signed)), number))
                head = Checkpoint(origin=origin, size=tree.size, root=tree.root.hex())
                rows["checkpoints"].append((tree.size, sign_checkpoint(head, key)))
            for table, values in rows.items():
                database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values[0]))})", values)
            database.commit()
    return time.monotonic() - began


def timed(work: Callable[[int], None], numbers: Iterator[int]) -> dict[str, float]:
    """Milliseconds of each call: the middle one and the longest."""
    spent = []
    for number in numbers:
        began = time.perf_counter()
        work(number)
        spent.append((time.perf_counter() - began) * 1000)
    return {"median_ms": round(statistics.median(spent), 2), "longest_ms": round(max(spent), 2)}


def proofs(ledger: Ledger, seed: int) -> dict[str, Any]:
    """Proofs at random places, each verified afterwards."""
    chance, head = random.Random(seed), ledger.head
    root, made = bytes.fromhex(head.root), {}

    def include(position: int) -> None:
        made[position] = ledger.inclusion(position, head.size)

    found = {"inclusion": timed(include, (chance.randrange(head.size) for _ in range(PROOFS)))}
    assert all(verify_inclusion(leaf_hash(ledger.entry(position).envelope), position, head.size, proof, root)
               for position, proof in made.items())
    made.clear()

    def begin(first: int) -> None:
        made[first] = ledger.consistency(first, head.size)

    found["consistency"] = timed(begin, (chance.randrange(1, head.size) for _ in range(PROOFS)))
    notes = {size: note for size, note in ledger.checkpoints() if size in made}
    for first, proof in made.items():
        older = bytes.fromhex(open_checkpoint(notes[first], ledger.keyring)[0].root)
        assert verify_consistency(first, head.size, proof, older, root)
    return found


def verified(workspace: Workspace, signatures: bool) -> dict[str, Any]:
    """A whole ledger as `audit verify` looks at it: entries per second, and memory on the way."""
    memory: list[float] = []
    done = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not done.wait(0.5):
            with suppress(psutil.Error):
                memory.append(sum(one.memory_info().rss for one in (me, *me.children(recursive=True))) / 2**20)

    watching = threading.Thread(target=watch)
    watching.start()
    began, spent = time.monotonic(), _processor_seconds()
    try:
        for finding in verify_ledger(workspace, Keyring.load(workspace), signatures=signatures):
            assert finding.ok, finding
    finally:
        done.set()
        watching.join()
    seconds, processor = time.monotonic() - began, _processor_seconds() - spent
    entries = Ledger.existing(workspace).size
    tenth = memory[len(memory) // 10:len(memory) // 5 + 1]
    return {"entries": entries, "seconds": round(seconds, 1), "entries_per_second": round(entries / seconds),
            "processor_microseconds_per_entry": round(processor / entries * 1e6, 1),
            "memory_mib_early": round(max(tenth), 1), "memory_mib_at_most": round(max(memory), 1)}


def _processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def appends(ledger: Ledger, workspace: Workspace) -> dict[str, Any]:
    """Appends one by one, each durable."""
    key, start = SigningKey.load(workspace, OPERATOR), ledger.size
    signed = [envelope(start + number, key) for number in range(APPENDS)]
    began = time.monotonic()
    found = timed(lambda number: ledger.append(signed[number]) and None, iter(range(APPENDS)))
    return {**found, "per_second": round(APPENDS / (time.monotonic() - began), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--signed", type=int, default=100_000, help="how many are verified with every signature")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[KEYS_VARIABLE] = str(folder / "keys")
        workspace = initialise(Workspace(folder / ".expunge"))
        filled, signed = fill(workspace, given.entries), workspace
        if given.signed < given.entries:
            signed = initialise(Workspace(folder / "signed" / ".expunge"))
            fill(signed, given.signed)
        ledger = Ledger.open(workspace)
        found: dict[str, Any] = {
            "entries": ledger.size, "seed": given.seed, "bytes": workspace.ledger.stat().st_size,
            "filled_in_seconds": round(filled, 1), "load_average": os.getloadavg()[0], **proofs(ledger, given.seed),
            "verified": verified(signed, signatures=True),
            "verified_by_the_newest_checkpoint": verified(workspace, signatures=False),
            "append": appends(ledger, workspace)}
    lines = [f"{found['entries']:,} entries, {found['bytes'] / 2**20:,.0f} MiB; load average of the machine when it "
             f"began {found['load_average']:.1f}", "", "| what | result |", "|---|---|"]
    for name in ("inclusion", "consistency"):
        lines.append(f"| {name} proof | {found[name]['median_ms']} ms, the longest of {PROOFS} "
                     f"{found[name]['longest_ms']} ms |")
    for name, what in (("verified", "verified, with the envelope's and the checkpoint's signature of each entry"),
                       ("verified_by_the_newest_checkpoint", "the same, with the newest checkpoint's signature alone")):
        one = found[name]
        lines.append(f"| {what}: {one['entries']:,} entries | {one['entries_per_second']:,} entries/s; "
                     f"{one['processor_microseconds_per_entry']} µs of a processor for each; {one['memory_mib_early']} "
                     f"MiB after a tenth of the time, {one['memory_mib_at_most']} MiB at most |")
    lines.append(f"| append, synchronous=FULL | {found['append']['per_second']} /s; {found['append']['median_ms']} ms, "
                 f"the longest of {APPENDS} {found['append']['longest_ms']} ms |")
    record("ledger", found, "\n".join(lines))


if __name__ == "__main__":
    main()
