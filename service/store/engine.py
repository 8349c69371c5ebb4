"""The database engine: SQLite by default, PostgreSQL by URL. What is SQLite's alone stays in this file."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pydantic_core
from sqlalchemy import URL, ColumnElement, Connection, Engine, Float, create_engine, event, literal_column, make_url
from sqlalchemy.exc import InvalidatePoolError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

DatabaseTrouble = SQLAlchemyError
"""Anything that the database or the way to it raises."""
BUSY_TIMEOUT_MS = 30_000
_PING_AFTER_S = 2.0
_POSTGRESQL_LIMITS = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "options": "-c idle_in_transaction_session_timeout=15s -c lock_timeout=10s -c statement_timeout=60s"
    " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=20000",
}
"""So that a replica that is frozen, or whose machine is gone, keeps its row locks from the others for seconds, not for
hours; what the URL says goes first. https://www.postgresql.org/docs/current/runtime-config-client.html"""


class Database:
    """Gives out transactions: each commits when its block ends and rolls back if the block raises."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        is_file = parsed.get_backend_name() == "sqlite"
        pool = {"pool_size": 10, "max_overflow": 30, "pool_use_lifo": True}
        in_memory = is_file and parsed.database in (None, "", ":memory:")
        options: dict[str, Any] = {} if in_memory else pool
        self.engine: Engine = create_engine(
            parsed, connect_args=_driver_options(parsed), json_deserializer=_from_json, **options
        )
        # Threads that wait for SQLite's own lock look for it at ever longer intervals, and may find it taken each time.
        self._turn: AbstractContextManager[Any] = threading.RLock() if is_file else nullcontext()
        if is_file:
            if parsed.database and parsed.database != ":memory:":
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            _ping_after_rest(self.engine)
        self._writing = self.engine.execution_options(writes=True)
        self._reading = self.engine if is_file else self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @property
    def file(self) -> Path | None:
        """SQLite's file; None for a database that is none, or in memory."""
        name = self.engine.url.database if self.engine.dialect.name == "sqlite" else None
        return None if name in (None, "", ":memory:") else Path(str(name))

    @property
    def reads_at_once(self) -> bool:
        """Whether a read waits for nobody, not even a network: a few rows take less time than the way to a thread."""
        return self.engine.dialect.name == "sqlite"

    def now(self) -> ColumnElement[float]:
        """The database's own time in Unix seconds, for what replicas must agree on."""
        if self.engine.dialect.name == "sqlite":
            return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float)
        return literal_column("extract(epoch FROM clock_timestamp())::float8", Float)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Questions that change nothing and wait for nobody. On SQLite they all see one state of the database; on
        PostgreSQL each sees the latest, and costs one message to the server and back."""
        with self._reading.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write. On SQLite writers queue here, so that none fails half way."""
        with self._turn, self._writing.begin() as connection:
            yield connection

    @contextmanager
    def probe(self, *, wait_s: float) -> Iterator[Connection]:
        """A transaction that may write, on a connection of its own, and that is rolled back.

        One from the pool would go on with a database file that has been removed. On SQLite, others that write may make
        it wait `wait_s` seconds.
        """
        file = self.file
        if file is None:
            with self._writing.connect() as connection, connection.begin() as transaction:
                if self.engine.dialect.name == "postgresql":
                    connection.exec_driver_sql("SET LOCAL transaction_read_only = off")  # a standby refuses
                yield connection
                transaction.rollback()
            return
        if not file.is_file():
            raise OperationalError("open", None, FileNotFoundError(f"there is no database {file}"))
        fresh = create_engine(self.engine.url, poolclass=NullPool, connect_args={"timeout": wait_s})
        try:
            with fresh.connect() as connection:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                yield connection
                connection.rollback()
        finally:
            fresh.dispose()

    @contextmanager
    def migrate(self) -> Iterator[Connection]:
        """A transaction that may rebuild tables. SQLite does that by copying a table and dropping the old one, which
        its foreign keys would forbid; they are checked before it commits."""
        with self._writing.connect() as connection:
            if connection.dialect.name != "sqlite":
                with connection.begin():
                    for limit in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                        connection.exec_driver_sql(f"SET LOCAL {limit} = 0")
                    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(8321)")  # one at a time
                    yield connection
                return
            raw: Any = connection.connection.driver_connection
            raw.execute("PRAGMA foreign_keys=OFF")  # without effect inside a transaction
            try:
                with connection.begin():
                    yield connection
                    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                    if broken:
                        raise RuntimeError(f"the new layout would break references: {broken[:5]}")
            finally:
                raw.execute("PRAGMA foreign_keys=ON")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _ping_after_rest(engine: Engine) -> None:
    """What `pool_pre_ping` does, but only for connections that have not been used for a moment: each message to the
    server and back makes a request wait for two processes to get a processor. When the server starts anew, what had
    used it a moment ago fails once."""

    def used(_: Any, record: ConnectionPoolEntry) -> None:
        record.info["used_at"] = time.monotonic()

    def check(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        if time.monotonic() < record.info.get("used_at", math.inf) + _PING_AFTER_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error  # the pool opens another one

    event.listen(engine, "checkin", used)
    event.listen(engine, "checkout", check)


def _from_json(text: str) -> Any:
    """A page of jobs is a hundred whole specs: the standard library's parser takes most of the time of listing them."""
    try:
        return pydantic_core.from_json(text)
    except ValueError:
        return json.loads(text)  # takes half a surrogate pair, too


def _driver_options(url: URL) -> dict[str, Any]:
    # psycopg prepares what is asked often, and PostgreSQL then plans it for any value. What is looked for here is rare
    # (jobs that run among those that have ended), and plans for any value read the whole table.
    if url.drivername != "postgresql+psycopg":
        return {}
    limits = {name: value for name, value in _POSTGRESQL_LIMITS.items() if name not in url.query}
    return {"prepare_threshold": None, **limits}


def _configure_sqlite(connection: Any, record: Any) -> None:
    # The driver's own transaction control starts one too late for BEGIN IMMEDIATE; `_begin_sqlite` does it.
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#enabling-non-legacy-sqlite-transactional-modes-with-the-sqlite3-or-aiosqlite-driver
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA wal_autocheckpoint=8000")  # 32 MB, for whoever has no `WriteAheadLog` beside it
    cursor.execute("PRAGMA cache_size=-16000")  # KiB; with 2000 each new row reads index pages anew
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
