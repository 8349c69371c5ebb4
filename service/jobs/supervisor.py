"""Takes one open attempt a step on: starts it, stores what it tells, stops it, and decides what follows it.

Nothing is kept in memory between two steps, and each step can be repeated: whatever line the service is killed
at, the next one goes on from the database, the job folder and the processes that are there.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from service.jobs import lifecycle, outcome
from service.jobs.event_rows import read_lines, to_progress
from service.jobs.log_tail import last_words
from service.jobs.memory import micro_size_of, with_kernels_word
from service.jobs.registration import NothingExported, describe_model
from service.jobs.retry_rules import RetryRule, default_rules
from service.jobs.runner_lock import exclusive
from service.jobs.scheduling import limits
from service.jobs.scheduling.limits import Patience
from service.launchers.base import (
    NO_SPACE,
    PASSING,
    Launcher,
    LaunchError,
    LostReason,
    NodeShare,
    Run,
    RunState,
    Submitted,
)
from service.launchers.gang import GangFiles
from service.store.records import (
    AttemptEnd,
    AttemptRecord,
    AttemptStatus,
    EndReason,
    JobRecord,
    JobStatus,
    LeaseLost,
    UnknownId,
)
from service.store.store import Store
from trainer import fence
from trainer.fence import Fenced
from trainer.job_dir import Attempt, AttemptDir, ExitRecord, JobDir, write_json_atomically

LINGER_S = 5.0
"""How long processes may stay after `exit.json`: nothing of worth follows it, and they hold their devices."""

UNSEEN_S = 60.0
"""How long a file may be there before this machine sees it: what NFS remembers of a folder, `acdirmax`."""

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
        patience: Patience | None = None,
        retry_rules: Sequence[RetryRule] = (),
    ) -> None:
        """`cancel_grace_s`: from asking an attempt's processes to stop to killing them, when a person wanted it or
        they seem to hang; `orphan_grace_s`: when their launcher has died, or for a last checkpoint at a limit or for a
        job of higher priority; `patience`: how long they may tell nothing;
        `retry_rules` go before the default ones."""
        self._store = store
        self._launcher = launcher
        self._cancel_grace_s = cancel_grace_s
        self._orphan_grace_s = orphan_grace_s
        self._rules = (*retry_rules, *default_rules(max_crashes=max_crashes_without_progress))
        self._patience = patience or Patience()

    def step(self, job: JobRecord, attempt: AttemptRecord) -> None:
        """Take one open attempt of `job` a step on."""
        state = self._launcher.poll(run_of(job, attempt))
        if attempt.status is AttemptStatus.STARTING:
            if state.was_started:
                attempt = self._adopt(job, attempt, Submitted(state.leader, attempt.engine_ref))
            elif not (_stop_wanted(job, attempt) or _has_run(_paths(job, attempt))):
                self._launch(job, attempt)
                return
            elif not self._keep_from_starting(job, attempt):
                return
        # Whether it lives was asked before its events are read: what the dead have written is all there is.
        self._store_events(job, attempt)
        if state.alive and state.lost is None:
            self._stop_if_due(job, self._hold_to_limits(job, attempt), state)
        else:
            self._conclude(job, attempt, lost=state.lost)

    def _launch(self, job: JobRecord, attempt: AttemptRecord) -> None:
        """Start the attempt's processes, unless another replica is just about to."""
        paths = _paths(job, attempt)
        decided = Attempt(
            number=attempt.number,
            resume=attempt.resume,
            created_at=attempt.created_at,
            devices=attempt.devices,
            overrides=attempt.overrides,
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
        except LaunchError as error:
            self._follow(job, attempt, _refused(EndReason.LAUNCH_FAILED, str(error)))
        except Fenced:
            return  # another replica has just ended the attempt
        except OSError as error:
            if error.errno in PASSING and error.errno not in NO_SPACE:
                raise  # it may be over at the next turn
            reason = EndReason.DISK_FULL if error.errno in NO_SPACE else EndReason.LAUNCH_FAILED
            self._follow(job, attempt, _refused(reason, f"cannot write to {paths.path}: {error.strerror}"))
        else:
            self._adopt_or_end(job, attempt, submitted)

    def _keep_from_starting(self, job: JobRecord, attempt: AttemptRecord) -> bool:
        """Whether an attempt that was never started cannot be any more, by nobody; False while somebody just does."""
        paths = _paths(job, attempt)
        with exclusive(paths.path / "launch.lock") as alone:
            if not alone or self._launcher.poll(run_of(job, attempt)).was_started:
                return False
            if paths.path.is_dir():
                fence.take_away(paths.path, reason="ended before it began")
            return True

    def _adopt_or_end(self, job: JobRecord, attempt: AttemptRecord, submitted: Submitted) -> None:
        """Adopt what was just started; if the attempt was ended meanwhile, end it, as nobody would look after it."""
        try:
            self._adopt(job, attempt, submitted)
        except (LeaseLost, UnknownId):
            of_job = self._store.attempts.list(job.id)
            if any(known.number == attempt.number and known.status is AttemptStatus.ENDED for known in of_job):
                self._launcher.signal(run_of(job, attempt), signal.SIGKILL)
            raise

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

    def _hold_to_limits(self, job: JobRecord, attempt: AttemptRecord) -> AttemptRecord:
        """The attempt, which is to stop if it has come to one of its limits."""
        if attempt.stop_requested_at is not None or _stop_wanted(job, attempt):
            return attempt
        if limits.reason_to_stop(job, attempt, patience=self._patience) is None:
            return attempt
        attempt = self._store.attempts.latest(job.id) or attempt  # what it has just told is only in the database
        reason = limits.reason_to_stop(job, attempt, patience=self._patience)
        if reason is None:
            return attempt
        message = f"Attempt {attempt.number} is stopped: {limits.describe_limit(job, reason)}"
        self._store.attempts.ask_to_stop(job.id, attempt.number, reason, message=message)
        return replace(attempt, stop_reason=reason)

    def _stop_if_due(self, job: JobRecord, attempt: AttemptRecord, state: RunState) -> None:
        """Ask the processes to stop if they should, and kill them when they had their time.

        Ranks without their launcher are stopped too, and so is what lingers after `exit.json`.
        """
        run = run_of(job, attempt)
        now = time.time()
        stop_wanted = _stop_wanted(job, attempt)
        saves = attempt.stop_reason not in (None, EndReason.STALLED) and not _person_wants_stop(job)
        grace_s = self._cancel_grace_s if stop_wanted and not saves else self._orphan_grace_s
        if attempt.stop_requested_at is None:
            if stop_wanted or not state.leader_alive:
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
        remains = outcome.Remains(
            exit_record=_read_exit(paths),
            made_progress=outcome.got_further(attempts, JobDir(Path(job.job_dir))),
            said=with_kernels_word(last_words(paths.log), launch_record=paths.path / "launch.json"),
            lost=lost,
            stop_reason=attempts[-1].stop_reason,
            micro_size=micro_size_of(paths.events),
        )
        if remains.exit_record is None and lost is None and _may_still_be_seen(paths, attempt):
            return
        self._follow(job, attempt, remains)

    def _follow(self, job: JobRecord, attempt: AttemptRecord, remains: outcome.Remains) -> None:
        """Do what an attempt that is over is followed by."""
        decision = outcome.decide(job, self._store.attempts.list(job.id), remains, rules=self._rules)
        if isinstance(decision, outcome.Finish):
            self._finish(job, attempt, decision)
        elif decision.requeue:
            self._store.attempts.requeue(
                job.id,
                attempt.number,
                decision.end,
                expected=[JobStatus.RUNNING],  # one that its owner has paused meanwhile stays paused
                not_before=decision.not_before,
                message=decision.message,
                overrides=decision.overrides,
                retries=decision.retries,
                lease=job.lease_token,
            )
        else:
            self._store.attempts.retry(
                job.id,
                attempt.number,
                decision.end,
                message=decision.message,
                overrides=decision.overrides,
                retries=decision.retries,
                lease=job.lease_token,
            )

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


def _stop_wanted(job: JobRecord, attempt: AttemptRecord) -> bool:
    return _person_wants_stop(job) or attempt.stop_reason is not None


def _refused(reason: EndReason, message: str) -> outcome.Remains:
    """What is left of an attempt that could not be started."""
    now = time.time()
    return outcome.Remains(
        exit_record=ExitRecord(status="failed", reason=reason.value, message=message, step=0, time=now)
    )


def _person_wants_stop(job: JobRecord) -> bool:
    return job.cancel_requested or job.status is JobStatus.PAUSED


def _has_run(paths: AttemptDir) -> bool:
    """Whether a worker of this attempt ever wrote anything, so that it must not be started a second time."""
    return paths.events.exists() or paths.start.exists() or paths.exit.exists()


def _may_still_be_seen(paths: AttemptDir, attempt: AttemptRecord) -> bool:
    """Whether all machines say that their part ended well, just now, so that `exit.json` must be there: a shared file
    system may show what one machine has written to another only after a while."""
    ends = GangFiles(paths, num_nodes=len(attempt.placement)).ends().values()
    if len(ends) < max(1, len(attempt.placement)) or any((end.cause, end.code) != ("exit", 0) for end in ends):
        return False
    return time.time() < max(end.time for end in ends) + UNSEEN_S


def _read_exit(paths: AttemptDir) -> ExitRecord | None:
    try:
        return paths.read_exit()
    except ValidationError as error:
        message = f"{paths.exit} cannot be read: {error.errors()[0]['msg']}"
        return ExitRecord(status="failed", reason="error", message=message, step=0, time=time.time())
