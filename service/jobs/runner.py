"""The job runner: one background thread that moves jobs on, from their arrival to their end.

Several services on one database share the work where their engine can be reached from all of them (`Launcher.shared`):
each claims the jobs that need attention by a lease, and one at a time plans who gets devices. On one machine's own
engine a lock on the data folder lets one service run everything; another one takes over when it dies.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import ParamSpec, TypeVar

from service import logs
from service.jobs import cleanup, lifecycle
from service.jobs.preflight import PreflightCommand, Preflights, trainer_preflight
from service.jobs.preflight_watch import PreflightLimits
from service.jobs.retry_rules import RetryRule
from service.jobs.runner_lock import RunnerLock
from service.jobs.scheduling.limits import Patience, describe_limit
from service.jobs.scheduling.scheduler import Scheduler
from service.jobs.scheduling.state import Grant, Preemption
from service.jobs.scheduling.wanted import refuse
from service.jobs.supervisor import ORPHAN_GRACE_S, Supervisor
from service.launchers.base import Capacity, EngineUnavailable, Launcher
from service.store.records import (
    AttemptRecord,
    AttemptStatus,
    DevicesTaken,
    EndReason,
    EventLevel,
    JobRecord,
    JobStatus,
    LeaseLost,
    NewEvent,
    TransitionRefused,
    new_id,
)
from service.store.store import Store

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
PLANNER = "planner"
"""The lease of whoever gives out devices."""
_LOCAL_ENGINE = "local-engine"
_STRAYS_EVERY_S = 30.0
_GATHER_S = 0.2
_REST_FACTOR = 15.0  # between turns that requests ask for: they share a core with what answers requests
_MAX_NEW_CLAIMS = 16  # a turn, so that replicas come to share the work


class JobRunner:
    """Validates, schedules and supervises jobs. An error with one job is told in its events and stops no other."""

    STUCK_AFTER_S = 120.0
    """No turn takes this long: the store gives up before, and engines answer within seconds or not at all."""

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
        lease_s: float = 15.0,
        patience: Patience | None = None,
        retry_rules: Sequence[RetryRule] = (),
        preflight_command: PreflightCommand = trainer_preflight,
        preflight_limits: PreflightLimits | None = None,
        weights_dir: Path | None = None,
        environment: Mapping[str, str] = os.environ,
        on_attempt_end: Callable[[JobRecord, AttemptRecord], None] | None = None,
    ) -> None:
        """`data_dir` holds the lock that keeps two services from running the same jobs on one machine's engine.
        `lease_s`: how long a job stays with a service that is not heard of any more. `Supervisor` says what
        `orphan_grace_s`, `patience` and `retry_rules` are, and `Settings` the rest. `on_attempt_end` is told of each
        attempt that ends here."""
        self.replica_id = new_id("replica")
        self._store = store
        self._launcher = launcher
        self._poll_interval_s = poll_interval_s
        self._supervisor = Supervisor(
            store,
            launcher,
            cancel_grace_s=cancel_grace_s,
            orphan_grace_s=orphan_grace_s,
            max_crashes_without_progress=max_crashes_without_progress,
            patience=patience or Patience(),
            retry_rules=retry_rules,
        )
        self.scheduler = Scheduler(store, launcher)
        self._preflights = Preflights(
            store,
            command=preflight_command,
            weights_dir=weights_dir,
            environment=environment,
            max_tries=max_crashes_without_progress,
            limits=preflight_limits,
        )
        self._lock = RunnerLock(data_dir / "runner.lock")
        self._machine = f"{socket.gethostname()}:{data_dir.absolute()}"
        self._on_attempt_end = on_attempt_end
        self._lease_s = lease_s
        self._renewed_at = -math.inf
        self._turned_at = time.monotonic()
        self._claimed_at = -math.inf
        self._strays_ended_at = -math.inf
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_errors: dict[str, str] = {}

    def start(self) -> None:
        """Begin to run jobs in a background thread."""
        self._stopping.clear()
        self._turned_at = time.monotonic()
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
        self._guard("", self._give_back)
        self._lock.release()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def stands_by(self) -> bool:
        """Whether another service runs the jobs of this data folder."""
        return not self._launcher.shared and not self._lock.is_held

    def silent_s(self) -> float:
        """Seconds since the last turn was done."""
        return time.monotonic() - self._turned_at

    def capacity(self) -> Capacity:
        """The devices there are, taken or not."""
        return self._launcher.capacity()

    def wake(self) -> None:
        """Look at the jobs now rather than at the next turn; for those who have just changed one."""
        self._wake.set()

    def tick(self) -> None:
        """One turn: give devices to jobs that wait, then take each job that is ours a step on."""
        if not self._launcher.shared and not self._has_lock():
            return
        self._tell_that_we_live()
        if self._store.leases.keep(PLANNER, owner=self.replica_id, ttl_s=self._lease_s):
            self._guard("", self._schedule)
            self._guard("", self._end_strays_of_a_shared_engine)
        num_validating = 0
        for job in self._preflights.in_turn(self._claimed()):
            self._hold_on()
            num_validating += self._guard(job.id, self._step, job, num_validating=num_validating) or False

    def _loop(self) -> None:
        while not self._stopping.is_set():
            began = time.thread_time()
            self._guard("", self.tick)
            self._turned_at = time.monotonic()
            rest_s = max(_GATHER_S, _REST_FACTOR * (time.thread_time() - began))
            if self._wake.wait(self._poll_interval_s):
                self._stopping.wait(min(rest_s, self._poll_interval_s))  # one turn for all who come together
            self._wake.clear()

    def _has_lock(self) -> bool:
        """Whether no other service runs the jobs of this data folder or, from another machine, of this database; what
        a dead one left behind is cleared first."""
        was_held = self._lock.is_held
        if not (was_held or self._lock.acquire()):
            return False
        if not self._store.leases.keep(_LOCAL_ENGINE, owner=self._machine, ttl_s=self._lease_s):
            holder = self._store.leases.holder(_LOCAL_ENGINE)
            self._tell_once("", f"standing by: {holder} runs the jobs of this database on its own devices")
            self._lock.release()
            return False
        if not was_held:
            self._store.leases.seize(PLANNER, owner=self.replica_id, ttl_s=self._lease_s)
            cleanup.end_strays(self._store, self._launcher, self._preflights)
        return True

    def _tell_that_we_live(self) -> None:
        if time.monotonic() > self._renewed_at + self._lease_s / 3:
            self._store.replicas.beat(self.replica_id, host=socket.gethostname(), pid=os.getpid())
            self._renewed_at = time.monotonic()

    def _hold_on(self) -> None:
        """Renew the leases where a turn takes long, or another replica would take its last jobs away."""
        if time.monotonic() > self._claimed_at + self._lease_s / 3:
            self._store.jobs.renew(owner=self.replica_id, lease_s=self._lease_s)
            self._claimed_at = time.monotonic()

    def _end_strays_of_a_shared_engine(self) -> None:
        """A replica may have died, or lost its lease, between starting a run and noting it."""
        if self._launcher.shared and time.monotonic() > self._strays_ended_at + _STRAYS_EVERY_S:
            self._strays_ended_at = time.monotonic()
            cleanup.end_strays(self._store, self._launcher, self._preflights)

    def _claimed(self) -> Sequence[JobRecord]:
        if not self._store.jobs.any_needs_attention():
            return []
        self._claimed_at = time.monotonic()
        return self._store.jobs.claim(
            owner=self.replica_id,
            lease_s=self._lease_s,
            limit=_MAX_NEW_CLAIMS,
            max_validating=2 * self._preflights.max_running,  # so that the next one can begin in the same turn
            take_over=not self._launcher.shared,
        )

    def _give_back(self) -> None:
        self._store.jobs.release(owner=self.replica_id)
        self._store.leases.release(PLANNER, owner=self.replica_id)
        if self._lock.is_held:
            self._store.leases.release(_LOCAL_ENGINE, owner=self._machine)
        self._store.replicas.forget(self.replica_id)

    def _guard(self, job_id: str, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Run `action`; log an error and tell of it in the job's events, once while it stays the same."""
        try:
            with logs.about(job_id=job_id or None):
                result = action(*args, **kwargs)
        except (TransitionRefused, DevicesTaken, LeaseLost) as error:
            log.info("%s; looking again", error)  # the job changed under our hands
        except EngineUnavailable as error:
            self._tell_once(job_id, f"waiting for the engine: {error}")
        except Exception as error:
            text = f"internal error, trying again: {type(error).__name__}: {error}"
            if self._last_errors.get(job_id) != text:
                log.exception("error in the job runner%s", f" at job {job_id}" if job_id else "")
            self._tell_once(job_id, text, level="error")
        else:
            self._last_errors.pop(job_id, None)
            return result
        return None

    def _tell_once(self, job_id: str, text: str, *, level: EventLevel = "warn") -> None:
        """Tell of what keeps a job (or, without one, the runner) in its events, once while it stays the same."""
        if self._last_errors.get(job_id) == text:
            return
        self._last_errors[job_id] = text
        log.warning("%s%s", f"job {job_id}: " if job_id else "", text)
        if job_id:
            event = NewEvent(message=text, created_at=time.time(), level=level)
            self._guard("", self._store.events.append, job_id, [event])

    def _step(self, job: JobRecord, *, num_validating: int) -> bool:
        """Take a job a step on; whether its preflight runs, beside `num_validating` others."""
        if job.status is JobStatus.VALIDATING_FILES:  # it has never run
            return self._look_at_data(job, num_running=num_validating)
        attempt = self._store.attempts.latest(job.id)
        if attempt is not None and attempt.status is not AttemptStatus.ENDED:
            if attempt.engine != self._launcher.name:
                raise EngineUnavailable(_other_engine(attempt.engine, self._launcher.name))
            self._supervisor.step(job, attempt)
            self._tell_if_ended(job, attempt.number)
        elif job.cancel_requested:
            lifecycle.move(self._store, job.id, JobStatus.CANCELLED, message="Job cancelled")
        return False

    def _look_at_data(self, job: JobRecord, *, num_running: int) -> bool:
        """Take a job a step on whose data are to be looked at; whether its preflight runs, beside `num_running`."""
        if job.cancel_requested:
            if self._preflights.alive(job):
                self._preflights.kill(job)
            else:
                lifecycle.move(self._store, job.id, JobStatus.CANCELLED, message="Job cancelled")
            return False
        if self._preflights.would_start(job, num_running=num_running) and self._refuse_if_impossible(job.id):
            return False
        return self._preflights.step(job, num_running=num_running)

    def _tell_if_ended(self, job: JobRecord, number: int) -> None:
        if self._on_attempt_end is None:
            return
        for attempt in self._store.attempts.list(job.id):
            if attempt.number == number and attempt.status is AttemptStatus.ENDED:
                self._on_attempt_end(job, attempt)

    def _schedule(self) -> None:
        for job_id in self._store.queue.overdue(time.time()):
            self._guard(job_id, self._fail_overdue, job_id)
        plan = self.scheduler.decide()
        if plan is None:
            return
        for grant in plan.grants:
            self._guard(grant.job_id, self._begin, grant)
        for preemption in plan.preemptions:
            self._guard(preemption.job_id, self._preempt, preemption)
        for wait in plan.waits.values():
            if wait.why == "more_than_there_is":
                self._guard(wait.job_id, self._refuse_if_impossible, wait.job_id)

    def _refuse_if_impossible(self, job_id: str) -> bool:
        """End a job that these devices can never run; it may be older than they are."""
        job = self._store.jobs.get(job_id)
        if job is None:
            return False
        refusal = refuse(job, self.capacity(), max_devices=self._store.projects.max_devices(job.project_id))
        if refusal is None:
            return False
        if job.status is JobStatus.VALIDATING_FILES:
            self._preflights.kill(job)
        lifecycle.fail(self._store, job.id, code=refusal.code, message=refusal.message, param=refusal.param)
        return True

    def _fail_overdue(self, job_id: str) -> None:
        job = self._store.jobs.get(job_id)
        if job is None:
            return
        if job.status is JobStatus.VALIDATING_FILES:
            self._preflights.kill(job)
        reason = EndReason.DEADLINE_EXCEEDED
        lifecycle.fail(self._store, job_id, code=reason.value, message=describe_limit(job, reason))

    def _preempt(self, preemption: Preemption) -> None:
        message = (
            f"Stopped to make room for {preemption.for_job}, whose priority is higher; it goes on from a checkpoint"
        )
        self._store.attempts.ask_to_stop(
            preemption.job_id,
            preemption.number,
            EndReason.PREEMPTED,
            message=message,
            for_job=preemption.for_job,
        )

    def _begin(self, grant: Grant) -> None:
        if self._refuse_if_impossible(grant.job_id):
            return
        job = self._store.jobs.get(grant.job_id)
        resume = job is not None and job.num_attempts > 0
        self._store.attempts.begin(
            grant.job_id,
            placement=[asdict(share) for share in grant.placement],
            resume=resume,
            expected=lifecycle.sources(JobStatus.RUNNING),
            message="Job goes on from its latest checkpoint" if resume else "Job started",
            engine=self._launcher.name,
        )


def _other_engine(theirs: str, ours: str) -> str:
    return f"this attempt runs on {theirs!r}, this service on {ours!r}: start one with ATTUNE_ENGINE={theirs}"
