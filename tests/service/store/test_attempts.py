from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from service.store.records import (
    AttemptEnd,
    AttemptProgress,
    AttemptRecord,
    AttemptStatus,
    CheckpointRecord,
    DevicesTaken,
    EndReason,
    JobRecord,
    JobStatus,
    ModelRecord,
    NewEvent,
    TransitionRefused,
    UnknownId,
    new_id,
)
from service.store.store import Store

NewJob = Callable[..., JobRecord]
CRASHED = AttemptEnd(reason=EndReason.CRASHED, message="crashed", made_progress=True)
DONE = AttemptEnd(reason=EndReason.COMPLETED, message="done")


def begin(store: Store, job: JobRecord, *devices: int) -> AttemptRecord:
    share = {"node": "local", "devices": list(devices)}
    return store.attempts.begin(job.id, placement=[share], resume=False, expected=[JobStatus.QUEUED], message="started")


def said(text: str) -> NewEvent:
    return NewEvent(message=text, created_at=1.0)


def checkpoint(job: JobRecord, step: int) -> CheckpointRecord:
    name = f"step-{step}-attempt-1"
    return CheckpointRecord(
        id=new_id("ftckpt"),
        job_id=job.id,
        step_number=step,
        name=name,
        metrics={"validation/top1": 0.5},
        created_at=float(step),
        fine_tuned_model_checkpoint=f"{job.id}:{name}",
    )


def test_beginning_takes_devices_and_calls_the_job_running(store: Store, new_job: NewJob) -> None:
    job = new_job()
    attempt = begin(store, job, 0, 2)
    running = store.jobs.get(job.id)
    assert running is not None
    assert (running.status, running.num_attempts, running.devices_wanted) == (JobStatus.RUNNING, 1, 2)
    assert running.started_at == attempt.created_at
    assert store.attempts.open() == [attempt]
    assert store.attempts.leased_devices() == {("local", 0), ("local", 2)}


def test_no_device_is_given_twice(store: Store, new_job: NewJob) -> None:
    first, second = new_job(), new_job()
    begin(store, first, 0, 1)
    with pytest.raises(DevicesTaken, match=r"\[1, 2\]"):
        begin(store, second, 1, 2)
    waiting = store.jobs.get(second.id)
    assert waiting is not None
    assert (waiting.status, waiting.num_attempts) == (JobStatus.QUEUED, 0)
    assert store.attempts.latest(second.id) is None
    assert store.attempts.leased_devices() == {("local", 0), ("local", 1)}


def test_progress_is_stored_once_with_its_offset(store: Store, new_job: NewJob) -> None:
    job = new_job()
    begin(store, job, 0)
    progress = AttemptProgress(
        offset_before=0, offset_after=80, events=[said("a"), said("b")], last_step=4, estimated_finish=99.0
    )
    assert store.attempts.store_progress(job.id, 1, progress) is True
    assert store.attempts.store_progress(job.id, 1, progress) is False
    attempt = store.attempts.latest(job.id)
    assert attempt is not None
    assert (attempt.events_offset, attempt.last_step, attempt.start_step) == (80, 4, 0)
    assert [e.message for e in store.events.since(job.id, 2)] == ["a", "b"]
    assert store.jobs.get(job.id).estimated_finish == 99.0  # type: ignore[union-attr]


def test_events_and_offset_stand_or_fall_together(store: Store, new_job: NewJob) -> None:
    job = new_job()
    begin(store, job, 0)
    unstorable = NewEvent(message="b", created_at=1.0, data={"x": object()})
    with pytest.raises(Exception, match="JSON serializable"):
        store.attempts.store_progress(
            job.id, 1, AttemptProgress(offset_before=0, offset_after=80, events=[said("a"), unstorable])
        )
    assert store.attempts.latest(job.id).events_offset == 0  # type: ignore[union-attr]
    assert [e.message for e in store.events.since(job.id, 2)] == []


def test_checkpoints_come_and_go_with_the_events_that_name_them(store: Store, new_job: NewJob) -> None:
    job = new_job()
    begin(store, job, 0)
    saved = [checkpoint(job, 10), checkpoint(job, 20)]
    store.attempts.store_progress(
        job.id, 1, AttemptProgress(offset_before=0, offset_after=1, events=[], checkpoints_saved=saved)
    )
    assert store.checkpoints.list(job.id) == (saved[::-1], False)
    later = AttemptProgress(
        offset_before=1,
        offset_after=2,
        events=[],
        checkpoints_saved=[checkpoint(job, 30), checkpoint(job, 40)],
        checkpoints_removed=[saved[0].name, "step-30-attempt-1"],
    )
    store.attempts.store_progress(job.id, 1, later)
    page, more = store.checkpoints.list(job.id, limit=1)
    assert ([c.step_number for c in page], more) == ([40], True)
    assert [c.step_number for c in store.checkpoints.list(job.id, after=page[0].id)[0]] == [20]


def test_a_retry_goes_on_with_the_same_devices_and_the_job_keeps_running(store: Store, new_job: NewJob) -> None:
    job = new_job()
    begin(store, job, 3, 4)
    second = store.attempts.retry(job.id, 1, CRASHED, message="again")
    first = store.attempts.list(job.id)[0]
    assert (first.status, first.end_reason, first.made_progress) == (AttemptStatus.ENDED, EndReason.CRASHED, True)
    assert (second.number, second.devices, second.resume) == (2, [3, 4], True)
    assert store.attempts.open() == [second]
    assert store.attempts.leased_devices() == {("local", 3), ("local", 4)}
    assert store.jobs.get(job.id).status is JobStatus.RUNNING  # type: ignore[union-attr]
    with pytest.raises(UnknownId):
        store.attempts.retry(job.id, 1, CRASHED, message="again")


def test_finishing_frees_devices_and_registers_the_model(store: Store, new_job: NewJob) -> None:
    job = new_job()
    begin(store, job, 0)
    model = ModelRecord(id="ft:x:y:z", path="/p", task="clip", created_at=1.0, job_id=job.id, class_names=["a", "b"])
    store.attempts.finish(
        job.id,
        1,
        DONE,
        to=JobStatus.SUCCEEDED,
        expected=[JobStatus.RUNNING],
        model=model,
        fine_tuned_model=model.id,
    )
    assert store.models.get(model.id) == model
    assert store.jobs.get(job.id).fine_tuned_model == model.id  # type: ignore[union-attr]
    assert store.attempts.leased_devices() == set()
    assert store.attempts.count_ended() == {EndReason.COMPLETED: 1}
    with pytest.raises(UnknownId):
        store.attempts.update(job.id, 1, pid=1)


def test_a_cancellation_that_comes_first_keeps_the_job_from_succeeding(store: Store, new_job: NewJob) -> None:
    job = new_job()
    begin(store, job, 0)
    store.jobs.request_cancel(job.id)
    model = ModelRecord(id="ft:x:y:z", path="/p", task="clip", created_at=1.0)
    with pytest.raises(TransitionRefused):
        store.attempts.finish(job.id, 1, DONE, to=JobStatus.SUCCEEDED, expected=[JobStatus.RUNNING], model=model)
    assert store.models.list() == []
    assert store.attempts.latest(job.id).status is AttemptStatus.STARTING  # type: ignore[union-attr]
    assert store.attempts.leased_devices() == {("local", 0)}


def test_event_numbers_have_no_gap_under_concurrent_writers(store: Store, new_job: NewJob) -> None:
    job = new_job()

    def write() -> None:
        for _ in range(10):
            store.events.append(job.id, [said("x"), said("y")])

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [event.seq for event in store.events.since(job.id)] == list(range(1, 82))
