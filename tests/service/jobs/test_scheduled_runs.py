"""Preemption, limits and the watchdog with real processes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from service.jobs.scheduling.limits import Patience
from service.store.records import EndReason, JobStatus


def training(world: Any, runner: Any, **script: Any) -> Any:
    job = world.submit(devices=2, steps=1_000_000, **script)
    world.wait(lambda: world.steps(job), runner=runner)
    return job


@pytest.mark.slow
def test_a_preempted_job_saves_waits_and_goes_on(world: Any) -> None:
    runner = world.new_runner()
    low = training(world, runner, checkpoint_every=10_000)
    high = world.submit(devices=1, steps=3)
    world.store.queue.change(high.id, priority=90)
    assert world.finish(high, runner).status is JobStatus.SUCCEEDED
    world.wait(lambda: world.job(low).num_attempts == 2, runner=runner)
    first = world.store.attempts.list(low.id)[0]
    assert first.end_reason is EndReason.PREEMPTED
    (saved,) = world.store.checkpoints.list(low.id)[0]
    world.wait(lambda: world.store.attempts.latest(low.id).start_step == saved.step_number, runner=runner)


@pytest.mark.slow
def test_a_job_that_ran_for_its_longest_saves_and_fails(world: Any) -> None:
    runner = world.new_runner()
    job = training(world, runner, checkpoint_every=10_000)
    world.store.queue.change(job.id, max_runtime_s=0.01)
    ended = world.finish(job, runner)
    assert (ended.status, ended.error_code) == (JobStatus.FAILED, "max_runtime_exceeded")
    assert len(world.store.checkpoints.list(job.id)[0]) == 1


@pytest.mark.slow
def test_a_run_that_tells_nothing_is_killed_and_tried_again(world: Any) -> None:
    runner = world.new_runner(patience=Patience(training_s=0.5, other_stages_s=20.0), cancel_grace_s=0.3)
    job = world.submit(devices=1, steps=5, step_s=60.0)
    world.wait(lambda: world.store.attempts.list(job.id), runner=runner)
    world.store.attempts.update(job.id, 1, stage="training")
    world.wait(
        lambda: world.store.attempts.list(job.id)[0].end_reason is EndReason.STALLED, runner=runner, timeout_s=60
    )
    assert world.job(job).status in (JobStatus.QUEUED, JobStatus.RUNNING)


def test_a_waiting_job_whose_deadline_is_over_fails(world: Any) -> None:
    job = world.submit(status=JobStatus.PAUSED)
    world.store.queue.change(job.id, deadline_at=time.time() - 1)
    world.new_runner().tick()
    assert (world.job(job).status, world.job(job).error_code) == (JobStatus.FAILED, "deadline_exceeded")
