"""What planning reads of the queue, and moving jobs in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from service.store.records import (
    AttemptEnd,
    AuditRecord,
    EndReason,
    JobRecord,
    JobStatus,
    ProjectRecord,
    QuotaExceeded,
    TransitionRefused,
)
from service.store.store import Store

NewJob = Callable[..., JobRecord]
ONE = [{"node": "local", "devices": [0, 1]}]


def line(store: Store, project: str = "default", priority: int = 50) -> list[str]:
    return [job.id for job in store.queue.head(priority, project, limit=10)]


def second_project(store: Store, **fields: object) -> None:
    store.projects.create(replace(ProjectRecord(id="p2", name="p2", created_at=1.0), **fields))  # type: ignore[arg-type]


def test_lines_are_found_without_reading_the_jobs_in_them(store: Store, new_job: NewJob) -> None:
    second_project(store)
    for project, priority in (("default", 50), ("default", 50), ("p2", 50), ("p2", 90)):
        new_job(project_id=project, priority=priority)
    new_job(project_id="p2", priority=99, status=JobStatus.RUNNING)
    assert store.queue.lines() == [(90, "p2"), (50, "default"), (50, "p2")]
    assert store.queue.top_priority() == 90
    assert [(depth.project_id, depth.num_jobs) for depth in store.queue.depths()] == [("default", 2), ("p2", 2)]


def test_an_empty_queue_has_no_newest_job(store: Store, new_job: NewJob) -> None:
    new_job(status=JobStatus.RUNNING, queued_at=5.0)
    assert (store.queue.newest(), store.queue.lines(), store.queue.top_priority()) == (None, [], None)
    new_job(queued_at=7.0)
    assert store.queue.newest() == 7.0


def test_jobs_are_moved_within_their_line(store: Store, new_job: NewJob) -> None:
    a, b, c = (new_job(queue_order=float(i)).id for i in range(3))
    store.queue.move(c)
    assert line(store) == [c, a, b]
    store.queue.move(c, to_back=True)
    assert line(store) == [a, b, c]
    store.queue.move(c, before=b)
    assert line(store) == [a, c, b]


def test_any_number_of_jobs_can_be_moved_before_the_same_one(store: Store, new_job: NewJob) -> None:
    ids = [new_job(queue_order=time.time() + i * 1e-6).id for i in range(40)]
    for id in ids[:-1]:
        store.queue.move(id, before=ids[-1])
    assert [job.id for job in store.queue.head(50, "default", limit=100)] == ids


def test_only_waiting_jobs_of_one_line_are_moved(store: Store, new_job: NewJob) -> None:
    waiting, other = new_job(), new_job(priority=60)
    running = new_job(status=JobStatus.RUNNING)
    with pytest.raises(TransitionRefused, match="only queued jobs"):
        store.queue.move(running.id)
    with pytest.raises(TransitionRefused, match="another priority"):
        store.queue.move(waiting.id, before=other.id)


def test_a_project_queues_no_more_jobs_than_it_may(store: Store, new_job: NewJob) -> None:
    second_project(store, max_queued_jobs=2)
    new_job(project_id="p2", status=JobStatus.VALIDATING_FILES)
    new_job(project_id="p2", status=JobStatus.RUNNING)
    new_job(project_id="p2")
    with pytest.raises(QuotaExceeded, match="p2 has 2 waiting jobs"):
        new_job(project_id="p2")
    new_job()


def test_many_submit_at_once_to_a_project_that_may_queue_few(store: Store, new_job: NewJob) -> None:
    second_project(store, max_queued_jobs=30)
    like = replace(new_job(), project_id="p2")

    def submit(number: int) -> bool:
        try:
            store.jobs.create(replace(like, id=f"ftjob-{number}"))
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(submit, range(40))) == 30
    assert len(line(store, "p2")) == 10  # a page


def test_a_job_and_the_record_of_its_making_are_stored_together_or_not_at_all(store: Store, new_job: NewJob) -> None:
    second_project(store, max_queued_jobs=1)
    first = new_job(project_id="p2")
    made, refused = (AuditRecord(at=1.0, actor="a", action="job.create", outcome="ok", target=id) for id in "ab")
    store.jobs.create(replace(first, id="a", project_id="default"), audit=made)
    with pytest.raises(QuotaExceeded):
        store.jobs.create(replace(first, id="b"), audit=refused)
    assert [(entry.action, entry.target) for entry in store.audit.list()[0]] == [("job.create", "a")]
    assert store.jobs.get("b") is None
    assert [event.seq for event in store.events.since("a")] == [1]


def test_an_ended_attempt_is_charged_to_its_job_and_project(store: Store, new_job: NewJob) -> None:
    job = new_job()
    store.attempts.begin(job.id, placement=ONE, resume=False, expected=[JobStatus.QUEUED], message="go")
    (run,) = store.queue.running()
    assert (run.job_id, run.placement, run.priority) == (job.id, ONE, 50)
    time.sleep(0.05)
    store.attempts.finish(job.id, 1, AttemptEnd(reason=EndReason.CANCELLED, message="over"), to=None)
    ended, project = store.jobs.get(job.id), store.projects.get("default")
    assert ended is not None
    assert project is not None
    assert 0.05 <= ended.runtime_s < 5
    assert project.device_seconds == pytest.approx(2 * ended.runtime_s, rel=1e-3)
    assert store.queue.running() == []


def test_an_attempt_is_asked_to_stop_once(store: Store, new_job: NewJob) -> None:
    job = new_job()
    store.attempts.begin(job.id, placement=ONE, resume=False, expected=[JobStatus.QUEUED], message="go")
    assert store.attempts.ask_to_stop(job.id, 1, EndReason.PREEMPTED, message="make room")
    assert not store.attempts.ask_to_stop(job.id, 1, EndReason.STALLED, message="hangs")
    attempt = store.attempts.latest(job.id)
    assert attempt is not None
    assert attempt.stop_reason is EndReason.PREEMPTED


def test_what_is_overdue_and_idle_is_found(store: Store, new_job: NewJob) -> None:
    late = [new_job(deadline_at=10.0, status=status) for status in (JobStatus.QUEUED, JobStatus.PAUSED)]
    new_job(deadline_at=10.0, status=JobStatus.SUCCEEDED)
    new_job(deadline_at=99.0)
    assert sorted(store.queue.overdue(20.0)) == sorted(job.id for job in late)


def test_limits_change_while_a_job_has_not_ended(store: Store, new_job: NewJob) -> None:
    job, over = new_job(), new_job(status=JobStatus.SUCCEEDED)
    assert store.queue.change(job.id, priority=70, deadline_at=None).priority == 70
    assert "priority 70" in store.events.list(job.id)[0][0].message
    with pytest.raises(TransitionRefused):
        store.queue.change(over.id, priority=1)
