from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.jobs import lifecycle
from service.store.records import AttemptStatus, EndReason, JobStatus, TransitionRefused


def messages(world: Any, job: Any) -> list[str]:
    return [event.message for event in world.store.events.since(job.id)]


def test_a_job_goes_from_its_files_to_a_registered_model(world: Any) -> None:
    job = world.submit(status=JobStatus.VALIDATING_FILES, devices=2)
    ended = world.finish(job, world.new_runner())
    assert ended.status is JobStatus.SUCCEEDED
    assert ended.fine_tuned_model == f"ft:ViT-B-32:flyp:{job.id[6:14]}"
    model = world.store.models.get(ended.fine_tuned_model)
    assert (model.job_id, model.task, model.path) == (job.id, "clip", f"{job.job_dir}/export")
    assert (model.class_names, model.templates, model.metrics) == (["cat", "dog"], ["a {}"], {"validation/top1": 0.9})
    assert world.steps(job) == [1, 2, 3, 4]
    assert [c.step_number for c in world.store.checkpoints.list(job.id)[0]] == [4, 2]
    assert "Step 3/4: loss=0.3333, 50 images/s" in messages(world, job)
    assert (ended.estimated_finish, ended.num_attempts, ended.devices_wanted) == (None, 1, 2)
    assert world.store.attempts.leased_devices() == set()
    assert world.processes(job) == []


def test_the_attempt_is_written_down_before_it_starts(world: Any) -> None:
    job = world.submit()
    world.finish(job, world.new_runner())
    attempt_dir = Path(job.job_dir) / "attempts" / "0001"
    attempt = json.loads((attempt_dir / "attempt.json").read_text())
    launch = json.loads((attempt_dir / "launch.json").read_text())
    assert (attempt["number"], attempt["resume"], attempt["devices"]) == (1, False, [0])
    assert launch["pid"] == world.store.attempts.latest(job.id).pid


def test_the_thread_runs_jobs_and_wakes_at_once(world: Any) -> None:
    runner = world.new_runner(poll_interval_s=60)
    runner.start()
    job = world.submit(status=JobStatus.VALIDATING_FILES, preflight="hang")
    runner.wake()
    world.wait(lambda: world.processes(job), timeout_s=10)
    assert runner.is_alive
    runner.stop()
    assert not runner.is_alive
    assert world.processes(job)


def test_bad_data_fails_a_job_with_the_field_at_fault(world: Any) -> None:
    job = world.submit(status=JobStatus.VALIDATING_FILES, preflight="bad")
    ended = world.finish(job, world.new_runner())
    assert (ended.status, ended.error_code, ended.error_param) == (JobStatus.FAILED, "bad_data", "data.train.path")
    assert ended.error_message == "cat/1.jpg cannot be decoded"
    assert ended.num_attempts == 0


def test_what_is_odd_but_usable_is_a_warning(world: Any) -> None:
    job = world.submit(status=JobStatus.VALIDATING_FILES, preflight="odd")
    world.finish(job, world.new_runner())
    (warning,) = [event for event in world.store.events.since(job.id) if event.level == "warn"]
    assert "class owl has one image" in warning.message


def test_a_preflight_that_only_crashes_fails_its_job_with_its_last_words(world: Any) -> None:
    job = world.submit(status=JobStatus.VALIDATING_FILES, preflight="crash")
    ended = world.finish(job, world.new_runner(max_crashes_without_progress=2))
    assert ended.error_code == "preflight_crashed"
    assert "crashed 2 times" in ended.error_message
    assert "segmentation of pixels" in ended.error_message


def test_the_workers_own_reason_ends_a_job(world: Any) -> None:
    job = world.submit(fail="non_finite_loss")
    ended = world.finish(job, world.new_runner())
    assert (ended.status, ended.error_code) == (JobStatus.FAILED, "non_finite_loss")
    assert ended.error_message == "it was non_finite_loss"
    assert world.store.attempts.latest(job.id).end_reason is EndReason.NON_FINITE_LOSS


def test_a_crash_is_followed_by_an_attempt_from_the_checkpoint(world: Any) -> None:
    job = world.submit(steps=6, crash_at={1: 3, 2: 5})
    ended = world.finish(job, world.new_runner())
    assert ended.status is JobStatus.SUCCEEDED
    attempts = world.store.attempts.list(job.id)
    assert [a.end_reason for a in attempts] == [EndReason.CRASHED, EndReason.CRASHED, EndReason.COMPLETED]
    assert [a.start_step for a in attempts] == [0, 2, 4]
    assert [a.resume for a in attempts] == [False, True, True]
    assert world.steps(job) == [1, 2, 3, 3, 4, 5, 5, 6]


def test_crashes_without_progress_are_counted(world: Any) -> None:
    job = world.submit(always_crash_at=1, on_sigterm="save")
    ended = world.finish(job, world.new_runner(max_crashes_without_progress=2))
    assert (ended.status, ended.error_code) == (JobStatus.FAILED, "crashed")
    attempts = world.store.attempts.list(job.id)
    assert [a.made_progress for a in attempts] == [True, False, False]
    assert "died 2 times in a row" in ended.error_message


