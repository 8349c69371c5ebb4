"""Takes one open attempt a step on: starts it, stores what it tells, stops it, and decides what follows it.

Nothing is kept in memory between two steps, and each step can be repeated: whatever line the service is killed
at, the next one goes on from the database, the job folder and the processes that are there.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from pydantic import ValidationError

from service.jobs import lifecycle, outcome
from service.jobs.event_rows import read_lines, to_progress
from service.jobs.log_tail import last_line
from service.jobs.registration import NothingExported, describe_model
from service.jobs.runner_lock import exclusive
from service.launchers.base import Launcher, LaunchError, LostReason, NodeShare, Run, RunState, Submitted
from service.store.records import AttemptEnd, AttemptRecord, AttemptStatus, EndReason, JobRecord, JobStatus
from service.store.store import Store
from trainer.job_dir import Attempt, AttemptDir, ExitRecord, JobDir, write_json_atomically

LINGER_S = 5.0
"""How long processes may stay after `exit.json`: nothing of worth follows it, and they hold their devices."""

ORPHAN_GRACE_S = 130.0
"""How long ranks may live on without their launcher when nobody asked for a stop: they save a last checkpoint, for
which they give themselves 120 s, and end by themselves. Killing them earlier would lose it."""


class Supervisor:
    """Supervises attempts on one engine."""

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        *,
        cancel_grace_s: float,
        max_crashes_without_progress: int,
        orphan_grace_s: float = ORPHAN_GRACE_S,
    ) -> None:
        """`cancel_grace_s`: from asking an attempt's processes to stop to killing them, when a person wanted it;
        `orphan_grace_s`: when their launcher has died."""
        self._store = store
        self._launcher = launcher
        self._cancel_grace_s = cancel_grace_s
        self._orphan_grace_s = orphan_grace_s
        self._max_crashes = max_crashes_without_progress

    def step(self, job: JobRecord, attempt: AttemptRecord) -> None:
        """Take one open attempt of `job` a step on."""
        state = self._launcher.poll(run_of(job, attempt))
        if attempt.status is AttemptStatus.STARTING:
            if state.was_started:
                attempt = self._adopt(job, attempt, Submitted(state.leader, attempt.engine_ref))
            elif not (_stop_wanted(job) or _has_run(_paths(job, attempt))):
                self._launch(job, attempt)
                return
        # Whether it lives was asked before its events are read: what the dead have written is all there is.
        self._store_events(job, attempt)
        if state.alive and state.lost is None:
            self._stop_if_due(job, attempt, state)
        else:
            self._conclude(job, attempt, lost=state.lost)

    def _launch(self, job: JobRecord, attempt: AttemptRecord) -> None:
        """Start the attempt's processes, unless another replica is just about to."""
        paths = _paths(job, attempt)
        decided = Attempt(
            number=attempt.number, resume=attempt.resume, created_at=attempt.created_at, devices=attempt.devices
        )
        run = run_of(job, attempt)
        try:
            with exclusive(paths.path / "launch.lock") as alone:
                if not alone or self._launcher.poll(run).was_started:
                    return
                # Whoever lost the lease while it slept must not start anything.
                self._store.attempts.update(job.id, attempt.number, lease=job.lease_token, resume=attempt.resume)
                write_json_atomically(paths.record, decided)
                submitted = self._launcher.submit(run)
        except (LaunchError, OSError) as error:
            end = AttemptEnd(reason=EndReason.LAUNCH_FAILED, message=f"Job failed: {error}", level="error")
            failed = outcome.Finish(end, JobStatus.FAILED, EndReason.LAUNCH_FAILED.value, str(error))
            self._finish(job, attempt, failed)
            return
        self._adopt(job, attempt, submitted)

    def _adopt(self, job: JobRecord, attempt: AttemptRecord, submitted: Submitted) -> AttemptRecord:
        return self._store.attempts.update(
            attempt.job_id,
            attempt.number,
            lease=job.lease_token,
            status=AttemptStatus.RUNNING,
            pid=submitted.leader and submitted.leader.pid,
            pid_created_at=submitted.leader and submitted.leader.created_at,
            engine_ref=None if submitted.engine_ref is None else dict(submitted.engine_ref),
        )

    def _store_events(self, job: JobRecord, attempt: AttemptRecord) -> None:
        path = _paths(job, attempt).events
        offset, total_steps = attempt.events_offset, attempt.total_steps
        while (lines := read_lines(path, offset)).offset_after > offset:
            progress = to_progress(lines, job_id=job.id, offset=offset, total_steps=total_steps, now=time.time())
            if not self._store.attempts.store_progress(job.id, attempt.number, progress):
                return
            offset, total_steps = progress.offset_after, progress.total_steps

    def _stop_if_due(self, job: JobRecord, attempt: AttemptRecord, state: RunState) -> None:
        """Ask the processes to stop if they should, and kill them when they had their time.

        Ranks without their launcher are stopped too, and so is what lingers after `exit.json`.
        """
        run = run_of(job, attempt)
        now = time.time()
        grace_s = self._cancel_grace_s if _stop_wanted(job) else self._orphan_grace_s
        if attempt.stop_requested_at is None:
            if _stop_wanted(job) or not state.leader_alive:
                # Signalled first, noted second: if the service dies in between, they are only asked again.
                self._launcher.signal(run, signal.SIGTERM)
                self._store.attempts.update(job.id, attempt.number, stop_requested_at=now)
        elif now > attempt.stop_requested_at + grace_s:
            self._launcher.signal(run, signal.SIGKILL)
        ended = _read_exit(_paths(job, attempt))
        if ended is not None and now > ended.time + min(self._cancel_grace_s, LINGER_S):
            self._launcher.signal(run, signal.SIGKILL)

    def _conclude(self, job: JobRecord, attempt: AttemptRecord, *, lost: LostReason | None) -> None:
        paths = _paths(job, attempt)
        attempts = self._store.attempts.list(job.id)
        decision = outcome.decide(
            job,
            attempts,
            exit_record=_read_exit(paths),
            made_progress=outcome.got_further(attempts, JobDir(Path(job.job_dir))),
            max_crashes_without_progress=self._max_crashes,
            last_words=last_line(paths.log),
            lost=lost,
        )
        if isinstance(decision, outcome.Finish):
            self._finish(job, attempt, decision)
        elif decision.requeue:
            self._store.attempts.requeue(
                job.id,
                attempt.number,
                decision.end,
                expected=lifecycle.sources(JobStatus.QUEUED),
                not_before=decision.not_before,
                overrides=dict(decision.overrides),
                lease=job.lease_token,
            )
        else:
            message = f"Attempt {attempt.number + 1} goes on from the latest checkpoint"
            self._store.attempts.retry(job.id, attempt.number, decision.end, message=message, lease=job.lease_token)

    def _finish(self, job: JobRecord, attempt: AttemptRecord, decision: outcome.Finish) -> None:
        model = None
        if decision.to is JobStatus.SUCCEEDED:
            try:
                model = describe_model(job, _paths(job, attempt), self._store.models)
            except NothingExported as error:
                end = AttemptEnd(reason=EndReason.ERROR, message=f"Job failed: {error}", level="error")
                decision = outcome.Finish(end, JobStatus.FAILED, EndReason.ERROR.value, str(error))
        self._store.attempts.finish(
            job.id,
            attempt.number,
            decision.end,
            to=decision.to,
            expected=() if decision.to is None else lifecycle.sources(decision.to),
            model=model,
            lease=job.lease_token,
            fine_tuned_model=None if model is None else model.id,
            error_code=decision.error_code,
            error_message=decision.error_message,
        )


