"""The one database of an installation: the ledger, and where each run stands.

SQLite, in a file of the workspace, or a PostgreSQL server if ``config.yaml`` gives its address. What is written is
written by one at a time (SQLite's ``BEGIN IMMEDIATE``, an advisory lock on PostgreSQL), in transactions that are on
the disk when they are over (``synchronous=FULL``, ``synchronous_commit=on``).

A server that goes away is waited for, with `read` and `write`: as long as ``database_wait`` of the configuration says,
from when it was first missed. A question or a transaction that it took along is begun anew.

The schema's versions are Alembic's, in `migrations/`. SQLAlchemy and Alembic are imported where they are first needed:
most commands and rooms never come here.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from expunge.configuration import CONFIG_FILE, Configuration
from expunge.errors import BadInput, DoesNotVerify, ExpungeError, NoSpace, WorkspaceBusy, out_of_space
from expunge.patience import Patience
from expunge.settings import Workspace

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, RowMapping, TextClause
    from sqlalchemy.exc import DBAPIError

Answer = TypeVar("Answer")

VERSION = 3  # of the schema, as this code knows it
WAIT_SECONDS = 10.0  # a transaction takes milliseconds; longer means that somebody holds the database
PAGE = 1_000  # rows read at a time

_MIGRATIONS = Path(__file__).with_name("migrations")
_ONE_WRITER = int.from_bytes(b"expunge")  # the advisory lock that whoever writes to PostgreSQL holds
_LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's code for a lock that was waited for in vain
_SHUT_DOWN = {"57P01", "57P02", "57P03"}  # by an admin, by a crash, and not up again
# A refusal to connect has no code, only words. What waiting mends is the rest, whatever language the server speaks.
_FOR_GOOD = ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password supplied",
             "permission denied", "is not permitted to log in")


class Database:
    """A workspace's database. Knows what it is and who writes; what is in it, others know."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        configuration = Configuration.load(workspace)
        self._address, self._patience = configuration.database, configuration.database_wait
        if self._address is not None and workspace.ledger.exists():
            raise BadInput(f"database: {CONFIG_FILE} names another, and {workspace.ledger} has been begun",
                           "'expunge audit move' moves it there; or take 'database' out again")
        if self._address is None and moved_file(workspace).exists() and not workspace.ledger.exists():
            raise BadInput(f"database: {CONFIG_FILE} names none, and the ledger was moved to one",
                           "name it there again")

    @classmethod
    def at(cls, workspace: Workspace, address: str | None) -> "Database":
        """The one at an address, or the file in the workspace, whichever is in use: of two, for moving."""
        found = cls.__new__(cls)
        found._workspace, found._address = workspace, address
        found._patience = Configuration.load(workspace).database_wait
        return found

    @property
    def name(self) -> str:
        """What it is called in messages: the file's name, or `database`."""
        return self._workspace.ledger.name if self._address is None else "database"

    def begin(self, with_what: Callable[["Connection"], None]) -> None:
        """Makes today's schema where there is nothing yet, and what is to be in it from the start."""
        self._workspace.ledger.parent.mkdir(parents=True, exist_ok=True)
        self.write(lambda connection: self.begin_in(connection, with_what))

    def begin_in(self, connection: "Connection", with_what: Callable[["Connection"], None]) -> bool:
        """The same as part of a transaction; whether there was nothing yet."""
        if _version_of(connection):  # somebody else may have begun it meanwhile
            return False
        self._migrate(connection)
        with_what(connection)
        return True

    def ready(self) -> "Database":
        """Itself, brought up to today's schema if it is older; what has not been begun stays so.

        Raises:
            BadInput: a newer expunge has written it.
            WorkspaceBusy: somebody holds it.
        """
        if 0 < self.version() < VERSION:
            self.write(self._migrate)
            for file in self._workspace.runs.glob("*/state.json"):
                file.unlink()  # where runs stood before version 2, which has taken them over
        return self

    def version(self) -> int:
        """Of its schema; 0 if nothing has been begun. BadInput if it is newer than this code."""
        if self._address is None and not self._workspace.ledger.exists():
            return 0
        found = self.read(_version_of)
        if found > VERSION:
            raise BadInput(f"{self.name}: a newer expunge has written it (this one knows schema {VERSION} and older)",
                           "use that one")
        return found

    def write(self, do: "Callable[[Connection], Answer]") -> Answer:
        """What comes of doing something in one transaction, of the only writer: all of it is durable then, or nothing.

        It is done again if a server goes away before it has said that it is durable, which it may be all the same: what
        finds its own work done must come to the same.

        Raises:
            WorkspaceBusy: somebody else writes for longer than `WAIT_SECONDS`.
            ExpungeError: the server was away for longer than it is waited for.
        """
        return self._insisting(self._transaction, do)

    def read(self, ask: "Callable[[Connection], Answer]") -> Answer:
        """What is found with a connection; it is looked up again if a server goes away meanwhile.

        Raises:
            ExpungeError: the server was away for longer than it is waited for.
        """
        return self._insisting(self._engine(writes=False).begin, ask)

    @contextmanager
    def writing(self) -> Iterator["Connection"]:
        """A transaction as that of `write`, for what is not to be done twice: a server that is away is an error."""
        with self._complaints(), self._transaction() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator["Connection"]:
        """A connection as that of `read`, for who does not wait: a server that is away is an error."""
        with self._complaints(), self._engine(writes=False).begin() as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator["Connection"]:
        from sqlalchemy import text

        with self._engine(writes=True).begin() as connection:
            if self._address is not None:
                connection.execute(text(f"SET LOCAL lock_timeout = {int(WAIT_SECONDS * 1000)}"))
                connection.execute(text("SET LOCAL synchronous_commit = on"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ONE_WRITER})
            yield connection

    def _insisting(self, transaction: "Callable[[], AbstractContextManager[Connection]]",
                   do: "Callable[[Connection], Answer]") -> Answer:
        from sqlalchemy.exc import DBAPIError

        patience = Patience(self._patience)
        with self._complaints():
            while True:
                try:
                    with transaction() as connection:
                        return do(connection)
                except DBAPIError as error:
                    if self._address is None or not _is_away(error):
                        raise
                    if not patience.wait():
                        raise self._explained(error.orig or error, f" (waited for {self._patience:g} s)") from None

    def rows(self, table: str, *key: str, start: tuple[int, ...] | None = None) -> Iterator["RowMapping"]:
        """Every row of a table in the order of its key, from `start` on.

        They are read page by page, each page by itself: memory stays flat, and who reads for long keeps nobody from
        writing. Only for tables to which rows are appended, and are never changed.
        """
        from sqlalchemy import text

        columns, beyond = ", ".join(key), ">="
        after = start
        while True:
            given = {f"k{number}": value for number, value in enumerate(after or ())}
            where = f"WHERE ({columns}) {beyond} ({', '.join(':' + name for name in given)})" if given else ""
            query = text(f"SELECT * FROM {table} {where} ORDER BY {columns} LIMIT {PAGE}")
            page = self._page(query, given)
            yield from page
            if len(page) < PAGE:
                return
            after, beyond = tuple(page[-1][name] for name in key), ">"

    def _page(self, query: "TextClause", given: dict[str, int]) -> "Sequence[RowMapping]":
        return self.read(lambda connection: connection.execute(query, given).mappings().all())

    def damage(self) -> str:
        """What SQLite itself finds wrong with its file; empty if nothing, or if a server looks after that."""
        if self._address is not None:
            return ""
        with self.reading() as connection:
            found = str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar())
        return "" if found == "ok" else found.splitlines()[-1]

    def _migrate(self, connection: "Connection") -> None:
        from alembic import command
        from alembic.config import Config

        config = Config(attributes={"connection": connection, "workspace": self._workspace})
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        config.set_main_option("version_locations", str(_MIGRATIONS / "versions").replace("%", "%%"))
        config.set_main_option("path_separator", "newline")  # a workspace's path may hold anything else
        command.upgrade(config, str(VERSION))

    def _engine(self, *, writes: bool) -> "Engine":
        if self._address is None:
            return _sqlite(self._workspace.ledger, writes)
        return _postgresql(self._address, os.getpid())

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        from sqlalchemy.exc import DBAPIError

        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            said = error.orig if isinstance(error, DBAPIError) else error
            raise self._explained(said or error) from None

    def _explained(self, error: BaseException, waited: str = "") -> ExpungeError:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        if self._address is None:
            if out_of_space(error):
                return NoSpace.on(self._workspace.ledger.parent)
            if "locked" in said:
                return WorkspaceBusy("ledger: another process writes it", "try again")
            return DoesNotVerify(f"{self.name}: {said}")
        if getattr(error, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            return WorkspaceBusy("ledger: another process writes it", "try again")
        return ExpungeError(f"database: {said}{waited}",
                            f"see 'database' in {CONFIG_FILE}, and whether its server runs")


def _is_away(error: "DBAPIError") -> bool:
    """Whether a server is to be waited for, rather than it refuses what was asked."""
    from psycopg import InterfaceError, OperationalError

    code = getattr(error.orig, "sqlstate", None)
    if code is not None:
        return code in _SHUT_DOWN or code.startswith("08")  # 08: the connection, whatever became of it
    return (isinstance(error.orig, OperationalError | InterfaceError)
            and not any(words in str(error.orig) for words in _FOR_GOOD))


def moved_file(workspace: Workspace) -> Path:
    """Where the file of a workspace whose ledger was moved to another database is kept."""
    return workspace.ledger.with_name(f"{workspace.ledger.name}.moved")


def _version_of(connection: "Connection") -> int:
    from sqlalchemy import inspect, text

    tables = inspect(connection).get_table_names()
    if "alembic_version" in tables:
        found = str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())
        return int(found) if found.isdecimal() else VERSION + 1
    return 1 if "checkpoints" in tables else 0  # the first had no number yet


