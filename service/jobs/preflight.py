"""Runs `trainer.preflight` for jobs in `validating_files` and moves them on by its report.

JOB/preflight/ gets `launch.json` (the process's identity), `tries.json` and `preflight.log` beside the report.
The process needs no device and outlives the service like an attempt does.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from service.jobs import lifecycle
from service.jobs.log_tail import last_line
from service.jobs.preflight_watch import PreflightLimits, PreflightWatch, in_turn
from service.launchers.base import LaunchError, RunState
from service.launchers.processes import ProcessGroups
from service.store.records import EventLevel, JobRecord, JobStatus
from service.store.replicas import REPLICA_GONE_S
from service.store.store import Store
from trainer.job_dir import JobDir, PreflightReport, Record, write_json_atomically

PreflightCommand = Callable[[Path], Sequence[str]]
"""Makes the argument list from the job folder."""
_NICENESS = 5  # the service itself goes first; who waits for a look at his data waits for all looks before it


class Tries(Record):
    """`tries.json`: how often a preflight was started."""

    count: int = 0
    began_at: float | None = None
    """The last of them, in Unix seconds."""


def trainer_preflight(job_dir: Path) -> list[str]:
    """The trainer's own preflight."""
    return [sys.executable, "-P", "-m", "trainer.preflight", "--job-dir", str(job_dir)]


class Preflights:
    """Starts, watches and ends preflight processes."""

    def __init__(
        self,
        store: Store,
        *,
        command: PreflightCommand = trainer_preflight,
        weights_dir: Path | None = None,
        max_tries: int = 3,
        max_running: int = 2,
        limits: PreflightLimits | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`max_tries`: starts after which a preflight that only crashes fails its job. `max_running`: at once; their
        places go to the projects in turn."""
        self._store = store
        self._command = command
        self._max_tries = max_tries
        self.max_running = max_running
        # Looking at data takes no GPU: those belong to attempts.
        self._environment = {**environment, "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
        if weights_dir is not None:
            self._environment["ATTUNE_WEIGHTS_DIR"] = str(weights_dir)
        self._groups = ProcessGroups(niceness=_NICENESS)
        self._watch = PreflightWatch(limits or PreflightLimits())

    def in_turn(self, jobs: Sequence[JobRecord]) -> list[JobRecord]:
        """The jobs in the order in which to take them a step on: those whose data are to be looked at come last, the
        projects in turn."""
        looked_at = [job for job in jobs if job.status is JobStatus.VALIDATING_FILES]
        others = [job for job in jobs if job.status is not JobStatus.VALIDATING_FILES]
        return others + in_turn(looked_at, is_under_way=lambda job: _read_tries(self._paths(job)).count > 0)

    def step(self, job: JobRecord, *, num_running: int) -> bool:
        """Take one job a step on; whether its process runs. `num_running`: preflights that run beside it."""
        report = self._paths(job).read_preflight_report()  # the last thing that a preflight does
        if report is not None:
            self._watch.forget(job.id)
            self._move_on(job, report)
            return False
        if _read_tries(self._paths(job)).count and self._lives(job):
            return not self._end_if_overdue(job)
        return num_running < self.max_running and self._start(job)

    def would_start(self, job: JobRecord, *, num_running: int) -> bool:
        """Whether `step` would start a job's first process."""
        return num_running < self.max_running and _read_tries(self._paths(job)).count == 0

    def alive(self, job: JobRecord) -> bool:
        """Whether any process of the job's preflight lives."""
        return self._look(job).alive

    def _lives(self, job: JobRecord) -> bool:
        """The same, on any machine whose replica was seen lately."""
        if self.alive(job):
            return True
        seen = self._store.replicas.hosts_within(REPLICA_GONE_S)
        return self._groups.lives_elsewhere(_record(self._paths(job)), hosts=seen)

    def _end_if_overdue(self, job: JobRecord) -> bool:
        """End a preflight that hangs, and its job: others wait for its place."""
        paths, state = self._paths(job), self._look(job)
        late = self._watch.overdue(
            job.id,
            folder=paths.preflight_report.parent,
            pid=state.leader.pid if state.leader is not None and state.leader_alive else None,
            began_at=_read_tries(paths).began_at,
        )
        if late is None:
            return False
        self.kill(job)
        self._watch.forget(job.id)
        message = f"{late} {last_line(paths.preflight_log)}".strip()
        lifecycle.fail(self._store, job.id, code="preflight_timed_out", message=message)
        return True

    def kill(self, job: JobRecord) -> None:
        """End a preflight at once: it holds nothing that is worth saving."""
        self._groups.signal(_tag(job), signal.SIGKILL)

    def _start(self, job: JobRecord) -> bool:
        paths = self._paths(job)
        tries = _read_tries(paths).count
        if tries >= self._max_tries:
            message = f"looking at the data crashed {tries} times. {last_line(paths.preflight_log)}".strip()
            lifecycle.fail(self._store, job.id, code="preflight_crashed", message=message)
            return False
        write_json_atomically(paths.spec, job.spec)
        write_json_atomically(_tries(paths), Tries(count=tries + 1, began_at=time.time()))
        try:
            self._groups.start(
                self._command(paths.path),
                tag=_tag(job),
                environment=self._environment,
                log=paths.preflight_log,
                record=_record(paths),
            )
        except LaunchError as error:
            lifecycle.fail(self._store, job.id, code="launch_failed", message=str(error))
            return False
        return True

    def _move_on(self, job: JobRecord, report: PreflightReport) -> None:
        if report.ok:
            warnings = [str(problem) for problem in report.problems]
            message = "; ".join(["Files validated, job queued", *warnings])
            level: EventLevel = "warn" if warnings else "info"
            lifecycle.move(self._store, job.id, JobStatus.QUEUED, message=message, level=level)
            return
        worst = next(problem for problem in report.problems if problem.fatal)
        lifecycle.fail(self._store, job.id, code="bad_data", message=worst.message, param=worst.field)

    def _look(self, job: JobRecord) -> RunState:
        return self._groups.look(_tag(job), record=_record(self._paths(job)))

    def _paths(self, job: JobRecord) -> JobDir:
        return JobDir(Path(job.job_dir))


def _tag(job: JobRecord) -> str:
    return f"{job.id}/preflight"


def _record(paths: JobDir) -> Path:
    return paths.preflight_report.with_name("launch.json")


def _tries(paths: JobDir) -> Path:
    return paths.preflight_report.with_name("tries.json")


def _read_tries(paths: JobDir) -> Tries:
    path = _tries(paths)
    return Tries.model_validate_json(path.read_bytes()) if path.exists() else Tries()