def run_of(job: JobRecord, attempt: AttemptRecord) -> Run:
    """What the engine is told of an attempt."""
    return Run(
        job_id=job.id,
        attempt=attempt.number,
        job_dir=Path(job.job_dir),
        placement=tuple(NodeShare(share["node"], tuple(share["devices"])) for share in attempt.placement),
        engine_ref=attempt.engine_ref,
        resume=attempt.resume,
        worker_pids=tuple(attempt.worker_pids),
        workers_seen_at=attempt.workers_seen_at,
    )


def _paths(job: JobRecord, attempt: AttemptRecord) -> AttemptDir:
    return JobDir(Path(job.job_dir)).attempt(attempt.number)


def _stop_wanted(job: JobRecord) -> bool:
    return job.cancel_requested or job.status is JobStatus.PAUSED


def _has_run(paths: AttemptDir) -> bool:
    """Whether a worker of this attempt ever wrote anything, so that it must not be started a second time."""
    return paths.events.exists() or paths.start.exists() or paths.exit.exists()


def _read_exit(paths: AttemptDir) -> ExitRecord | None:
    try:
        return paths.read_exit()
    except ValidationError as error:
        message = f"{paths.exit} cannot be read: {error.errors()[0]['msg']}"
        return ExitRecord(status="failed", reason="error", message=message, step=0, time=time.time())
