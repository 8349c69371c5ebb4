from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.jobs.outcome import MAX_WITHOUT_PROGRESS, Finish, Retry, crashes_without_progress, decide, got_further
from service.store.records import AttemptRecord, AttemptStatus, EndReason, JobRecord, JobStatus
from trainer.job_dir import ExitRecord, JobDir


def job(**fields: Any) -> JobRecord:
    return JobRecord(
        **{"id": "j", "spec": {}, "model": "m", "job_dir": "/j", "created_at": 1.0, "status": "running"} | fields
    )


def attempt(number: int = 1, **fields: Any) -> AttemptRecord:
    base = {"job_id": "j", "number": number, "status": AttemptStatus.RUNNING, "devices": [0], "resume": False}
    return AttemptRecord(**{**base, "created_at": 1.0, **fields})


def ended(status: str, reason: str = "completed") -> ExitRecord:
    return ExitRecord(status=status, reason=reason, message=f"said {reason}", step=7, time=1.0)  # type: ignore[arg-type]


def decided(
    record: ExitRecord | None,
    *,
    of: JobRecord | None = None,
    earlier: tuple[AttemptRecord, ...] = (),
    progress: bool = False,
) -> Finish | Retry:
    return decide(
        of or job(),
        [*earlier, attempt(len(earlier) + 1, last_step=5)],
        exit_record=record,
        made_progress=progress,
        max_crashes_without_progress=2,
        last_words="segfault",
    )


CRASH = attempt(end_reason=EndReason.CRASHED)
CRASH_FURTHER_ON = attempt(end_reason=EndReason.CRASHED, made_progress=True)
INTERRUPTION = attempt(end_reason=EndReason.INTERRUPTED)


@pytest.mark.parametrize("record", [None, ended("succeeded"), ended("failed", "error"), ended("interrupted", "signal")])
def test_a_cancelled_job_is_cancelled_whatever_came_of_it(record: ExitRecord | None) -> None:
    decision = decided(record, of=job(cancel_requested=True))
    assert isinstance(decision, Finish)
    assert (decision.to, decision.end.reason, decision.error_code) == (JobStatus.CANCELLED, EndReason.CANCELLED, None)


@pytest.mark.parametrize(
    ("said", "reason"), [("out_of_memory", EndReason.OUT_OF_MEMORY), ("a new one", EndReason.ERROR)]
)
def test_a_failure_keeps_the_workers_reason_if_it_is_known(said: str, reason: EndReason) -> None:
    decision = decided(ended("failed", said))
    assert isinstance(decision, Finish)
    assert (decision.to, decision.end.reason, decision.error_message) == (JobStatus.FAILED, reason, f"said {said}")


def test_a_paused_job_waits_but_a_late_pause_changes_no_end() -> None:
    paused = job(status=JobStatus.PAUSED)
    for record in (None, ended("interrupted", "signal")):
        waiting = decided(record, of=paused)
        assert isinstance(waiting, Finish)
        assert (waiting.to, waiting.end.reason) == (None, EndReason.PAUSED)
    late = decided(ended("succeeded"), of=paused)
    assert isinstance(late, Finish)
    assert late.to is JobStatus.SUCCEEDED


def test_an_interruption_is_resumed_however_many_crashes_came_before() -> None:
    decision = decided(ended("interrupted", "signal"), earlier=(CRASH, CRASH, INTERRUPTION))
    assert isinstance(decision, Retry)
    assert decision.end.reason is EndReason.INTERRUPTED


def test_interruptions_without_any_progress_end_at_some_point() -> None:
    nine = (INTERRUPTION,) * (MAX_WITHOUT_PROGRESS - 1)
    assert isinstance(decided(ended("interrupted", "signal"), earlier=nine[1:]), Retry)
    assert isinstance(decided(ended("interrupted", "signal"), earlier=nine, progress=True), Retry)
    failed = decided(ended("interrupted", "signal"), earlier=nine)
    assert isinstance(failed, Finish)
    assert (failed.to, failed.error_code) == (JobStatus.FAILED, "interrupted")


def test_crashes_end_a_job_only_in_a_row_and_without_progress() -> None:
    assert isinstance(decided(None), Retry)
    assert isinstance(decided(None, earlier=(CRASH,), progress=True), Retry)
    assert isinstance(decided(None, earlier=(CRASH, CRASH_FURTHER_ON)), Retry)
    failed = decided(None, earlier=(CRASH_FURTHER_ON, CRASH))
    assert isinstance(failed, Finish)
    assert (failed.to, failed.error_code) == (JobStatus.FAILED, "crashed")
    assert failed.error_message == "The training processes died 2 times in a row without getting any further. segfault"


def test_interruptions_do_not_hide_crashes() -> None:
    assert crashes_without_progress([CRASH, INTERRUPTION, CRASH]) == 2
    assert crashes_without_progress([CRASH, attempt(end_reason=EndReason.INTERRUPTED, made_progress=True)]) == 0
    assert crashes_without_progress([CRASH, attempt(end_reason=EndReason.PAUSED)]) == 0


def test_progress_is_a_later_checkpoint_or_a_step_never_logged_before(tmp_path: Path) -> None:
    job_dir = JobDir(tmp_path)
    first = attempt(1, last_step=9)
    assert got_further([first], job_dir)
    assert not got_further([attempt(1)], job_dir)
    assert not got_further([first, attempt(2, start_step=4, last_step=9)], job_dir)
    assert got_further([first, attempt(2, start_step=4, last_step=10)], job_dir)
    (tmp_path / "checkpoints" / "step-6-attempt-2").mkdir(parents=True)
    assert got_further([first, attempt(2, start_step=4, last_step=7)], job_dir)
    assert not got_further([first, attempt(2, start_step=6, last_step=7)], job_dir)
