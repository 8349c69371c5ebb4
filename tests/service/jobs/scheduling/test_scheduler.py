"""What a plan reads of the queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.jobs.scheduling.scheduler import Scheduler
from service.launchers.base import Capacity
from service.launchers.local import LocalLauncher
from service.store.records import EndReason, JobRecord, JobStatus, ProjectRecord, new_id
from service.store.store import Store

DEVICES = 4


class Growing(LocalLauncher):
    """An engine whose machines come and go."""

    def capacity(self) -> Capacity:
        return replace(super().capacity(), may_grow=True)


@pytest.fixture
def store(empty_url: str) -> Store:
    store = Store(empty_url)
    store.upgrade()
    store.projects.create(ProjectRecord(id="a", name="a", created_at=0.0, max_running_jobs=1, max_priority=100))
    store.projects.create(ProjectRecord(id="b", name="b", created_at=0.0))
    return store


def add(store: Store, project: str, *, number: int = 1, **changes: Any) -> Sequence[JobRecord]:
    now = time.time()
    usual: dict[str, Any] = {"status": JobStatus.QUEUED, "queued_at": now, "queue_order": now}
    given = {"spec": {}, "model": "m", "created_at": now, "project_id": project, **usual, **changes}
    ids = [new_id("ftjob") for _ in range(number)]
    return [store.jobs.create(JobRecord(id=id, job_dir=str(Path("/jobs") / id), **given)) for id in ids]


def granted(store: Store, launcher: LocalLauncher | None = None) -> set[str]:
    plan = Scheduler(store, launcher or LocalLauncher(cpu_slots=DEVICES)).decide()
    assert plan is not None
    return {grant.job_id for grant in plan.grants}


def begin(store: Store, job: JobRecord, *devices: int) -> None:
    place = [{"node": "local", "devices": list(devices)}]
    store.attempts.begin(job.id, placement=place, resume=False, expected=[JobStatus.QUEUED], message="begun")


def test_a_project_at_its_quota_keeps_nobody_else_waiting(store: Store) -> None:
    first, *_ = add(store, "a", number=140, priority=90)
    begin(store, first, 0)
    (other,) = add(store, "b", priority=0)
    assert granted(store) == {other.id}


def test_a_quota_that_the_first_would_break_keeps_nobody_else_waiting(store: Store) -> None:
    store.projects.update("a", max_running_jobs=None, max_devices=3)
    first, *_ = add(store, "a", number=140, priority=90, devices_per_node=2)
    begin(store, first, 0, 1)
    (other,) = add(store, "b", priority=0)
    assert granted(store) == {other.id}


def test_jobs_that_wait_for_their_next_try_keep_nobody_else_waiting(store: Store) -> None:
    add(store, "b", number=140, priority=90, not_before=time.time() + 600)
    (other,) = add(store, "b", priority=0)
    assert granted(store) == {other.id}


def test_jobs_for_machines_that_are_away_keep_nobody_else_waiting(store: Store) -> None:
    add(store, "b", number=140, priority=90, devices_per_node=DEVICES + 1)
    (other,) = add(store, "b", priority=0)
    assert granted(store, Growing(cpu_slots=DEVICES)) == {other.id}


def test_what_cannot_start_is_told_why_all_the_same(store: Store) -> None:
    first, second = add(store, "a", number=2, priority=90)
    begin(store, first, 0)
    (late,) = add(store, "b", not_before=time.time() + 600)
    _, plan = Scheduler(store, LocalLauncher(cpu_slots=DEVICES)).preview()
    assert (plan.waits[second.id].why, plan.waits[late.id].why) == ("project_running_jobs", "not_before")


def test_a_job_for_which_a_run_was_stopped_is_remembered_until_it_begins(store: Store) -> None:
    (victim,) = add(store, "b")
    (urgent,) = add(store, "b", priority=90)
    begin(store, victim, 0)
    store.attempts.ask_to_stop(victim.id, 1, EndReason.PREEMPTED, message="room", for_job=urgent.id)
    (head,) = store.queue.head(90, "b", limit=1)
    assert head.room_made
    begin(store, urgent, 1)
    begun = store.jobs.get(urgent.id)
    assert begun is not None
    assert not begun.room_made
