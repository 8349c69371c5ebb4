"""A store, a launcher of real processes that stand in for training, and runners on them."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.jobs.runner import JobRunner
from service.jobs.scheduling.wanted import columns_of
from service.launchers.base import Capacity, Run
from service.launchers.local import LocalLauncher
from service.launchers.processes import tags
from service.store.records import JobRecord, JobStatus, new_id
from service.store.store import Store
from trainer.resolve import resolve

HERE = Path(__file__).parent


def worker_command(run: Run, capacity: Capacity, port: int) -> list[str]:
    """Runs worker_program.py."""
    resume = ["--resume"] if run.resume else []
    program = str(HERE / "worker_program.py")
    return [sys.executable, program, str(run.job_dir), str(run.attempt), str(len(run.devices)), *resume]


def preflight_command(job_dir: Path) -> list[str]:
    """Runs preflight_program.py."""
    return [sys.executable, str(HERE / "preflight_program.py"), str(job_dir)]


class World:
    """One data folder with the service's parts on it."""

    def __init__(self, data_dir: Path, *, url: str) -> None:
        self.data_dir = data_dir
        self.url = url
        self.store = Store(self.url)
        self.store.upgrade()
        self.launcher = self.new_launcher()
        self.runners: list[JobRunner] = []

    def new_launcher(self, **changes: Any) -> LocalLauncher:
        """A launcher that knows nothing of what others started."""
        options: dict[str, Any] = {"cpu_slots": 2, "worker_command": worker_command, **changes}
        return LocalLauncher(**options)

    def new_runner(self, **changes: Any) -> JobRunner:
        """A runner that knows nothing of what others did, as after a restart of the service."""
        options: dict[str, Any] = {
            "data_dir": self.data_dir,
            "cancel_grace_s": 5.0,
            "poll_interval_s": 0.02,
            "preflight_command": preflight_command,
            **changes,
        }
        runner = JobRunner(self.store, options.pop("launcher", None) or self.new_launcher(), **options)
        self.runners.append(runner)
        return runner

    def submit(
        self, *, devices: int | str = 1, status: JobStatus = JobStatus.QUEUED, preflight: str = "good", **script: Any
    ) -> JobRecord:
        """Store a job whose worker does what `script` says."""
        id = new_id("ftjob")
        job_dir = self.data_dir / "jobs" / id
        job_dir.mkdir(parents=True)
        (job_dir / "script.json").write_text(json.dumps(script))
        (job_dir / "preflight.txt").write_text(preflight)
        partial = {"model": "ViT-B-32", "data": {"train": "/photos"}, "parallel": {"devices": devices}}
        spec = resolve(recipe="flyp", spec=partial)
        return self.store.jobs.create(
            JobRecord(
                id=id,
                status=status,
                spec=spec.model_dump(mode="json"),
                model="ViT-B-32/openai",
                job_dir=str(job_dir),
                created_at=time.time(),
                recipe="flyp",
                queue_order=time.time(),
                queued_at=time.time(),
                **columns_of(spec),
            )
        )

    def job(self, job: JobRecord) -> JobRecord:
        """The job as it is now."""
        found = self.store.jobs.get(job.id)
        assert found is not None
        return found

    def wait(self, condition: Callable[[], Any], *, runner: JobRunner | None = None, timeout_s: float = 30) -> None:
        """Turn `runner` until `condition` holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "nothing came of it"
            if runner is not None:
                runner.tick()
            time.sleep(0.01)

    def finish(self, job: JobRecord, runner: JobRunner) -> JobRecord:
        """Turn `runner` until the job has ended."""
        self.wait(lambda: self.job(job).status.is_terminal, runner=runner)
        return self.job(job)

    def processes(self, job: JobRecord) -> list[psutil.Process]:
        """Living processes of a job."""
        return [process for process, _, tag in tags() if tag.startswith(job.id)]

    def steps(self, job: JobRecord) -> list[int]:
        """Steps that have been stored, in order."""
        rows = self.store.events.since(job.id, limit=100_000)
        return [event.data["step"] for event in rows if event.type == "metrics" and event.data]

    def close(self) -> None:
        """Leave no process behind."""
        for runner in self.runners:
            runner.stop()
        ids = {job.id for job in self.store.jobs.with_status(*JobStatus)}
        for process, _, tag in tags():
            if tag.split("/")[0] in ids:
                process.send_signal(signal.SIGKILL)
        self.store.close()


@pytest.fixture
def world(tmp_path: Path, empty_url: str) -> Iterator[World]:
    """A fresh data folder."""
    world = World(tmp_path, url=empty_url)
    yield world
    world.close()
