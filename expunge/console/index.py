"""What lets the pages answer at once however long the ledger is: which entries speak of what, and where runs stand.

It says which entries and runs belong on a page, and nothing more: what a page shows of them is read from the ledger and
the database, and verified. It can be deleted at any time, and is made again.
"""

import base64
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from expunge.contracts import Request, read_record
from expunge.digests import sha256_bytes
from expunge.errors import ExpungeError
from expunge.evidence import states
from expunge.evidence.coherence import parse_policy
from expunge.evidence.database import Database
from expunge.evidence.decisions import PAYLOAD_TYPE as DECISION
from expunge.evidence.keys import Keyring
from expunge.evidence.ledger import Entry, Ledger
from expunge.evidence.policies import PAYLOAD_TYPE as POLICY
from expunge.runs import Run
from expunge.settings import Workspace

FILE = "console.sqlite"
_VERSION = 1
_AT_A_TIME = 2_000  # entries or runs that one look takes in: others wait for their page meanwhile
_SHORT = 16  # hex digits by which a digest is found
_NEVER = "9999"  # sorts after every date

# What people come for stands first.
_RANKS: dict[states.State, int] = {
    "awaiting_approval": 0, "inconclusive": 1, "approved": 2, "releasing": 3, "running": 4, "failed": 5}
_SCHEMA = f"""
CREATE TABLE terms (term TEXT, position INTEGER, PRIMARY KEY (term, position)) WITHOUT ROWID;
CREATE TABLE taken (one INTEGER PRIMARY KEY CHECK (one = 0), entries INTEGER, last TEXT);
INSERT INTO taken VALUES (0, 0, '');
CREATE TABLE runs (run TEXT PRIMARY KEY, revision INTEGER, state TEXT, rank INTEGER, deadline TEXT, recent INTEGER,
                   request TEXT, requester TEXT, model TEXT, due TEXT, attempt INTEGER, decided INTEGER, since TEXT);
CREATE INDEX by_rank ON runs (rank, deadline, recent, run);
CREATE INDEX by_state ON runs (state, deadline, recent, run);
CREATE INDEX by_request ON runs (request, decided);
PRAGMA user_version = {_VERSION};
"""


@dataclass(frozen=True)
class Row:
    """A run, as the queue lists it."""

    run: str
    state: states.State
    request: str
    requester: str
    model: str
    deadline: str | None  # until when people may decide; null if there is no such moment
    due: str | None  # the day by which the request is to be answered
    attempt: int
    since: str


@dataclass(frozen=True)
class Behind:
    """How much of what there is the index does not know yet."""

    entries: int
    runs: int


