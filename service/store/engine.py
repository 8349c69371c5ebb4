"""The database engine: SQLite by default, PostgreSQL by URL. What is SQLite's alone stays in this file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Float, create_engine, event, literal_column, make_url

BUSY_TIMEOUT_MS = 30_000


class Database:
    """Gives out transactions: each commits when its block ends and rolls back if the block raises."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.engine: Engine = create_engine(parsed, pool_pre_ping=True)
        if parsed.get_backend_name() == "sqlite":
            if parsed.database and parsed.database != ":memory:":
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._writing = self.engine.execution_options(writes=True)

    def now(self) -> ColumnElement[float]:
        """The database's own time in Unix seconds, for what replicas must agree on."""
        if self.engine.dialect.name == "sqlite":
            return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float)
        return literal_column("extract(epoch FROM clock_timestamp())::float8", Float)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: it sees one state of the database and waits for nobody."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write. On SQLite writers queue here, so that none fails half way."""
        with self._writing.begin() as connection:
            yield connection

    @contextmanager
    def migrate(self) -> Iterator[Connection]:
        """A transaction that may rebuild tables. SQLite does that by copying a table and dropping the old one, which
        its foreign keys would forbid; they are checked before it commits."""
        with self._writing.connect() as connection:
            if connection.dialect.name != "sqlite":
                with connection.begin():
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


def _configure_sqlite(connection: Any, record: Any) -> None:
    # The driver's own transaction control starts one too late for BEGIN IMMEDIATE; `_begin_sqlite` does it.
    # https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#enabling-non-legacy-sqlite-transactional-modes-with-the-sqlite3-or-aiosqlite-driver
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
