"""Takes sweeps on, from their first trial to their end: a turn follows all trials and submits what comes next.

Everything that is decided is stored before it is done: a trial with its settings first, then its job, whose id follows
from the trial's. Whoever takes over after a crash goes on from the rows. What evaluations have shown is read from the
jobs' events again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from service.jobs.chores import Chore
from service.schemas.sweeps import SweepCreate
from service.store.records import (
    JobRecord,
    JobStatus,
    NewEvent,
    QuotaExceeded,
    SweepRecord,
    SweepTrialRecord,
    TransitionRefused,
)
from service.store.store import Store
from service.store.sweeps import OPEN_TRIAL
from service.sweeps.curves import Curves
from service.sweeps.space import num_trials
from service.sweeps.stopping import why_stop
from service.sweeps.submitting import Submitter, job_id_of
from service.sweeps.suggesting import Tried, next_point
from trainer.resolve import SpecError

log = logging.getLogger(__name__)

SWEEPS = "sweeps"
"""The lease of whoever takes sweeps on."""
HOPELESS = 3
"""Trials that fail before any has succeeded, after which the sweep fails: the next ones would as well."""


class SweepStepper:
    """Takes the sweeps of a database on; one replica at a time (`chore`)."""

    def __init__(
        self,
        store: Store,
        submitter: Submitter,
        *,
        owner: str,
        wake_runner: Callable[[], None] = lambda: None,
        interval_s: float = 1.0,
    ) -> None:
        """`wake_runner` is called when there are jobs to be looked at."""
        self._store = store
        self._submitter = submitter
        self._wake_runner = wake_runner
        self._curves: dict[str, Curves] = {}
        self._errors: dict[str, str] = {}
        self.chore = Chore(
            store, name=SWEEPS, owner=owner, interval_s=interval_s, turn=self.turn, needed=store.sweeps.any_active
        )

    def turn(self) -> None:
        """Take every sweep a step on. An error with one stops none of the others."""
        active = self._store.sweeps.active()
        self._curves = {sweep.id: self._curves[sweep.id] for sweep in active if sweep.id in self._curves}
        for sweep in active:
            if not self._is_ours():
                return
            try:
                self._step(sweep)
                self._errors.pop(sweep.id, None)
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                if self._errors.get(sweep.id) != text:
                    log.exception("error in sweep %s; trying again", sweep.id)
                self._errors[sweep.id] = text

    def _is_ours(self) -> bool:
        """Whether no other replica has taken over during this turn, which may last longer than the lease."""
        return self.chore.hold()

    def _step(self, sweep: SweepRecord) -> None:
        request = SweepCreate.model_validate(sweep.request)
        curves = self._curves.setdefault(sweep.id, Curves(self._store, request.metric))
        for trial in self._trials(sweep, *OPEN_TRIAL):
            self._follow(sweep, request, trial, curves)
        if sweep.status != "running":
            return
        if request.median_stopping is not None:
            self._stop_the_worse(sweep, request, curves)
        self._begin_more(sweep, request)
        self._end_if_done(sweep, request)

    def _trials(self, sweep: SweepRecord, *statuses: str) -> Sequence[SweepTrialRecord]:
        trials = self._store.sweeps.trials(sweep.id)
        return [trial for trial in trials if not statuses or trial.status in statuses]

    def _follow(self, sweep: SweepRecord, request: SweepCreate, trial: SweepTrialRecord, curves: Curves) -> None:
        if trial.job_id is None:
            if sweep.status == "running":
                self._submit(sweep, request, trial)
            elif self._store.jobs.get(job_id_of(trial)) is None:
                self._note(trial, "stopped", note=f"the sweep was {sweep.status} before it began")
            else:  # submitted by a service that died before it could note it; followed at the next turn
                self._store.sweeps.update_trial(trial, status="running", job_id=job_id_of(trial))
            return
        job = self._store.jobs.get(trial.job_id)
        assert job is not None
        if sweep.status != "running" and not job.visible_status.is_terminal:
            self._cancel(job, f"its sweep {sweep.id} was {sweep.status}")
        elif job.visible_status is JobStatus.SUCCEEDED:
            self._succeed(trial, job, request, curves)
        elif job.visible_status is JobStatus.FAILED:
            self._note(trial, "failed", note=job.error_message)
        elif job.visible_status is JobStatus.CANCELLED:
            self._stopped(trial, request, curves, note="its job was cancelled")

    def _submit(self, sweep: SweepRecord, request: SweepCreate, trial: SweepTrialRecord) -> None:
        if not self._is_ours():
            return
        try:
            job = self._submitter.submit(sweep, request, trial)
        except SpecError as error:
            self._note(trial, "failed", note=str(error))
        except QuotaExceeded as error:
            log.info("sweep %s waits: %s", sweep.id, error)
        else:
            if not self._store.sweeps.update_trial(trial, status="running", job_id=job.id):
                self._give_up(sweep, trial, job)
            self._wake_runner()

    def _give_up(self, sweep: SweepRecord, trial: SweepTrialRecord, job: JobRecord) -> None:
        """Cancel the job of a trial that another replica has ended meanwhile, or else nobody would."""
        now = next((known for known in self._trials(sweep) if known.number == trial.number), None)
        if now is not None and now.job_id != job.id and not job.visible_status.is_terminal:
            self._cancel(job, f"its trial {trial.number} of sweep {sweep.id} had ended before it began")

    def _succeed(self, trial: SweepTrialRecord, job: JobRecord, request: SweepCreate, curves: Curves) -> None:
        model = None if job.fine_tuned_model is None else self._store.models.get(job.fine_tuned_model)
        value, step = (None if model is None else model.metrics.get(request.metric)), None
        if value is None and (best := curves.of(job.id).best(request.metric)) is not None:
            value, step = best.value, best.step
        if value is None:
            measured = ", ".join(sorted(model.metrics)) if model is not None and model.metrics else "nothing"
            self._note(trial, "failed", note=f"its job succeeded but measured no {request.metric}; it has {measured}")
        else:
            self._store.sweeps.update_trial(trial, status="succeeded", value=value, detail={"step": step})

    def _stopped(self, trial: SweepTrialRecord, request: SweepCreate, curves: Curves, *, note: str) -> None:
        assert trial.job_id is not None
        best = curves.of(trial.job_id).best(request.metric)
        value, step = (None, None) if best is None else (best.value, best.step)
        self._store.sweeps.update_trial(trial, status="stopped", value=value, detail={"note": note, "step": step})

    def _note(self, trial: SweepTrialRecord, status: str, *, note: str | None) -> None:
        self._store.sweeps.update_trial(trial, status=status, detail={"note": note})

    def _stop_the_worse(self, sweep: SweepRecord, request: SweepCreate, curves: Curves) -> None:
        rule = request.median_stopping
        assert rule is not None
        seen = {t.number: curves.of(t.job_id) for t in self._trials(sweep) if t.job_id is not None}
        for trial in self._trials(sweep, "running"):
            others = [curve for number, curve in seen.items() if number != trial.number]
            why = why_stop(seen[trial.number], others, metric=request.metric, rule=rule)
            job = None if why is None or trial.job_id is None else self._store.jobs.get(trial.job_id)
            if why is not None and job is not None and not job.visible_status.is_terminal and self._cancel(job, why):
                self._stopped(trial, request, curves, note=why)

    def _cancel(self, job: JobRecord, why: str) -> bool:
        """Have a job cancelled, and tell why in its events. False if it has just ended."""
        try:
            self._store.jobs.request_cancel(job.id)
        except TransitionRefused:
            return False
        self._store.events.append(job.id, [NewEvent(message=why[:1].upper() + why[1:], created_at=time.time())])
        self._wake_runner()
        return True

    def _begin_more(self, sweep: SweepRecord, request: SweepCreate) -> None:
        trials = self._trials(sweep)
        num_open = sum(trial.status in OPEN_TRIAL for trial in trials)
        if _is_hopeless(trials):
            return
        for number in range(len(trials), min(num_trials(request), len(trials) + request.max_parallel - num_open)):
            tried = [_tried(trial) for trial in self._trials(sweep)]
            point = next_point(request, number=number, tried=tried)
            trial = SweepTrialRecord(sweep_id=sweep.id, number=number, parameters=point, status="waiting")
            if not self._store.sweeps.add_trial(trial):
                return  # another replica is at it
            self._submit(sweep, request, trial)

    def _end_if_done(self, sweep: SweepRecord, request: SweepCreate) -> None:
        trials = self._trials(sweep)
        if any(trial.status in OPEN_TRIAL for trial in trials):
            return
        hopeless = _is_hopeless(trials)
        if len(trials) < num_trials(request) and not hopeless:
            return
        if any(trial.status == "succeeded" for trial in trials):
            self._store.sweeps.end(sweep.id, "succeeded")
        else:
            note = next(((t.detail or {}).get("note") for t in trials if t.detail), None)
            early = f"the first {len(trials)} trials" if hopeless else f"all {len(trials)} trials"
            message = f"{early} ended without a value; trial 0: {note}"
            self._store.sweeps.end(sweep.id, "failed", error_message=message)


def _is_hopeless(trials: Sequence[SweepTrialRecord]) -> bool:
    failed = sum(trial.status == "failed" for trial in trials)
    return failed >= HOPELESS and not any(trial.status in ("succeeded", "stopped") for trial in trials)


def _tried(trial: SweepTrialRecord) -> Tried:
    if trial.status in OPEN_TRIAL:
        return Tried(trial.parameters, "running")
    if trial.status == "succeeded":
        return Tried(trial.parameters, "value", trial.value)
    return Tried(trial.parameters, "stopped" if trial.status == "stopped" else "nothing", trial.value)
