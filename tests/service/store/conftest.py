"""A store on a fresh database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from service.store.records import JobRecord, JobStatus, new_id
from service.store.store import Store


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
