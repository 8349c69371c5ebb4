from __future__ import annotations

from collections.abc import Callable

import pytest

from service.store.records import JobRecord, NewEvent, UnknownId
from service.store.store import Store

NewJob = Callable[..., JobRecord]


def test_pages_go_back_in_time_and_since_goes_forward(store: Store, new_job: NewJob) -> None:
    job, other = new_job(), new_job()
    written = [NewEvent(message=f"event {i}", created_at=float(i)) for i in range(2, 6)]
    stored = store.events.append(job.id, written)
    store.events.append(other.id, written)
    page, more = store.events.list(job.id, limit=2)
    assert ([event.seq for event in page], more) == ([5, 4], True)
    page, more = store.events.list(job.id, after=page[-1].id, limit=3)
    assert ([event.seq for event in page], more) == ([3, 2, 1], False)
    assert list(store.events.since(job.id, 1)) == stored
    assert [event.seq for event in store.events.since(job.id, 1, limit=2)] == [2, 3]


def test_another_jobs_event_is_no_cursor(store: Store, new_job: NewJob) -> None:
    job, other = new_job(), new_job()
    (foreign,) = store.events.append(other.id, [NewEvent(message="x", created_at=1.0)])
    with pytest.raises(UnknownId):
        store.events.list(job.id, after=foreign.id)


def test_an_event_keeps_all_its_fields(store: Store, new_job: NewJob) -> None:
    job = new_job()
    new = NewEvent(message="loss", created_at=1.5, level="warn", type="metrics", data={"loss": None, "step": 3})
    (stored,) = store.events.append(job.id, [new])
    assert store.events.get(stored.id) == stored
    assert (stored.level, stored.type, stored.data) == ("warn", "metrics", {"loss": None, "step": 3})
    assert store.events.latest_metrics(job.id) == stored


def test_no_events_without_a_job(store: Store) -> None:
    with pytest.raises(UnknownId):
        store.events.append("ftjob-none", [NewEvent(message="x", created_at=1.0)])
