"""The write-ahead log is copied while the service runs, not when somebody commits; all on real database files."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.store.store import Store
from service.store.write_ahead_log import WriteAheadLog


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "attune.db"


def in_file(file: Path, table: str) -> int:
    """Rows in the database file itself; an immutable one has no log."""
    connection = sqlite3.connect(f"{file.as_uri()}?immutable=1", uri=True)
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    except sqlite3.DatabaseError:  # not even the table, or half of it
        return 0
    finally:
        connection.close()


def await_(condition: Callable[[], object], *, limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_in_the_log_comes_into_the_file_without_anybody_committing(file: Path) -> None:
    store = Store(f"sqlite:///{file}")
    store.upgrade()
    store.replicas.beat("a", host="h", pid=1)
    assert in_file(file, "replicas") == 0
    log = WriteAheadLog(store.database, every_s=0.2)
    log.start()
    await_(lambda: in_file(file, "replicas") == 1)
    store.replicas.beat("b", host="h", pid=2)
    await_(lambda: in_file(file, "replicas") == 2)
    log.stop()
    store.replicas.beat("c", host="h", pid=3)
    time.sleep(1.5)
    assert in_file(file, "replicas") == 2
    store.close()


def test_a_reader_that_stays_holds_nobody_up(file: Path) -> None:
    store = Store(f"sqlite:///{file}")
    store.upgrade()
    log = WriteAheadLog(store.database, every_s=0.2)
    log.start()
    with store.database.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM replicas").scalar_one()
        store.replicas.beat("a", host="h", pid=1)
        time.sleep(1.5)
        assert in_file(file, "replicas") == 0  # what the reader must not see stays in the log
    store.replicas.beat("a", host="h", pid=1)
    await_(lambda: in_file(file, "replicas") == 1)
    log.stop()
    store.close()


def test_a_database_that_is_taken_away_is_told_once_and_its_file_not_made_again(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(f"sqlite:///{file}")
    store.upgrade()
    log = WriteAheadLog(store.database, every_s=0.2)
    file.rename(file.with_suffix(".elsewhere"))
    with caplog.at_level(logging.WARNING):
        log.start()
        await_(lambda: caplog.records)
        time.sleep(1.5)
        log.stop()
    assert [record.name for record in caplog.records] == ["service.store.write_ahead_log"]
    assert not file.exists()
    store.close()


def test_a_database_in_memory_has_no_log() -> None:
    store = Store("sqlite://")
    log = WriteAheadLog(store.database, every_s=0.2)
    log.start()
    log.stop()
    store.close()
