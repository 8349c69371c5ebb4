"""Cancelling, killing and shutting down: what was asked to end ends, and leaves no process."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import trainer
from service.jobs.supervisor import ORPHAN_GRACE_S
from service.store.records import EndReason, JobStatus


def training(world: Any, runner: Any, **script: Any) -> Any:
    """A job that has logged its first step."""
    job = world.submit(devices=2, steps=1_000_000, **script)
    world.wait(lambda: world.steps(job), runner=runner)
    return job


def is_running(pid: int) -> bool:
    """Whether there is such a process that is not merely waiting for its parent to take note of its end."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("status", [JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.PAUSED])
def test_a_job_that_has_not_started_is_cancelled_at_once(world: Any, status: JobStatus) -> None:
    job = world.submit(status=status, preflight="hang")
    world.store.jobs.request_cancel(job.id)
    runner = world.new_runner()
    runner.tick()
    assert world.job(job).status is JobStatus.CANCELLED
    assert world.job(job).num_attempts == 0


def test_cancelling_ends_a_preflight(world: Any) -> None:
    job = world.submit(status=JobStatus.VALIDATING_FILES, preflight="hang")
    runner = world.new_runner()
    world.wait(lambda: world.processes(job), runner=runner)
    world.store.jobs.request_cancel(job.id)
    assert world.finish(job, runner).status is JobStatus.CANCELLED
    assert world.processes(job) == []


def test_cancelling_gives_workers_time_to_save(world: Any) -> None:
    runner = world.new_runner(cancel_grace_s=20)
    job = training(world, runner, checkpoint_every=10_000, save_s=0.5)
    world.store.jobs.request_cancel(job.id)
    runner.tick()
    assert world.job(job).status is JobStatus.RUNNING
    assert world.store.attempts.leased_devices() == {("local", 0), ("local", 1)}
    ended = world.finish(job, runner)
    assert (ended.status, ended.error_code) == (JobStatus.CANCELLED, None)
    assert world.store.attempts.latest(job.id).end_reason is EndReason.CANCELLED
    (saved,) = world.store.checkpoints.list(job.id)[0]
    assert saved.step_number == world.steps(job)[-1]
    assert world.store.attempts.leased_devices() == set()
    assert world.processes(job) == []


def test_workers_that_do_not_listen_are_killed_after_their_grace(world: Any) -> None:
    runner = world.new_runner(cancel_grace_s=0.6)
    job = training(world, runner, on_sigterm="ignore")
    world.store.jobs.request_cancel(job.id)
    began = time.monotonic()
    runner.tick()
    assert world.processes(job)
    assert world.finish(job, runner).status is JobStatus.CANCELLED
    assert time.monotonic() - began >= 0.6
    assert world.processes(job) == []


def test_the_grace_goes_on_counting_through_a_restart(world: Any) -> None:
    first = world.new_runner(cancel_grace_s=0.5)
    job = training(world, first, on_sigterm="ignore")
    world.store.jobs.request_cancel(job.id)
    first.tick()
    first.stop()
    time.sleep(0.6)
    second = world.new_runner(cancel_grace_s=0.5)
    second.tick()
    world.wait(lambda: not world.processes(job), timeout_s=2)
    assert world.finish(job, second).status is JobStatus.CANCELLED


def test_a_cancelled_job_stays_cancelled_though_it_got_to_its_end(world: Any) -> None:
    runner = world.new_runner()
    job = world.submit()
    runner.tick()
    world.wait(lambda: not world.processes(job))
    world.store.jobs.request_cancel(job.id)
    ended = world.finish(job, runner)
    assert (ended.status, ended.fine_tuned_model) == (JobStatus.CANCELLED, None)
    assert world.store.models.list() == []


def test_kill_9_of_the_launcher_leaves_no_orphan_and_the_job_goes_on(world: Any) -> None:
    runner = world.new_runner()
    job = training(world, runner, checkpoint_every=10_000)
    orphans = [p.pid for p in world.processes(job)]
    leader = world.store.attempts.latest(job.id).pid
    assert leader in orphans
    assert len(orphans) == 3
    Path(job.job_dir, "script.json").write_text('{"steps": 1000, "step_s": 0.001}')
    os.kill(leader, signal.SIGKILL)
    ended = world.finish(job, runner)
    assert ended.status is JobStatus.SUCCEEDED
    assert [a.end_reason for a in world.store.attempts.list(job.id)] == [EndReason.INTERRUPTED, EndReason.COMPLETED]
    assert world.steps(job) == list(range(1, 1001))
    assert world.processes(job) == []
    assert not any(is_running(pid) for pid in orphans)


