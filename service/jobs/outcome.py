"""What follows an attempt whose processes are gone: a pure decision from what it left behind.

Only `exit.json` is believed. Without it the attempt crashed, whatever a launcher's exit code said.

1. The job was cancelled: it is cancelled, also if the attempt got to its end.
2. `succeeded`: the job has succeeded.
3. `failed`: the job has failed; another attempt would meet the same.
4. The job is paused: the attempt ends, the job waits.
5. `interrupted`, by nobody here: another attempt goes on from the checkpoint, unless that has led nowhere for long.
6. Crashed: likewise, unless too many attempts in a row crashed without getting any further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.launchers.base import LostReason
from service.store.records import AttemptEnd, AttemptRecord, EndReason, JobRecord, JobStatus
from trainer.job_dir import ExitRecord, JobDir

_LOST: dict[LostReason, str] = {
    "node_lost": "a machine that it ran on is gone",
    "engine_lost": "the engine does not know it any more",
}
MAX_WITHOUT_PROGRESS = 10
"""Attempts in a row that somebody else may stop before they get any further. More forgiving than for crashes, as it
is not the job's fault, but a machine that stops everything must not start it for ever."""


@dataclass(frozen=True)
class Finish:
    """The attempt ends, and the job moves to `to`, or stays where it is if that is None."""

    end: AttemptEnd
    to: JobStatus | None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True)
class Retry:
    """The attempt ends, and another one goes on from the latest checkpoint."""

    end: AttemptEnd
    requeue: bool = False
    """The job waits for devices again, perhaps other ones or fewer; otherwise it keeps those that it has."""
    not_before: float = 0.0
    """Unix time before which it does not go on; only with `requeue`."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """What is different for attempts from here on."""


def decide(
    job: JobRecord,
    attempts: Sequence[AttemptRecord],
    *,
    exit_record: ExitRecord | None,
    made_progress: bool,
    max_crashes_without_progress: int,
    last_words: str = "",
    lost: LostReason | None = None,
) -> Finish | Retry:
    """Decide what follows the last of `attempts`.

    Args:
        last_words: the end of its log, for the message.
        lost: why the engine can tell no more of it.
    """
    attempt = attempts[-1]
    if job.cancel_requested:
        return Finish(_end(EndReason.CANCELLED, "Job cancelled", made_progress), JobStatus.CANCELLED)
    if exit_record is not None and exit_record.status == "succeeded":
        return Finish(_end(EndReason.COMPLETED, "Job succeeded", made_progress), JobStatus.SUCCEEDED)
    if exit_record is not None and exit_record.status == "failed":
        return _failed(_reason(exit_record), exit_record.message, made_progress)
    if job.status is JobStatus.PAUSED:
        return Finish(_end(EndReason.PAUSED, "Job paused", made_progress), None)
    if exit_record is not None:
        if not made_progress and 1 + _without_progress(attempts[:-1]) >= MAX_WITHOUT_PROGRESS:
            message = f"{MAX_WITHOUT_PROGRESS} attempts in a row were stopped before they got any further. {last_words}"
            return _failed(EndReason.INTERRUPTED, message.strip(), made_progress)
        message = f"Attempt {attempt.number} was interrupted at step {exit_record.step}"
        return Retry(_end(EndReason.INTERRUPTED, message, made_progress))
    if lost is not None:
        message = f"Attempt {attempt.number} was lost: {_LOST[lost]}"
        end = AttemptEnd(reason=EndReason(lost), message=message, made_progress=made_progress, level="warn")
        return Retry(end, requeue=True)
    crashes = 0 if made_progress else 1 + crashes_without_progress(attempts[:-1])
    if crashes >= max_crashes_without_progress:
        message = f"The training processes died {crashes} times in a row without getting any further. {last_words}"
        return _failed(EndReason.CRASHED, message.strip(), made_progress)
    message = f"Attempt {attempt.number} crashed after step {max(attempt.start_step, attempt.last_step)}"
    return Retry(AttemptEnd(reason=EndReason.CRASHED, message=message, made_progress=made_progress, level="warn"))


def crashes_without_progress(attempts: Sequence[AttemptRecord]) -> int:
    """How many attempts at the end of the list crashed without progress. Interrupted ones neither count nor break
    the row: whoever stopped them, it was not the job."""
    crashes = 0
    for attempt in reversed(attempts):
        if attempt.end_reason is EndReason.CRASHED and not attempt.made_progress:
            crashes += 1
        elif attempt.made_progress or attempt.end_reason is not EndReason.INTERRUPTED:
            break
    return crashes


def _without_progress(attempts: Sequence[AttemptRecord]) -> int:
    """How many attempts at the end of the list made no progress, whatever ended them."""
    return next((i for i, attempt in enumerate(reversed(attempts)) if attempt.made_progress), len(attempts))


def got_further(attempts: Sequence[AttemptRecord], job_dir: JobDir) -> bool:
    """Whether the last of `attempts` published a checkpoint beyond its start, or logged more steps than any before."""
    attempt = attempts[-1]
    published = [name.step for name in job_dir.published_checkpoints() if name.attempt == attempt.number]
    logged_before = max((earlier.last_step for earlier in attempts[:-1]), default=0)
    return max(published, default=0) > attempt.start_step or attempt.last_step > logged_before


def _failed(reason: EndReason, message: str, made_progress: bool) -> Finish:
    end = AttemptEnd(reason=reason, message=f"Job failed: {message}", made_progress=made_progress, level="error")
    return Finish(end, JobStatus.FAILED, error_code=reason.value, error_message=message)


def _end(reason: EndReason, message: str, made_progress: bool) -> AttemptEnd:
    return AttemptEnd(reason=reason, message=message, made_progress=made_progress)


def _reason(exit_record: ExitRecord) -> EndReason:
    """The worker's own reason, if this version knows it."""
    known = {reason.value: reason for reason in EndReason}
    return known.get(exit_record.reason, EndReason.ERROR)
