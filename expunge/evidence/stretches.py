"""The ledger's tables as they lie, many rows at a time: what whoever looks at all of it reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.evidence.database import Database
from expunge.evidence.tree import edge_of

if TYPE_CHECKING:
    from sqlalchemy import Connection

STRETCH = 1 << 12  # entries that are read at a time; a power of two, so that each stretch is a subtree of its own
MISSING = bytes(32)  # stands for a hash that is not there: no entry and no subtree has it

Edge = tuple[bytes, ...]  # the complete subtrees that make up a tree

_TABLES = (("entries", "position", 1), ("checkpoints", "size", 1), ("digests", "position", 2),
           ("keyring_changes", "position", 3))  # name, key, and the first version of the schema that has it


@dataclass(frozen=True)
class Extent:
    """How much a ledger holds at one moment. What is appended later is not in it."""

    entries: int
    newest: int  # entries that the newest checkpoint is over; -1 without any
    astray: tuple[tuple[str, int], ...]  # rows that so many entries have no place for: table and key, some of each
    subtree: tuple[int, int] | None  # the first such subtree: level and position


@dataclass(frozen=True)
class Stretch:
    """All that is stored of the entries from one position to another."""

    entries: dict[int, tuple[bytes, bytes]]  # by position: leaf hash, envelope
    notes: dict[int, bytes]  # by size, of the trees that end with one of these entries
    digests: dict[int, bytes] | None  # None: written by an expunge that did not note them yet; and so of what follows
    keyring_changes: set[int] | None  # entries that are noted to change the keyring
    subtrees: dict[tuple[int, int], bytes]  # those that lie wholly in the stretch
    edge: Edge  # of the tree over all before it


def measure(database: Database, some: int) -> Extent:
    """How much there is now, and at most `some` rows of each table that have no place in it."""
    version = database.version()

    def look(connection: "Connection") -> Extent:
        entries, highest, newest = (_one(connection, query) for query in (
            "SELECT count(*) FROM entries", "SELECT coalesce(max(position), -1) FROM entries",
            "SELECT coalesce(max(size), -1) FROM checkpoints"))
        if entries <= highest < entries + some:  # a few are missing; a position out of all proportion is astray
            entries = highest + 1
        astray = [(table, int(row[0])) for table, key, since in _TABLES if since <= version
                  for beyond in ("< 0", ">= :end") for row in _rows(  # each finds its place at once, both would not
                      connection, f"SELECT {key} FROM {table} WHERE {key} {beyond} ORDER BY {key} LIMIT :some",
                      end=entries + (table == "checkpoints"), some=some)]
        return Extent(entries, newest, tuple(astray), _without_entries(connection, entries))

    return database.read(look)


def _without_entries(connection: "Connection", entries: int) -> tuple[int, int] | None:
    """The first stored subtree that so many entries do not complete."""
    highest = entries.bit_length()
    spare = [("level < 0", 0, 0), *((f"level = :level AND position {beyond}", level, entries >> level)
                                    for level in range(highest) for beyond in ("< 0", ">= :end")),
             ("level >= :level", highest, 0)]
    for where, level, end in spare:
        query = f"SELECT level, position FROM nodes WHERE {where} ORDER BY level, position LIMIT 1"
        for row in _rows(connection, query, level=level, end=end):
            return int(row[0]), int(row[1])
    return None


def read(database: Database, start: int, end: int) -> Stretch:
    """What is stored of the entries from `start`, a multiple of `STRETCH`, to before `end`."""
    version = database.version()

    def look(connection: "Connection") -> Stretch:
        between: dict[str, Any] = {"start": start, "end": end}
        entries = {row[0]: (_bytes(row[1]), _bytes(row[2])) for row in _rows(
            connection, "SELECT position, leaf, envelope FROM entries WHERE position >= :start AND position < :end",
            **between)}
        notes = {row[0]: _bytes(row[1]) for row in _rows(
            connection, "SELECT size, note FROM checkpoints WHERE size > :start AND size <= :end", **between)}
        digests = {row[0]: _bytes(row[1]) for row in _rows(
            connection, "SELECT position, sha256 FROM digests WHERE position >= :start AND position < :end", **between)
        } if version >= 2 else None
        changes = {row[0] for row in _rows(
            connection, "SELECT position FROM keyring_changes WHERE position >= :start AND position < :end", **between)
        } if version >= 3 else None
        subtrees = {(level, row[0]): _bytes(row[1]) for level in range((end - start).bit_length()) for row in _rows(
            connection, "SELECT position, hash FROM nodes WHERE level = :level AND position >= :start "
            "AND position < :end", level=level, start=start >> level, end=end >> level)}
        edge = tuple(_subtree(connection, level, position) for level, position in edge_of(start))
        return Stretch(entries, notes, digests, changes, subtrees, edge)

    return database.read(look)


def read_note(database: Database, size: int) -> bytes | None:
    """The checkpoint signed over so many entries, if there is one."""
    found = database.read(lambda connection: next(
        _rows(connection, "SELECT note FROM checkpoints WHERE size = :size", size=size), None))
    return None if found is None else _bytes(found[0])


def read_subtree(database: Database, level: int, position: int) -> bytes:
    """A subtree's stored hash; `MISSING` if it is."""
    return database.read(lambda connection: _subtree(connection, level, position))


def _subtree(connection: "Connection", level: int, position: int) -> bytes:
    found = next(_rows(connection, "SELECT hash FROM nodes WHERE level = :level AND position = :position",
                       level=level, position=position), None)
    return MISSING if found is None else _bytes(found[0])


def _bytes(stored: Any) -> bytes:
    """What a table that was made anew without its types may hold instead of bytes is at least not what is expected."""
    return bytes(stored) if isinstance(stored, bytes | memoryview) else repr(stored).encode()


def _one(connection: "Connection", query: str) -> int:
    return int(next(_rows(connection, query))[0])


def _rows(connection: "Connection", query: str, **given: Any) -> Iterator[Any]:
    from sqlalchemy import text

    return iter(connection.execute(text(query), given).fetchall())
