from __future__ import annotations

import importlib.resources
import subprocess
import sys
from collections.abc import Callable

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from service.store.records import JobRecord
from service.store.store import Store
from service.store.tables import metadata


def test_upgrade_makes_exactly_the_tables_that_the_code_uses(empty_url: str) -> None:
    store = Store(empty_url)
    store.upgrade()
    with store.database.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    store.close()
    assert differences == []


def test_upgrade_again_keeps_what_is_there(store: Store, new_job: Callable[..., JobRecord]) -> None:
    job = new_job(metadata={"team": "birds"})
    store.upgrade()
    assert store.jobs.get(job.id) == job


def test_processes_may_upgrade_at_once(empty_url: str) -> None:
    program = f"from service.store.store import Store; Store({empty_url!r}).upgrade()"
    started = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    Store(empty_url).check()


def test_check_notices_missing_tables(empty_url: str) -> None:
    store = Store(empty_url)
    with pytest.raises(SQLAlchemyError):
        store.check()
    store.upgrade()
    store.check()
    store.close()


def test_migrations_come_with_the_package() -> None:
    folder = importlib.resources.files("service.store") / "migrations"
    assert (folder / "env.py").is_file()
    assert (folder / "script.py.mako").is_file()
    assert [path.name for path in (folder / "versions").iterdir() if path.name.startswith("0001")]


def test_sqlite_runs_in_wal_mode_with_foreign_keys(store: Store) -> None:
    if store.database.engine.dialect.name != "sqlite":
        pytest.skip("about SQLite")
    with store.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1


def test_statuses_are_kept_as_their_words(store: Store, new_job: Callable[..., JobRecord]) -> None:
    new_job()
    with store.database.read() as connection:
        assert connection.exec_driver_sql("SELECT status FROM jobs").scalar_one() == "queued"
        assert "jobs" in inspect(connection).get_table_names()
