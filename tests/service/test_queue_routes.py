"""The queue over REST."""

from __future__ import annotations

import time
from typing import Any

import pytest

from service.client_errors import ApiError, Conflict
from service.store.records import JobRecord, JobStatus, new_id


@pytest.fixture
def waiting(service: Any) -> list[str]:
    """Three jobs that want more devices than a paused runner will give."""
    service.app.state.runner.stop()
    store, ids = service.app.state.store, []
    for number in range(3):
        record = JobRecord(
            id=new_id("ftjob"),
            spec={},
            model="m",
            job_dir="/j",
            created_at=time.time(),
            queue_order=float(number),
            status=JobStatus.QUEUED,
            devices_per_node=2,
        )
        ids.append(store.jobs.create(record).id)
    return ids


def test_every_waiting_job_says_where_it_stands_and_why(client: Any, waiting: list[str]) -> None:
    places, has_more = client.queue(limit=2)
    assert [(p["id"], p["position"], p["reason"]) for p in places] == [
        (waiting[0], 1, "starting"),
        (waiting[1], 2, "devices"),
    ]
    assert has_more
    (last,), _ = client.queue(after=places[-1]["id"])
    assert last["message"] == f"waits for 2 devices, 0 are free; behind {waiting[1]}"
    assert client.place_in_queue(waiting[2]) == last


def test_jobs_are_moved_and_changed(client: Any, waiting: list[str]) -> None:
    assert client.move_job(waiting[2], to="front")["position"] == 1
    assert client.move_job(waiting[2], before=waiting[1])["position"] == 2
    client.change_job(waiting[1], priority=80, max_runtime_s=60)
    assert client.place_in_queue(waiting[1])["position"] == 1
    with pytest.raises(ApiError, match="is over"):
        client.change_job(waiting[1], deadline=5)
    with pytest.raises(ApiError, match="either `to` or `before`"):
        client.move_job(waiting[1])


def test_a_job_that_does_not_wait_has_no_place(client: Any, service: Any, waiting: list[str]) -> None:
    service.app.state.store.jobs.request_cancel(waiting[0])
    with pytest.raises(Conflict, match="does not wait"):
        client.place_in_queue(waiting[0])
    with pytest.raises(Conflict, match="cannot become changed"):
        client.change_job(waiting[0], priority=1)
