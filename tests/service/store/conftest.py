"""A store on a fresh database: SQLite, and PostgreSQL too where ATTUNE_TEST_POSTGRES_URL
names an empty database, which is emptied again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from service.store.records import JobRecord, JobStatus, new_id
from service.store.store import Store

POSTGRES_URL = os.environ.get("ATTUNE_TEST_POSTGRES_URL")


@pytest.fixture(params=["sqlite", "postgresql"] if POSTGRES_URL else ["sqlite"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'attune.db'}"
        return
    assert POSTGRES_URL is not None
    yield POSTGRES_URL
    store = Store(POSTGRES_URL)
    with store.database.write() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    store.close()


@pytest.fixture
def store(empty_url: str) -> Iterator[Store]:
    """A store with its tables."""
    store = Store(empty_url)
    store.upgrade()
    yield store
    store.close()


@pytest.fixture
def new_job(store: Store) -> Callable[..., JobRecord]:
    """Makes a job with the fields given, queued unless told otherwise."""

    def make(**fields: object) -> JobRecord:
        values = {"id": new_id("ftjob"), "spec": {}, "model": "ViT-B-32", "job_dir": "/nowhere", **fields}
        return store.jobs.create(JobRecord(**({"created_at": time.time(), "status": JobStatus.QUEUED} | values)))

    return make
