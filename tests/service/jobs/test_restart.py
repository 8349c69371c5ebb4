"""The service dies between any two lines and is started again: nothing is lost, doubled or left over."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from service.jobs.lifecycle import sources
from service.launchers.processes import TAG_VARIABLE
from service.store.records import AttemptStatus, EndReason, JobStatus

HERE = Path(__file__).parent


def begin(world: Any, job: Any) -> Any:
    """The row of an attempt, as it stands when nothing else has happened yet."""
    share = {"node": "local", "devices": [0]}
    return world.store.attempts.begin(
        job.id, placement=[share], resume=False, expected=sources(JobStatus.RUNNING), message="Job started"
    )


def test_killed_after_the_row_and_before_the_process(world: Any) -> None:
    job = world.submit()
    begin(world, job)
    ended = world.finish(job, world.new_runner())
    assert (ended.status, ended.num_attempts) == (JobStatus.SUCCEEDED, 1)


def test_killed_after_the_process_and_before_its_number_was_written(world: Any) -> None:
    job = world.submit(steps=30, step_s=0.05)
    launcher = world.new_launcher()
    runner = world.new_runner(launcher=launcher)
    runner.tick()
    runner.stop()
    # What the kill leaves: a process, and neither launch.json nor its pid in the row.
    leader = world.store.attempts.latest(job.id).pid
    (Path(job.job_dir) / "attempts/0001/launch.json").unlink()
    world.store.attempts.update(job.id, 1, status=AttemptStatus.STARTING, pid=None, pid_created_at=None)

    ended = world.finish(job, world.new_runner())
    assert world.store.attempts.latest(job.id).pid == leader
    assert (ended.status, ended.num_attempts) == (JobStatus.SUCCEEDED, 1)
    assert world.steps(job) == list(range(1, 31))


def test_killed_after_the_process_and_it_was_gone_before_the_restart(world: Any) -> None:
    job = world.submit(steps=6, crash_at={1: 3})
    runner = world.new_runner()
    runner.tick()
    runner.stop()
    world.wait(lambda: not world.processes(job))
    (Path(job.job_dir) / "attempts/0001/launch.json").unlink()
    world.store.attempts.update(job.id, 1, status=AttemptStatus.STARTING, pid=None, pid_created_at=None)

    ended = world.finish(job, world.new_runner())
    assert ended.status is JobStatus.SUCCEEDED
    # It ran, so it is not started a second time under the same number.
    assert [a.end_reason for a in world.store.attempts.list(job.id)] == [EndReason.CRASHED, EndReason.COMPLETED]
    assert world.steps(job) == [1, 2, 3, 3, 4, 5, 6]


def test_finished_while_nobody_looked(world: Any) -> None:
    job = world.submit()
    runner = world.new_runner()
    runner.tick()
    runner.stop()
    world.wait(lambda: not world.processes(job))
    assert world.steps(job) == []
    assert world.finish(job, world.new_runner()).status is JobStatus.SUCCEEDED
    assert world.steps(job) == [1, 2, 3, 4]


def test_killed_between_the_end_of_an_attempt_and_anything_else(world: Any) -> None:
    job = world.submit(steps=6, crash_at={1: 3})
    runner = world.new_runner()
    world.wait(
        lambda: world.store.attempts.latest(job.id) and len(world.store.attempts.list(job.id)) == 2, runner=runner
    )
    runner.stop()
    # Ending the first and opening the second is one transaction: there is no moment without an open attempt.
    assert world.job(job).status is JobStatus.RUNNING
    assert [a.status for a in world.store.attempts.list(job.id)][0] is AttemptStatus.ENDED
    assert world.finish(job, world.new_runner()).status is JobStatus.SUCCEEDED


def test_a_preflight_goes_on_without_the_service_and_is_not_started_twice(world: Any) -> None:
    job = world.submit(status=JobStatus.VALIDATING_FILES, preflight="hang")
    runner = world.new_runner()
    world.wait(lambda: world.processes(job), runner=runner)
    runner.stop()
    (process,) = world.processes(job)
    successor = world.new_runner()
    for _ in range(3):
        successor.tick()
    assert [p.pid for p in world.processes(job)] == [process.pid]
    process.send_signal(signal.SIGKILL)
    (Path(job.job_dir) / "preflight.txt").write_text("good")
    assert world.finish(job, successor).status is JobStatus.SUCCEEDED


def test_processes_of_ended_attempts_are_killed_at_the_start_and_strangers_left_alone(world: Any) -> None:
    job = world.submit()
    world.finish(job, world.new_runner())
    for runner in world.runners:
        runner.stop()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    stray = subprocess.Popen(sleep, env={TAG_VARIABLE: f"{job.id}/1"})
    stranger = subprocess.Popen(sleep, env={TAG_VARIABLE: "ftjob-of-another-service/1"})
    try:
        world.wait(lambda: world.processes(job))
        world.new_runner().tick()
        assert stray.wait(5) == -signal.SIGKILL
        with pytest.raises(subprocess.TimeoutExpired):
            stranger.wait(0.3)
    finally:
        stray.kill()
        stranger.kill()
        stray.wait()
        stranger.wait()


CONTROL_PLANE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import preflight_command, worker_command
from service.jobs.runner import JobRunner
from service.launchers.local import LocalLauncher
from service.store.store import Store
folder = Path(sys.argv[1])
launcher = LocalLauncher(cpu_slots=2, worker_command=worker_command)
runner = JobRunner(
    Store(f"sqlite:///{folder / 'attune.db'}"),
    launcher,
    data_dir=folder,
    poll_interval_s=0.005,
    preflight_command=preflight_command,
)
runner.start()
sys.stdin.read()
"""


@pytest.mark.slow
def test_kill_9_of_the_service_again_and_again_loses_and_doubles_nothing(world: Any) -> None:
    jobs = [
        world.submit(status=JobStatus.VALIDATING_FILES, steps=120, step_s=0.04, checkpoint_every=10) for _ in range(2)
    ]
    command = [sys.executable, "-c", CONTROL_PLANE, str(world.data_dir), str(HERE)]
    lives = 0
    deadline = time.monotonic() + 90
    while not all(world.job(job).status.is_terminal for job in jobs):
        assert time.monotonic() < deadline
        service = subprocess.Popen(command, stdin=subprocess.PIPE)
        lives += 1
        time.sleep(1.2 + 0.37 * (lives % 5))
        service.kill()
        service.wait()
        assert service.stdin is not None
        service.stdin.close()
    assert lives > 2
    for job in jobs:
        assert world.job(job).status is JobStatus.SUCCEEDED
        assert world.steps(job) == list(range(1, 121))
        assert world.job(job).num_attempts == 1
        assert [event.seq for event in world.store.events.since(job.id)] == list(
            range(1, len(world.store.events.since(job.id)) + 1)
        )
        assert world.processes(job) == []
    assert len(world.store.models.list()) == 2
