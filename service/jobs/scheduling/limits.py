"""When an attempt must stop although nobody asked for it: its deadline, its longest runtime, or no sign of life."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from service.store.records import AttemptRecord, EndReason, JobRecord

PATIENT_STAGES = frozenset({None, "loading", "evaluating", "exporting"})
"""Stages in which a worker tells little for long; None is before it has told anything."""


@dataclass(frozen=True)
class Patience:
    """How long an attempt may tell nothing before it counts as stalled, in seconds; None: for ever."""

    training_s: float | None = 1800.0
    """While it trains. A job's own `scheduling.stall_timeout_s` goes before it."""
    other_stages_s: float | None = 7200.0
    """While it starts, loads, evaluates or exports."""

    def of(self, job: JobRecord, stage: str | None) -> float | None:
        """Seconds for one job and stage."""
        own = job.spec.get("scheduling", {}).get("stall_timeout_s")
        if stage not in PATIENT_STAGES:
            return self.training_s if own is None else float(own)
        if own is None or self.other_stages_s is None:
            return self.other_stages_s
        return max(float(own), self.other_stages_s)


def reason_to_stop(
    job: JobRecord, attempt: AttemptRecord, *, patience: Patience, now: float | None = None
) -> EndReason | None:
    """Why an attempt must stop now, or None."""
    now = time.time() if now is None else now
    if job.deadline_at is not None and now > job.deadline_at:
        return EndReason.DEADLINE_EXCEEDED
    if job.max_runtime_s is not None and job.runtime_s + now - attempt.created_at > job.max_runtime_s:
        return EndReason.MAX_RUNTIME_EXCEEDED
    allowed_s = patience.of(job, attempt.stage)
    if allowed_s is not None and now > (attempt.last_sign_at or attempt.created_at) + allowed_s:
        return EndReason.STALLED
    return None


def describe_limit(job: JobRecord, reason: EndReason) -> str:
    """What a person reads of a job that came to one of its limits."""
    if reason is EndReason.DEADLINE_EXCEEDED:
        assert job.deadline_at is not None
        when = datetime.fromtimestamp(job.deadline_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"its deadline, {when}, has passed"
    if reason is EndReason.MAX_RUNTIME_EXCEEDED:
        return f"it ran for longer than the {job.max_runtime_s:g} s that it may run"
    return "it gave no sign of life for too long"
