"""What may happen between two lines: a full disk, a lost lease, a broken line, a word of a person. Nothing is lost or
doubled by it."""

from __future__ import annotations

import errno
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.jobs import lifecycle
from service.jobs.memory import micro_size_of
from service.jobs.registration import describe_model
from service.jobs.supervisor import run_of
from service.launchers.local import LocalLauncher
from service.launchers.processes import LaunchRecord, start_of
from service.store.records import AttemptEnd, EndReason, JobStatus, TransitionRefused
from trainer import fence
from trainer.job_dir import JobDir


class Shared(LocalLauncher):
    """This machine's engine, as one that other replicas reach, too."""

    shared = True


def test_a_disk_that_is_full_at_the_launch_leaves_no_process_and_the_job_waits(world: Any, monkeypatch: Any) -> None:
    real = LaunchRecord.model_dump_json

    def full(self: LaunchRecord, **options: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    job = world.submit(devices=1, on_sigterm="ignore", steps=10_000)
    runner = world.new_runner()
    with monkeypatch.context() as disk:
        disk.setattr(LaunchRecord, "model_dump_json", full)
        world.wait(lambda: world.store.attempts.list(job.id), runner=runner)
        world.wait(lambda: world.store.attempts.latest(job.id).end_reason, runner=runner)
    assert LaunchRecord.model_dump_json is real
    assert world.store.attempts.latest(job.id).end_reason is EndReason.DISK_FULL
    assert world.processes(job) == []
    waiting = world.job(job)
    assert (waiting.status, waiting.retries) == (JobStatus.QUEUED, {"disk_full": 1})
    assert world.store.attempts.leased_devices() == set()


def test_what_is_started_after_its_attempt_was_ended_is_ended(world: Any) -> None:
    """The first replica loses its lease while the engine takes its time; the second one ends the attempt."""
    job = world.submit(devices=1, on_sigterm="ignore", steps=10_000)
    second = world.new_runner(launcher=Shared(cpu_slots=2, worker_command=world.launcher._worker_command), lease_s=0.2)

    class Slow(Shared):
        def submit(self, run: Any) -> Any:
            world.store.jobs.request_cancel(job.id)
            started = super().submit(run)
            # What the second replica would do if it saw nothing of it yet.
            world.store.attempts.finish(
                job.id, run.attempt, _cancelled(), to=JobStatus.CANCELLED, expected=[JobStatus.RUNNING]
            )
            return started

    first = world.new_runner(launcher=Slow(cpu_slots=2, worker_command=world.launcher._worker_command))
    world.wait(lambda: world.job(job).status is JobStatus.CANCELLED, runner=first)
    world.wait(lambda: world.processes(job) == [])
    second.tick()
    assert world.store.attempts.leased_devices() == set()


def test_a_run_of_an_ended_attempt_on_a_shared_engine_is_found_and_ended(world: Any) -> None:
    job = world.submit(devices=1, on_sigterm="ignore", steps=10_000)
    launcher = Shared(cpu_slots=2, worker_command=world.launcher._worker_command)
    runner = world.new_runner(launcher=launcher)
    world.wait(lambda: world.processes(job), runner=runner)
    world.store.jobs.request_cancel(job.id)
    attempt = world.store.attempts.latest(job.id)
    world.store.attempts.finish(
        job.id, attempt.number, _cancelled(), to=JobStatus.CANCELLED, expected=[JobStatus.RUNNING]
    )
    world.new_runner(launcher=launcher).tick()  # another replica, which nobody told of it
    world.store.leases.release("planner", owner=runner.replica_id)
    other = world.new_runner(launcher=launcher)
    world.wait(lambda: world.processes(job) == [], runner=other)


def test_an_attempt_that_was_given_up_before_it_began_cannot_begin(tmp_path: Path) -> None:
    fence.take_away(tmp_path, reason="ended before it began")
    with pytest.raises(fence.Fenced, match="ended before it began"):
        fence.issue(tmp_path)


def test_lines_that_a_full_disk_broke_keep_no_job_alive(world: Any) -> None:
    job = world.submit(devices=1, steps=10_000, step_s=0.01)
    runner = world.new_runner()
    world.wait(lambda: world.steps(job), runner=runner)
    events = JobDir(Path(world.job(job).job_dir)).attempt(1).events
    events.write_bytes(b'{"type": "sta\x00\x00\n[1]\n' + events.read_bytes())
    assert micro_size_of(events) == 1
    world.store.jobs.request_cancel(job.id)
    assert world.finish(job, runner).status is JobStatus.CANCELLED


def test_a_broken_export_line_is_passed_over(world: Any) -> None:
    job = world.submit(devices=1)
    assert world.finish(job, world.new_runner()).status is JobStatus.SUCCEEDED
    paths = JobDir(Path(world.job(job).job_dir)).attempt(1)
    with paths.events.open("ab") as file:
        file.write(b'{"type": "exported", "checkpo\n')
    assert describe_model(world.job(job), paths, world.store.models).task


def test_a_pause_during_a_requeue_is_kept(world: Any) -> None:
    job = world.submit(devices=1, steps=10_000, on_sigterm="save")
    runner = world.new_runner()
    world.wait(lambda: world.steps(job), runner=runner)
    attempt = world.store.attempts.latest(job.id)
    world.store.attempts.ask_to_stop(job.id, attempt.number, EndReason.PREEMPTED, message="room is needed")
    requeue = world.store.attempts.requeue

    def paused_just_before(*args: Any, **kwargs: Any) -> None:
        lifecycle.pause(world.store, job.id)
        requeue(*args, **kwargs)

    world.store.attempts.requeue = paused_just_before
    world.wait(lambda: world.store.attempts.latest(job.id).end_reason is not None, runner=runner)
    assert world.job(job).status is JobStatus.PAUSED


def test_a_paused_job_goes_on_only_once_its_attempt_has_ended(world: Any) -> None:
    job = world.submit(devices=1, steps=10_000, on_sigterm="ignore")
    world.wait(lambda: world.steps(job), runner=world.new_runner())
    lifecycle.pause(world.store, job.id)
    with pytest.raises(TransitionRefused, match="still saving"):
        lifecycle.resume(world.store, job.id)
    assert world.job(job).status is JobStatus.PAUSED


def test_no_job_has_two_open_attempts(world: Any) -> None:
    job = world.submit(devices=1, steps=10_000)
    world.wait(lambda: world.steps(job), runner=world.new_runner())
    place = [{"node": "local", "devices": [1]}]
    with pytest.raises(TransitionRefused, match="open attempt"):
        world.store.attempts.begin(
            job.id, placement=place, resume=True, expected=[JobStatus.RUNNING, JobStatus.QUEUED], message="again"
        )


def test_a_clock_that_was_set_does_not_hide_a_process(world: Any) -> None:
    job = world.submit(devices=1, steps=10_000)
    world.wait(lambda: world.steps(job), runner=world.new_runner())
    record = JobDir(Path(job.job_dir)).attempt(1).path / "launch.json"
    launch = LaunchRecord.model_validate_json(record.read_bytes())
    assert launch.start == start_of(launch.pid)
    record.write_text(launch.model_copy(update={"created_at": launch.created_at - 3600}).model_dump_json())
    later = world.new_launcher()
    attempt = world.store.attempts.latest(job.id)
    assert later.poll(run_of(world.job(job), attempt)).leader_alive
    psutil.Process(launch.pid).send_signal(signal.SIGKILL)


def test_an_attempt_of_another_engine_is_left_alone(world: Any) -> None:
    job = world.submit(devices=1, steps=10_000)
    world.wait(lambda: world.steps(job), runner=world.new_runner())

    class Other(LocalLauncher):
        name = "ray"

    for runner in world.runners:
        runner.stop()
    world.new_runner(launcher=Other(cpu_slots=2)).tick()
    assert world.job(job).status is JobStatus.RUNNING
    assert any("ATTUNE_ENGINE=local" in event.message for event in world.store.events.since(job.id))


def test_one_machine_at_a_time_runs_the_jobs_of_a_database(world: Any, tmp_path: Path) -> None:
    job = world.submit(devices=1, steps=10_000)
    here = world.new_runner()
    world.wait(lambda: world.steps(job), runner=here)
    there = world.new_runner(data_dir=tmp_path / "there")
    for _ in range(3):
        there.tick()
    assert there.stands_by
    assert len(world.store.attempts.list(job.id)) == 1
    here.stop()
    there.tick()
    assert not there.stands_by


def _cancelled() -> AttemptEnd:
    return AttemptEnd(reason=EndReason.CANCELLED, message="Job cancelled")