@lru_cache(maxsize=8)
def _sqlite(file: Path, writes: bool) -> "Engine":
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    def connect() -> sqlite3.Connection:
        # What a killed writer left in the journal can only be taken back by somebody who may write.
        journal = file.with_name(f"{file.name}-journal")
        mode = "rwc" if writes else "rw" if journal.exists() else "ro"
        made = sqlite3.connect(f"{file.as_uri()}?mode={mode}", uri=True, timeout=WAIT_SECONDS, isolation_level=None)
        if writes:
            made.execute("PRAGMA synchronous = FULL")
        return made

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


@lru_cache(maxsize=8)
def _postgresql(address: str, process: int) -> "Engine":
    """`process` is the caller's: connections are not handed on to a child."""
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url: Any = make_url(address)
    except ArgumentError:
        raise BadInput(f"database: not an address ({CONFIG_FILE})", "write postgresql://user@host/name") from None
    if url.get_backend_name() != "postgresql":
        raise BadInput(f"database: '{url.get_backend_name()}' is not supported ({CONFIG_FILE})",
                       "write postgresql://user@host/name")
    try:
        return create_engine(url.set(drivername="postgresql+psycopg"), pool_size=2, pool_pre_ping=True,
                             connect_args={"connect_timeout": int(WAIT_SECONDS)})
    except ImportError:
        raise BadInput("database: PostgreSQL needs a package that is not installed",
                       "pip install 'expunge[postgres]'") from None
