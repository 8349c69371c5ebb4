"""The drill's own parts: its worker keeps the contract, and each of its promises can be seen to fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.drill.device_locks import hold
from benchmarks.drill.people import People
from benchmarks.drill.plan import Planned, draw_jobs
from benchmarks.drill.verdicts import Evidence
from benchmarks.drill.worker import command_line
from service.store.records import AttemptEnd, AttemptProgress, EndReason, JobRecord, JobStatus, ModelRecord, NewEvent
from service.store.store import Store
from trainer.events import EventWriter, Step, read_events
from trainer.job_dir import ExitRecord, JobDir, write_json_atomically
from trainer.resolve import resolve

SCRIPT = {"end": "succeed", "steps": 6, "step_s": 0.02, "checkpoint_every": 2, "real": False}


def make_job(folder: Path, **script: object) -> JobDir:
    metadata = {"drill": "drill-0", "script": json.dumps(SCRIPT | script)}
    objective = {"name": "class_prompts"}
    spec = resolve(
        spec={"model": "attune-tiny-32", "objective": objective, "data": {"train": "/data"}, "metadata": metadata}
    )
    job = JobDir(folder / "ftjob-a")
    write_json_atomically(job.spec, spec)
    return job


def start(job: JobDir, attempt: int, *, devices: list[int], resume: bool = False) -> subprocess.Popen[bytes]:
    job.attempt(attempt).path.mkdir(parents=True)  # the service has put attempt.json there
    command = command_line(
        job_dir=job.path,
        attempt=attempt,
        locks=job.path.parent / "locks",
        placement=[("local", devices)],
        resume=resume,
        command=[],
    )
    return subprocess.Popen(command, start_new_session=True)


def steps_of(job: JobDir, attempt: int) -> list[int]:
    return [event.step for event in read_events(job.attempt(attempt).events)[0] if event.type == "step"]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_same_seed_draws_the_same_jobs(tmp_path: Path) -> None:
    options = {"data": tmp_path, "two_nodes": False, "step_s": 0.1}
    jobs = draw_jobs(200, seed=3, **options)
    assert jobs == draw_jobs(200, seed=3, **options)
    assert jobs != draw_jobs(200, seed=4, **options)
    assert sum(job.is_real for job in jobs) == 20
    assert {job.end for job in jobs} > {"succeed", "bad_data", "cancel", "pause", "stall"}


def test_a_short_worker_trains_and_exports(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert start(job, 1, devices=[0, 1]).wait(30) == 0
    ended = job.attempt(1).read_exit()
    assert ended is not None
    assert ended.status == "succeeded"
    assert steps_of(job, 1) == [1, 2, 3, 4, 5, 6]
    assert (job.export / "attune.json").exists()


def test_ranks_without_a_launcher_save_and_the_next_attempt_goes_on_from_there(tmp_path: Path) -> None:
    job = make_job(tmp_path, steps=40, step_s=0.05)
    launcher = start(job, 1, devices=[0])
    wait_until(lambda: len(steps_of(job, 1)) >= 3)
    launcher.kill()
    launcher.wait()
    wait_until(job.attempt(1).exit.exists)
    saved = job.published_checkpoints()[-1].step

    launcher = start(job, 2, devices=[0], resume=True)
    wait_until(lambda: steps_of(job, 2))
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()

    assert steps_of(job, 1)[-1] == saved
    assert steps_of(job, 2)[0] == saved + 1


def test_two_attempts_on_one_device_are_noticed(tmp_path: Path) -> None:
    notes = tmp_path / "violations.jsonl"
    program = "import sys; from benchmarks.drill.device_locks import hold; from pathlib import Path;"
    program += "hold(Path(sys.argv[1]), 'local.0', tag='job.1'); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    os.close(hold(tmp_path, "local.0", tag="job.1"))
    assert not notes.exists()
    os.close(hold(tmp_path, "local.0", tag="job.2"))
    assert json.loads(notes.read_text())["living"] == ["job.1"]
    other.communicate()
    os.close(hold(tmp_path, "local.0", tag="job.3"))
    assert len(notes.read_text().splitlines()) == 1


class World:
    """One job that has succeeded as it should, after an attempt that crashed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "locks" / "local.0").mkdir(parents=True)
        self.store = Store(f"sqlite:///{folder / 'attune.db'}")
        self.store.upgrade()
        self.job = JobDir(folder / "jobs" / "ftjob-a")
        metadata = {"drill": "drill-0"}
        record = JobRecord(id="ftjob-a", spec={}, model="m", job_dir=str(self.job.path), created_at=1.0,
                           status=JobStatus.QUEUED, metadata=metadata)  # fmt: skip
        self.store.jobs.create(record)
        placement = [{"node": "local", "devices": [0]}]
        self.store.attempts.begin(
            "ftjob-a", placement=placement, resume=False, expected=[JobStatus.QUEUED], message="go"
        )
        self.log(1, [1, 2])
        self.store.attempts.retry(
            "ftjob-a", 1, AttemptEnd(reason=EndReason.CRASHED, message="it crashed"), message="once more"
        )
        self.log(2, [3, 4])
        self.exit(2)
        model = ModelRecord(id="ft:m", path="/m", task="clip", created_at=1.0, job_id="ftjob-a")
        end = AttemptEnd(reason=EndReason.COMPLETED, message="it is done")
        expected = [JobStatus.RUNNING]
        self.store.attempts.finish("ftjob-a", 2, end, to=JobStatus.SUCCEEDED, expected=expected, model=model)
        self.people = People(["http://127.0.0.1:1"], seed=0)
        self.people.job_ids[0] = ["ftjob-a"]
        self.people.seen[0] = [event.id for event in self.store.events.since("ftjob-a")]
        self.planned = Planned(number=0, end="succeed", is_real=False, body={}, steps=4)

    def log(self, attempt: int, steps: list[int]) -> None:
        written = [
            Step(step=step, epoch=0.1, loss=1.0, lr=0.1, images_per_s=1.0, data_wait_share=0.0, eta_s=1.0)
            for step in steps
        ]
        with EventWriter(self.job.attempt(attempt).events) as writer:
            for event in written:
                writer.write(event)
        rows = [NewEvent(message="step", created_at=1.0, type="metrics", data=e.model_dump()) for e in written]
        size = self.job.attempt(attempt).events.stat().st_size
        progress = AttemptProgress(offset_before=0, offset_after=size, events=rows)
        assert self.store.attempts.store_progress("ftjob-a", attempt, progress)

    def exit(self, attempt: int) -> None:
        record = ExitRecord(status="succeeded", reason="completed", message="done", step=4, time=1.0)
        write_json_atomically(self.job.attempt(attempt).exit, record)

    def broken(self) -> set[str]:
        evidence = Evidence(self.store, folder=self.folder, planned=[self.planned], people=self.people)
        return {verdict.promise for verdict in evidence.verdicts() if not verdict.holds}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.store.close()


