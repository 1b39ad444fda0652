"""The catalog's database: SQLite beside the data, or Postgres. Transactions in, errors out."""

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError

from rag import revisions
from rag.errors import Conflict, InvalidInput, StorageFull, StoreUnreachable
from rag.tables import schema

OBJECTS_LOCK = revisions.MIGRATION_LOCK + 1
CONNECTIONS = 32  # kept open to SQLite
ROWS_AT_ONCE = 1000
# A process that stands still within a transaction (it was stopped, its machine sleeps) holds locks
# that others wait for. Postgres ends its session after this, and so the transaction.
STILL_SECONDS = 30
FULL_BYTES = 2**16  # SQLite has trouble, and there is less room than this: it is for want of room


class Database:
    """Thread-safe; one per process and database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.insert = postgresql.insert if engine.name == "postgresql" else sqlite.insert
        # SQLite lets one write at a time, and who waits for it looks again after up to 0.1 s: with
        # several threads nobody would write most of the time. Here the next one is woken.
        self._turn: AbstractContextManager[object] = (
            threading.Lock() if engine.name == "sqlite" else nullcontext()
        )

    @classmethod
    def open(cls, url: str) -> Self:
        """Connect and bring the schema up to date. Raises StoreUnreachable, InvalidInput."""
        database = cls(_engine(url))
        with database.write() as connection:
            revisions.bring_to(connection, revisions.newest())
        return database

    @classmethod
    def filled(cls, url: str, revision: str, fill: Callable[[sa.Connection], None]) -> Self:
        """An empty database, filled at an old revision of the schema, then brought up to date.

        In one transaction: until it ends the database is as empty as before. Raises Conflict when
        its tables are of another revision, StoreUnreachable, StorageFull.
        """
        database = cls(_engine(url))
        try:
            database._fill(revision, fill)
        except BaseException:
            database.close()
            raise
        return database

    def _fill(self, revision: str, fill: Callable[[sa.Connection], None]) -> None:
        with self.write() as connection:
            revisions.bring_to(connection, revision)
            if revisions.current(connection) != revision:
                raise Conflict(
                    "The database has tables of another version of Ragstone.",
                    hint="Use a database without tables.",
                )
            fill(connection)
            revisions.bring_to(connection, revisions.newest())

    def revision(self) -> str | None:
        """The revision of the schema that it is at. Raises StoreUnreachable."""
        with self.read() as connection:
            return revisions.current(connection)

    def close(self) -> None:
        """Give the connections back; the database is not usable afterwards."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One state of the database for the length of the block. Raises StoreUnreachable."""
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """One state of the database for every statement of the block, rows read as they come.

        Raises StoreUnreachable.
        """
        with self._translated(), self._engine.connect() as plain:
            connection = plain.execution_options(yield_per=ROWS_AT_ONCE)
            if self._engine.name == "postgresql":
                # By default each statement would see what was committed before it began.
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction, on disk when the block ends. Raises StoreUnreachable, StorageFull."""
        with self._turn, self._translated(), self._engine.connect() as plain:
            connection = plain.execution_options(write=True)
            with connection.begin():
                yield connection

    def lock_objects(self, connection: sa.Connection, *, shared: bool = False) -> None:
        """Until the transaction ends, nobody else refers to new objects while some are dropped.

        Shared by those who refer to them. On SQLite a write transaction is alone anyway.
        """
        if self._engine.name == "postgresql":
            lock = sa.func.pg_advisory_xact_lock_shared if shared else sa.func.pg_advisory_xact_lock
            connection.execute(sa.select(lock(OBJECTS_LOCK)))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Database errors that the user can do something about, in the words of `rag.errors`."""
        try:
            yield
        except DBAPIError as error:
            if not isinstance(error, OperationalError) and not error.connection_invalidated:
                raise
            cause = str(error.orig)
            if "No space left" in cause or _is_full(self._engine.url, error.orig):
                raise StorageFull(
                    "The catalog cannot be written: the disk is full.",
                    hint="Free some space; nothing that was stored is lost.",
                ) from error
            raise StoreUnreachable(
                "The catalog's database does not answer.",
                hint="Check RAG_DATABASE_URL, or the permissions of the data folder.",
                inside=cause.strip(),
            ) from error


def _parsed(url: str) -> sa.URL:
    try:
        return sa.make_url(url)
    except sa.exc.ArgumentError:
        raise InvalidInput(
            "RAG_DATABASE_URL is not a database URL.",
            hint="Write it as postgresql+psycopg://user:password@host/database.",
        ) from None


def _engine(url: str) -> sa.Engine:
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed)
    try:
        engine = sa.create_engine(parsed, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"The database driver {error.name} is not installed.",
            hint='Run: pip install "ragstone[postgres]".',
        ) from None

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("write"):
            limit = f"SET LOCAL idle_in_transaction_session_timeout = {round(1000 * STILL_SECONDS)}"
            connection.exec_driver_sql(limit)

    return engine


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    # As many as threads of a service, so that none is opened and prepared for one question.
    engine = sa.create_engine(
        url, pool_size=CONNECTIONS, connect_args={"timeout": 30, "isolation_level": None}
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
        # FULL: a committed flip survives a power cut, not only a killed process.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: a reader that turned writer half-way would deadlock.
        write = connection.get_execution_options().get("write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def has_rows(url: str) -> bool:
    """Whether there is a database at a URL with a row in any table of ours.

    Changes nothing: not even an SQLite file is made. Raises StoreUnreachable, InvalidInput.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists():
        return False
    database = Database(_engine(url))
    try:
        with database.read() as connection:
            there = set(sa.inspect(connection).get_table_names())
            ours = [table for name, table in schema.tables.items() if name in there]
            queries = (sa.select(sa.literal(1)).select_from(table).limit(1) for table in ours)
            return any(connection.execute(query).first() is not None for query in queries)
    finally:
        database.close()


def _is_full(url: sa.URL, error: BaseException | None) -> bool:
    """Whether SQLite failed for want of room: it names some of those failures an I/O error."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # without the extension
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and url.database:
        return shutil.disk_usage(Path(url.database).parent).free < FULL_BYTES
    return code == sqlite3.SQLITE_FULL


def utc(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row by its columns' names; SQLite forgets time zones, and every time here is UTC."""
    return {
        str(key): value.replace(tzinfo=UTC)
        if isinstance(value, datetime) and value.tzinfo is None
        else value
        for key, value in row.items()
    }