class Index:
    """One file beside the ledger. Any number of threads may ask; one at a time brings it up to date."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._lock = threading.RLock()
        self._seen: tuple[int, int] | None = None  # of the runs: how many, and how often they were written
        self._file = sqlite3.connect(workspace.root / FILE, check_same_thread=False, isolation_level=None, timeout=30)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = OFF")  # what a crash takes is made again
        if self._file.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            self._begin()

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            self._file.close()

    def _begin(self) -> None:
        for name in ("terms", "taken", "runs"):
            self._file.execute(f"DROP TABLE IF EXISTS {name}")
        self._file.executescript(_SCHEMA)
        self._seen = None

    # ------------------------------------------------------------------------------------ keeping up

    def refresh(self) -> Behind:
        """Takes in what is new, as much as does not keep others waiting; says how much is left."""
        with self._lock:
            entries = self._take_entries()  # first, for they say until when a run may be decided on
            return Behind(entries=entries, runs=self._take_runs() if not entries else 1)

    def _take_entries(self) -> int:
        ledger = Ledger.existing(self._workspace)
        (taken, last), size = self._taken(), ledger.size
        if taken > size or (taken and ledger.entry(taken - 1).sha256 != last):
            self._begin()  # another ledger lies there: restored, or moved
            taken = 0
        if taken == size:
            return 0
        people = {entry.key_id: entry.person for entry in Keyring.load(self._workspace).entries}
        rows: list[tuple[str, int]] = []
        for entry in ledger.entries(taken):
            rows += [(term, entry.position) for term in _terms(entry, people)]
            taken, last = entry.position + 1, entry.sha256
            if taken >= size or len(rows) >= _AT_A_TIME * 8:
                break
        with self._transaction():
            self._file.executemany("INSERT OR IGNORE INTO terms VALUES (?, ?)", rows)
            self._file.execute("UPDATE taken SET entries = ?, last = ?", (taken, last))
        return size - taken

    def _taken(self) -> tuple[int, str]:
        entries, last = self._file.execute("SELECT entries, last FROM taken").fetchone()
        return entries, last

    def _take_runs(self) -> int:
        from sqlalchemy import text

        with Database(self._workspace).reading() as connection:
            row = connection.execute(text("SELECT count(*), coalesce(sum(revision), 0) FROM runs")).one()
            found = (int(row[0]), int(row[1]))  # each change adds one to a revision, and runs are only added
            if found == self._seen:
                return 0
            known = dict(self._file.execute("SELECT run, revision FROM runs").fetchall())
            changed = [run for run, revision in connection.execute(text("SELECT run, revision FROM runs"))
                       if known.get(run) != revision]
            standings = [standing for run in changed[:_AT_A_TIME] if (standing := states.find(connection, run))]
        rows = [self._row(standing) for standing in standings]
        with self._transaction():
            self._file.executemany(f"INSERT OR REPLACE INTO runs VALUES ({', '.join('?' * 13)})", rows)
        left = len(changed) - len(standings)
        if not left:
            self._seen = found
        return left

    def _row(self, standing: states.Standing) -> tuple[Any, ...]:
        record = json.loads(standing.record)
        run = Run(self._workspace, standing.run)
        request: Request | None = None
        deadline = _NEVER
        try:
            request = read_record(Request, run.request_file)
            if standing.state == "awaiting_approval":
                deadline = self._deadline(standing.run, run.policy_file.read_bytes())
        except (ExpungeError, OSError):
            pass  # its own page says what is wrong with it
        written = datetime.fromisoformat(standing.since)
        return (standing.run, standing.revision, standing.state, _RANKS.get(standing.state, 6), deadline,
                -int(written.timestamp()), record.get("request_id", ""), request.requester if request else "",
                request.model if request else "", request.due.isoformat() if request and request.due else None,
                record.get("attempt", 1), int("gate" in record.get("rooms", {})), standing.since)

    def _deadline(self, run: str, policy: bytes) -> str:
        days = parse_policy(policy).deadline_days
        if days is None:
            return _NEVER
        first = self._file.execute("SELECT min(position) FROM terms WHERE term = ?", (f"gate:{run}",)).fetchone()[0]
        if first is None:
            return _NEVER
        _, said, _ = _payload(Ledger.existing(self._workspace).entry(first).envelope)
        said = said["predicate"]
        ended = datetime.fromisoformat(said["started_at"]) + timedelta(seconds=said["seconds"])
        return (ended + timedelta(days=days)).astimezone(UTC).isoformat(timespec="seconds")

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._file)

    # ------------------------------------------------------------------------------------ asking

    def runs(self, state: str | None, after: tuple[Any, ...] | None, limit: int) -> tuple[list[Row], list[Any] | None]:
        """Runs from a place on, those that wait for people first, by deadline; and the place where to go on."""
        first, given = ("state", [state]) if state else ("rank", [])
        key = f"{first}, deadline, recent, run"
        where = "WHERE state = ?" if state else "WHERE 1"
        if after is not None:
            where += f" AND ({key}) > (?, ?, ?, ?)"
            given += list(after)
        with self._lock:
            found = self._file.execute(
                f"SELECT run, state, request, requester, model, deadline, due, attempt, since, {first}, recent "
                f"FROM runs {where} ORDER BY {key} LIMIT ?", (*given, limit + 1)).fetchall()
        rows = [Row(run=one[0], state=one[1], request=one[2], requester=one[3], model=one[4],
                    deadline=None if one[5] == _NEVER else one[5], due=one[6], attempt=one[7], since=one[8])
                for one in found[:limit]]
        last = found[limit - 1] if len(found) > limit else None
        return rows, None if last is None else [last[9], last[5], last[10], last[0]]

    def states(self) -> dict[str, int]:
        """How many runs are in each state that there is one in."""
        with self._lock:
            return dict(self._file.execute("SELECT state, count(*) FROM runs GROUP BY state").fetchall())

    def attempts(self, request: str) -> int:
        """How many runs of a request came to a verdict."""
        with self._lock:
            return int(self._file.execute("SELECT count(*) FROM runs WHERE request = ? AND decided = 1",
                                          (request,)).fetchone()[0])

    def positions(self, terms: Iterable[str], digest: str | None, before: int | None, limit: int) -> list[int]:
        """Entries of which all this is true, the newest first, those before a position; `digest` may be a beginning."""
        exact = list(terms)
        if digest is not None and len(digest) >= _SHORT:
            exact.append(f"digest:{digest[:_SHORT]}")
            digest = None
        end = before if before is not None else 1 << 62
        joined = " ".join(f"JOIN terms t{number} ON t{number}.position = t0.position AND t{number}.term = ?"
                          for number in range(1, len(exact)))
        with self._lock:
            if digest is None:
                found = self._file.execute(
                    f"SELECT t0.position FROM terms t0 {joined} WHERE t0.term = ? AND t0.position < ? "
                    "ORDER BY t0.position DESC LIMIT ?", (*exact[1:], exact[0], end, limit)).fetchall()
            else:
                low, high = f"digest:{digest}", f"digest:{digest}g"
                also = " ".join("AND EXISTS (SELECT 1 FROM terms o WHERE o.term = ? AND o.position = t0.position)"
                                for _ in exact)
                found = self._file.execute(
                    f"SELECT DISTINCT t0.position FROM terms t0 WHERE t0.term >= ? AND t0.term < ? AND t0.position < ? "
                    f"{also} ORDER BY t0.position DESC LIMIT ?", (low, high, end, *exact, limit)).fetchall()
        return [one[0] for one in found]


class _Transaction:
    """All of it or nothing."""

    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    def __enter__(self) -> None:
        self._file.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.execute("ROLLBACK" if kind else "COMMIT")


def called(predicate_type: str) -> str:
    """What people call a kind of statement: `room` of `urn:expunge:predicate:room:v1`."""
    return predicate_type.rpartition(":predicate:")[2].partition(":")[0]


def _payload(envelope: bytes) -> tuple[str, dict[str, Any], str]:
    document = json.loads(envelope)
    said, key_id = json.loads(base64.b64decode(document["payload"])), document["signatures"][0]["keyid"]
    return document["payloadType"], said, key_id


def _terms(entry: Entry, people: dict[str, str]) -> Iterator[str]:
    """What an entry is found by, before anything of it is verified."""
    yield f"digest:{sha256_bytes(entry.envelope)[:_SHORT]}"
    try:
        kind, said, key_id = _payload(entry.envelope)
    except (ValueError, KeyError, TypeError, IndexError):
        return  # its line in the trail says that it does not verify
    if key_id in people:
        yield f"person:{people[key_id]}"
    about = said if kind in (DECISION, POLICY) else said.get("predicate", {})
    about = about.get("receipt", about)
    named = "decision" if kind == DECISION else "policy" if kind == POLICY else called(
        str(said.get("predicateType", "")))
    yield f"kind:{named}"
    for field in ("by", "person"):
        if isinstance(about.get(field), str):
            yield f"person:{about[field]}"
    if isinstance(run := about.get("run"), str):
        yield f"run:{run}"
        yield f"request:{about.get('request_id') or run.rpartition('.')[0]}"
        if named == "room" and about.get("room") == "gate":
            yield f"gate:{run}"
    elif isinstance(about.get("request_id"), str):
        yield f"request:{about['request_id']}"
    for digest in _digests(said, about):
        yield f"digest:{digest[:_SHORT]}"
    if named == "run":
        for use in about.get("rooms", {}).values():
            yield f"digest:{use['statement_sha256'][:_SHORT]}"


def _digests(said: dict[str, Any], about: dict[str, Any]) -> Iterator[str]:
    for subject in said.get("subject", ()):
        yield subject["digest"]["sha256"]
    for value in about.get("inputs", {}).values():
        if isinstance(value, str):
            yield value
    for name, value in about.items():
        if name.endswith("_sha256") and isinstance(value, str):
            yield value
    yield from (one for one in about.get("sample_sets", ()) if isinstance(one, str))
