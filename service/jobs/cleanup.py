"""Ends processes: those that nothing needs any more, and, where the service is told to, all of them."""

from __future__ import annotations

import signal
import time

from service.jobs.preflight import Preflights
from service.jobs.supervisor import run_of
from service.launchers.base import Launcher, Run
from service.store.records import AttemptStatus, JobStatus
from service.store.store import Store


def end_strays(store: Store, launcher: Launcher, preflights: Preflights) -> None:
    """Kill processes of attempts and preflights that have ended by the database. Those of jobs that the database
    does not know belong to another service and are left alone."""
    for name in launcher.list():
        job_id, _, number = name.rpartition("/")
        job = store.jobs.get(job_id)
        if job is None:
            continue
        if not number.isdigit():
            if job.status is not JobStatus.VALIDATING_FILES:
                preflights.kill(job)
            continue
        for attempt in store.attempts.list(job_id):
            if attempt.number == int(number) and attempt.status is AttemptStatus.ENDED:
                launcher.signal(run_of(job, attempt), signal.SIGKILL)


def end_everything(store: Store, launcher: Launcher, preflights: Preflights, *, grace_s: float) -> None:
    """Ask the processes of all jobs to stop, kill them after `grace_s`, and return when they are gone."""
    validating = store.jobs.with_status(JobStatus.VALIDATING_FILES)
    for job in validating:
        preflights.kill(job)
    for run in _living_runs(store, launcher):
        launcher.signal(run, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (runs := _living_runs(store, launcher)) or any(preflights.alive(job) for job in validating):
        if time.monotonic() > deadline:
            for run in runs:
                launcher.signal(run, signal.SIGKILL)
        time.sleep(0.05)


def _living_runs(store: Store, launcher: Launcher) -> list[Run]:
    runs = []
    for attempt in store.attempts.open():
        job = store.jobs.get(attempt.job_id)
        assert job is not None
        runs.append(run_of(job, attempt))
    return [run for run in runs if launcher.poll(run).alive]