def test_an_interruption_that_nobody_asked_for_is_resumed(world: Any) -> None:
    job = world.submit(steps=5, interrupt_at={1: 1})
    assert world.finish(job, world.new_runner()).status is JobStatus.SUCCEEDED
    assert [a.end_reason for a in world.store.attempts.list(job.id)] == [EndReason.INTERRUPTED, EndReason.COMPLETED]
    assert world.steps(job) == [1, 2, 3, 4, 5]


def test_success_without_a_model_is_a_failure(world: Any) -> None:
    job = world.submit(export=False)
    ended = world.finish(job, world.new_runner())
    assert ended.status is JobStatus.FAILED
    assert "left no model" in ended.error_message
    assert world.store.models.list() == []


def test_a_worker_that_cannot_be_started_fails_the_job(world: Any) -> None:
    launcher = world.new_launcher(worker_command=lambda run, capacity, port: ["/nowhere/python"])
    job = world.submit()
    ended = world.finish(job, world.new_runner(launcher=launcher))
    assert (ended.status, ended.error_code) == (JobStatus.FAILED, "launch_failed")
    assert "/nowhere/python" in ended.error_message
    assert world.store.attempts.leased_devices() == set()


@pytest.mark.parametrize("status", [JobStatus.VALIDATING_FILES, JobStatus.QUEUED])
def test_too_many_devices_fail_at_once_and_name_the_field(world: Any, status: JobStatus) -> None:
    job = world.submit(devices=4, status=status, preflight="hang")
    behind = world.submit(devices=1)
    runner = world.new_runner()
    runner.tick()
    ended = world.job(job)
    assert (ended.status, ended.error_code, ended.error_param) == (
        JobStatus.FAILED,
        "not_enough_devices",
        "parallel.devices",
    )
    assert ended.error_message == "parallel.devices is 4, but this machine has no GPU and 2 CPU slots; use at most 2"
    assert world.job(behind).status is JobStatus.RUNNING
    assert world.processes(job) == []


def test_jobs_start_in_order_and_none_overtakes(world: Any) -> None:
    first = world.submit(devices=1, steps=1000)
    wide = world.submit(devices=2)
    narrow = world.submit(devices=1)
    runner = world.new_runner()
    world.wait(lambda: world.steps(first), runner=runner)
    assert [world.job(job).status for job in (first, wide, narrow)] == [
        JobStatus.RUNNING,
        JobStatus.QUEUED,
        JobStatus.QUEUED,
    ]
    world.store.jobs.request_cancel(first.id)
    world.finish(narrow, runner)
    started = [world.job(job).started_at for job in (wide, narrow)]
    assert started == sorted(started)
    assert world.job(wide).status is JobStatus.SUCCEEDED


def test_an_error_with_one_job_is_told_once_and_stops_no_other(world: Any) -> None:
    broken = world.submit(steps=1000)
    runner = world.new_runner()
    world.wait(lambda: world.steps(broken), runner=runner)
    events = Path(broken.job_dir) / "attempts" / "0001" / "events.jsonl"
    events.rename(events.with_name("kept"))
    events.mkdir()  # reading it now raises
    healthy = world.submit()
    assert world.finish(healthy, runner).status is JobStatus.SUCCEEDED
    told = [m for m in messages(world, broken) if m.startswith("internal error")]
    assert len(told) == 1
    assert "IsADirectoryError" in told[0]


def test_a_line_that_is_no_event_is_told_and_skipped(world: Any) -> None:
    job = world.submit()
    events = Path(job.job_dir) / "attempts" / "0001" / "events.jsonl"
    runner = world.new_runner()
    runner.tick()
    world.wait(events.exists)
    with events.open("ab") as file:
        file.write(b'{"type": "from the future"}\n')
    assert world.finish(job, runner).status is JobStatus.SUCCEEDED
    assert world.steps(job) == [1, 2, 3, 4]
    (warning,) = [m for m in messages(world, job) if "is no event" in m]
    assert "from the future" in warning


def test_pause_saves_and_resume_goes_on_from_there(world: Any) -> None:
    job = world.submit(steps=60, step_s=0.05, checkpoint_every=1000)
    runner = world.new_runner()
    world.wait(lambda: len(world.steps(job)) >= 2, runner=runner)
    lifecycle.pause(world.store, job.id)
    with pytest.raises(TransitionRefused, match="is paused and cannot become queued: its last attempt is still saving"):
        lifecycle.resume(world.store, job.id)
    world.wait(lambda: world.store.attempts.open() == [], runner=runner)
    assert world.job(job).status is JobStatus.PAUSED
    assert world.store.attempts.latest(job.id).end_reason is EndReason.PAUSED
    assert world.store.attempts.leased_devices() == set()
    Path(job.job_dir, "script.json").write_text('{"steps": 60}')
    lifecycle.resume(world.store, job.id)
    assert world.finish(job, runner).status is JobStatus.SUCCEEDED
    assert world.steps(job) == list(range(1, 61))


def test_only_one_runner_works_on_a_data_folder(world: Any) -> None:
    holder, other = world.new_runner(), world.new_runner()
    holder.tick()
    job = world.submit()
    other.tick()
    assert world.job(job).status is JobStatus.QUEUED
    holder.stop()
    other.tick()
    assert world.store.attempts.latest(job.id).status is AttemptStatus.RUNNING
