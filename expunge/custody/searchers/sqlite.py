"""SQLite databases: every value of every table. Pages that were freed are not read: see docs/disposal.md."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

from expunge.custody.contents import MOST_AT_ONCE, Content, Piece, Unread


class SqliteDatabases:
    """Blobs are opened, and so are texts that are long enough to hold an image."""

    name, version = "SQLite databases", 1
    finds = "blobs and long texts of every table"

    def knows(self, head: bytes, content: Content) -> bool:
        """By the header string of the file format."""
        return head.startswith(b"SQLite format 3\0")

    def look(self, content: Content) -> Iterator[Piece]:
        """Table by table, value by value."""
        with closing(_open(content)) as database:
            database.text_factory = bytes
            tables = [row[0].decode() for row in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")]
            for table in tables:
                quoted = table.replace('"', '""')
                rows = database.execute(f'SELECT * FROM "{quoted}"')
                names = [column[0] for column in rows.description]
                for number, row in enumerate(rows):
                    for name, value in zip(names, row, strict=True):
                        if not isinstance(value, bytes) or len(value) < _SHORTEST:
                            continue
                        where = content.inside(f"{table}.{name}[{number}]")
                        if len(value) > MOST_AT_ONCE:
                            yield Unread(where, f"has {len(value):,} bytes")
                        else:
                            yield Content.of_bytes(where, value, content.depth + 1)


_SHORTEST = 32  # bytes: no image file and no array is shorter


def _open(content: Content) -> sqlite3.Connection:
    if content.file is None:
        database = sqlite3.connect(":memory:")
        database.deserialize(content.read())
        return database
    address = content.file.absolute().as_uri()
    try:
        database = sqlite3.connect(f"{address}?mode=ro", uri=True)
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:  # a journal beside it that nobody may write: what the file itself says
        database = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True)
    return database