def test_orphans_save_for_longer_than_a_cancelled_job_may(world: Any) -> None:
    runner = world.new_runner(cancel_grace_s=0.2)
    job = training(world, runner, checkpoint_every=10_000, save_s=1.0)
    os.kill(world.store.attempts.latest(job.id).pid, signal.SIGKILL)
    world.wait(lambda: len(world.store.attempts.list(job.id)) == 2, runner=runner)
    first, second = world.store.attempts.list(job.id)
    assert first.end_reason is EndReason.INTERRUPTED
    (saved,) = world.store.checkpoints.list(job.id)[0]
    assert saved.step_number == first.last_step
    assert second.resume


def test_orphans_have_as_long_as_they_give_themselves() -> None:
    source = (Path(trainer.__file__).parent / "distributed.py").read_text(encoding="utf-8")
    (own_limit_s,) = re.findall(r"^_GRACE_S = ([0-9.]+)", source, re.MULTILINE)
    assert float(own_limit_s) < ORPHAN_GRACE_S


def test_a_cancellation_ends_the_patience_with_orphans(world: Any) -> None:
    runner = world.new_runner(cancel_grace_s=0.3)
    job = training(world, runner, on_sigterm="ignore")
    os.kill(world.store.attempts.latest(job.id).pid, signal.SIGKILL)
    world.wait(lambda: world.store.attempts.latest(job.id).stop_requested_at, runner=runner)
    world.store.jobs.request_cancel(job.id)
    assert world.finish(job, runner).status is JobStatus.CANCELLED
    assert world.processes(job) == []


def test_kill_9_of_the_launcher_when_workers_do_not_listen(world: Any) -> None:
    runner = world.new_runner(orphan_grace_s=0.3)
    job = training(world, runner, on_sigterm="ignore", checkpoint_every=1)
    old = {p.pid for p in world.processes(job)}
    os.kill(world.store.attempts.latest(job.id).pid, signal.SIGKILL)
    world.wait(lambda: len(world.store.attempts.list(job.id)) == 2, runner=runner)
    assert not old & {p.pid for p in world.processes(job)}
    assert world.store.attempts.list(job.id)[0].end_reason is EndReason.CRASHED


def test_kill_9_of_the_launcher_and_the_first_rank_takes_the_rest_with_it(world: Any) -> None:
    runner = world.new_runner(orphan_grace_s=0.3)
    job = training(world, runner, checkpoint_every=1)
    rank_zero = world.store.attempts.latest(job.id).worker_pids[0]
    old = {p.pid for p in world.processes(job)}
    os.kill(world.store.attempts.latest(job.id).pid, signal.SIGKILL)
    os.kill(rank_zero, signal.SIGKILL)
    world.wait(lambda: len(world.store.attempts.list(job.id)) == 2, runner=runner)
    assert not old & {p.pid for p in world.processes(job)}


def test_what_lingers_after_its_exit_record_is_killed(world: Any) -> None:
    runner = world.new_runner(cancel_grace_s=0.4)
    job = world.submit(linger_s=60)
    began = time.monotonic()
    assert world.finish(job, runner).status is JobStatus.SUCCEEDED
    assert time.monotonic() - began < 20
    assert world.processes(job) == []


def test_stopping_the_service_leaves_jobs_running(world: Any) -> None:
    runner = world.new_runner()
    runner.start()
    job = world.submit(steps=60, step_s=0.05)
    runner.wake()
    world.wait(lambda: world.steps(job))
    runner.stop()
    assert len(world.processes(job)) == 2
    assert world.finish(job, world.new_runner()).status is JobStatus.SUCCEEDED
    assert world.steps(job) == list(range(1, 61))
    assert world.job(job).num_attempts == 1


def test_stopping_with_its_jobs_leaves_nothing_and_they_can_go_on_later(world: Any) -> None:
    runner = world.new_runner()
    stubborn = world.submit(steps=1000, on_sigterm="ignore")
    polite = world.submit(steps=40, step_s=0.05, checkpoint_every=10_000)
    reading = world.submit(status=JobStatus.VALIDATING_FILES, preflight="hang")
    world.wait(lambda: world.steps(stubborn) and world.steps(polite) and world.processes(reading), runner=runner)
    runner.stop(kill_jobs=True, grace_s=0.5)
    assert [world.processes(job) for job in (stubborn, polite, reading)] == [[], [], []]
    assert world.job(polite).status is JobStatus.RUNNING
    assert world.finish(polite, world.new_runner()).status is JobStatus.SUCCEEDED
    assert world.steps(polite) == list(range(1, 41))