def test_nothing_speaks_against_a_sound_world(world: World) -> None:
    assert world.broken() == set()


def test_a_job_that_is_lost(world: World) -> None:
    world.planned = Planned(number=1, end="succeed", is_real=False, body={}, steps=4)
    assert "none lost" in world.broken()


def test_a_client_that_was_told_of_two_jobs(world: World) -> None:
    world.people.job_ids[0].append("ftjob-b")
    assert world.broken() == {"none lost"}


def test_two_attempts_that_ran_to_the_end(world: World) -> None:
    world.exit(1)
    assert world.broken() == {"none run twice to the end"}


def test_a_device_that_was_given_twice(world: World) -> None:
    note = {"name": "local.0", "tag": "ftjob-b.1", "living": ["ftjob-a.1"], "time": 1.0}
    (world.folder / "locks" / "violations.jsonl").write_text(json.dumps(note) + "\n")
    assert world.broken() == {"no device given twice"}


def test_a_process_that_is_left(world: World) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", str(world.folder)], stdin=-1)
    assert world.broken() == {"no orphan process"}
    process.communicate()


def test_a_job_that_ended_otherwise(world: World) -> None:
    world.planned = Planned(number=0, end="bad_data", is_real=False, body={}, steps=4)
    assert world.broken() == {"every job ended as was meant"}


def test_steps_that_nobody_logged(world: World) -> None:
    world.planned = Planned(number=0, end="succeed", is_real=False, body={}, steps=5)
    assert world.broken() == {"no step lost or left out"}


def test_events_that_are_lost(world: World) -> None:
    with world.job.attempt(1).events.open("a") as file:
        file.write('{"type": "message", "time": 2.0, "message": "late"}\n')
    assert world.broken() == {"no event lost or told twice"}


def test_events_that_come_twice(world: World) -> None:
    event = world.store.events.since("ftjob-a")[-2]
    world.store.events.append("ftjob-a", [NewEvent(message="x", created_at=1.0, type="metrics", data=event.data)])
    assert "no event lost or told twice" in world.broken()


def test_a_stream_that_left_one_out(world: World) -> None:
    del world.people.seen[0][2]
    assert world.broken() == {"no event stream missed any"}
