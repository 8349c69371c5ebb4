"""The job runner: one background thread that moves every job on, from its arrival to its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import ParamSpec

from service.jobs import cleanup, lifecycle, scheduler
from service.jobs.preflight import PreflightCommand, Preflights, trainer_preflight
from service.jobs.runner_lock import RunnerLock
from service.jobs.supervisor import ORPHAN_GRACE_S, Supervisor
from service.launchers.base import Capacity, Launcher
from service.store.records import DevicesTaken, JobRecord, JobStatus, NewEvent, TransitionRefused
from service.store.store import Store

log = logging.getLogger(__name__)

P = ParamSpec("P")
_WAITING = (JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.PAUSED)


class JobRunner:
    """Validates, schedules and supervises jobs. An error with one job is told in its events and stops no other."""

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        *,
        data_dir: Path,
        cancel_grace_s: float = 30.0,
        orphan_grace_s: float = ORPHAN_GRACE_S,
        poll_interval_s: float = 0.5,
        max_crashes_without_progress: int = 3,
        preflight_command: PreflightCommand = trainer_preflight,
        weights_dir: Path | None = None,
    ) -> None:
        """`data_dir` holds the lock that keeps two services from running the same jobs. `Supervisor` says what
        `orphan_grace_s` is, and `Settings` the rest."""
        self._store = store
        self._launcher = launcher
        self._poll_interval_s = poll_interval_s
        self._supervisor = Supervisor(
            store,
            launcher,
            cancel_grace_s=cancel_grace_s,
            orphan_grace_s=orphan_grace_s,
            max_crashes_without_progress=max_crashes_without_progress,
        )
        self._preflights = Preflights(
            store, command=preflight_command, weights_dir=weights_dir, max_tries=max_crashes_without_progress
        )
        self._lock = RunnerLock(data_dir / "runner.lock")
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_errors: dict[str, str] = {}

    def start(self) -> None:
        """Begin to run jobs in a background thread."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._loop, name="job-runner", daemon=True)
        self._thread.start()

    def stop(self, *, kill_jobs: bool = False, grace_s: float = 5.0) -> None:
        """End the thread. Jobs run on, and a later runner picks them up again, unless `kill_jobs`: then their
        processes are asked to stop, killed after `grace_s`, and all gone when this returns."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if kill_jobs and self._lock.acquire():
            cleanup.end_everything(self._store, self._launcher, self._preflights, grace_s=grace_s)
        self._lock.release()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def capacity(self) -> Capacity:
        """The devices there are, taken or not."""
        return self._launcher.capacity()

    def wake(self) -> None:
        """Look at the jobs now rather than at the next turn; for those who have just changed one."""
        self._wake.set()

    def tick(self) -> None:
        """One turn over all jobs. Does nothing while another service runs the jobs of this data folder."""
        if not self._lock.is_held:
            if not self._lock.acquire():
                return
            cleanup.end_strays(self._store, self._launcher, self._preflights)
        self._cancel_waiting()
        self._refuse_impossible()
        self._validate()
        self._supervise()
        self._schedule()

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._guard("", self.tick)
            self._wake.wait(self._poll_interval_s)
            self._wake.clear()

    def _guard(self, job_id: str, action: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run `action`; log an error and tell of it in the job's events, once while it stays the same."""
        try:
            action(*args, **kwargs)
        except (TransitionRefused, DevicesTaken) as error:
            log.info("%s; looking again", error)  # the job changed under our hands
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if self._last_errors.get(job_id) == text:
                return
            self._last_errors[job_id] = text
            log.exception("error in the job runner%s", f" at job {job_id}" if job_id else "")
            if job_id:
                event = NewEvent(message=f"internal error, trying again: {text}", created_at=time.time(), level="error")
                self._guard("", self._store.events.append, job_id, [event])
        else:
            self._last_errors.pop(job_id, None)

    def _cancel_waiting(self) -> None:
        for job in self._store.jobs.with_status(*_WAITING):
            if job.cancel_requested:
                self._guard(job.id, self._cancel, job)

    def _cancel(self, job: JobRecord) -> None:
        if job.status is JobStatus.VALIDATING_FILES and self._preflights.alive(job):
            self._preflights.kill(job)
        elif not any(attempt.job_id == job.id for attempt in self._store.attempts.open()):
            lifecycle.move(self._store, job.id, JobStatus.CANCELLED, message="Job cancelled")

    def _validate(self) -> None:
        num_running = 0

        def step(job: JobRecord) -> None:
            nonlocal num_running
            num_running += self._preflights.step(job, num_running=num_running)

        for job in self._store.jobs.with_status(JobStatus.VALIDATING_FILES):
            if not job.cancel_requested:
                self._guard(job.id, step, job)

    def _supervise(self) -> None:
        for attempt in self._store.attempts.open():
            job = self._store.jobs.get(attempt.job_id)
            assert job is not None
            self._guard(job.id, self._supervisor.step, job, attempt)

    def _schedule(self) -> None:
        queue = [job for job in self._store.jobs.with_status(JobStatus.QUEUED) if not job.cancel_requested]
        taken = self._store.attempts.leased_devices()
        for grant in scheduler.plan(queue, capacity=self.capacity(), taken=taken):
            self._guard(grant.job.id, self._begin, grant)

    def _refuse_impossible(self) -> None:
        for job in self._store.jobs.with_status(JobStatus.VALIDATING_FILES, JobStatus.QUEUED):
            if not job.cancel_requested:
                self._guard(job.id, self._refuse_if_impossible, job)

    def _refuse_if_impossible(self, job: JobRecord) -> None:
        refusal = scheduler.refuse(job, self.capacity())
        if refusal is None:
            return
        if job.status is JobStatus.VALIDATING_FILES:
            self._preflights.kill(job)  # it may have begun when this machine had more devices
        lifecycle.fail(self._store, job.id, code=refusal.code, message=refusal.message, param=refusal.param)

    def _begin(self, grant: scheduler.Grant) -> None:
        resume = grant.job.num_attempts > 0
        attempt = self._store.attempts.begin(
            grant.job.id,
            placement=[asdict(share) for share in grant.placement],
            resume=resume,
            expected=lifecycle.sources(JobStatus.RUNNING),
            message="Job goes on from its latest checkpoint" if resume else "Job started",
        )
        job = self._store.jobs.get(grant.job.id)
        assert job is not None
        self._supervisor.step(job, attempt)
