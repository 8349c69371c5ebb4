from __future__ import annotations

from typing import Any

import pytest

from service.jobs.scheduling.limits import Patience, describe_limit, reason_to_stop
from service.store.records import AttemptRecord, AttemptStatus, EndReason, JobRecord

PATIENCE = Patience(training_s=60, other_stages_s=600)


def stopped(now: float, *, stage: str | None = "training", sign: float | None = 100.0, **job: Any) -> EndReason | None:
    stall = job.pop("stall_timeout_s", None)
    given = {
        "spec": {"scheduling": {"stall_timeout_s": stall}},
        "model": "m",
        "job_dir": "/j",
        "created_at": 0.0,
        **job,
    }
    attempt = AttemptRecord(
        job_id="j",
        number=1,
        status=AttemptStatus.RUNNING,
        devices=[0],
        resume=False,
        created_at=100.0,
        stage=stage,
        last_sign_at=sign,
    )
    return reason_to_stop(JobRecord(id="j", **given), attempt, patience=PATIENCE, now=now)


def test_silence_is_judged_by_the_stage() -> None:
    assert (stopped(160), stopped(161)) == (None, EndReason.STALLED)
    for stage in (None, "loading", "evaluating", "exporting"):
        assert (stopped(700, stage=stage), stopped(701, stage=stage)) == (None, EndReason.STALLED)
    assert stopped(701, stage=None, sign=None) is EndReason.STALLED


def test_a_jobs_own_patience_goes_first_and_never_shortens_the_other_stages() -> None:
    assert (stopped(105, stall_timeout_s=5), stopped(106, stall_timeout_s=5)) == (None, EndReason.STALLED)
    assert stopped(700, stall_timeout_s=5, stage="loading") is None
    assert stopped(1000, stall_timeout_s=1000, stage="loading") is None


def test_the_runtime_counts_all_attempts() -> None:
    assert stopped(110, max_runtime_s=50, runtime_s=40) is None
    assert stopped(111, max_runtime_s=50, runtime_s=40) is EndReason.MAX_RUNTIME_EXCEEDED


def test_a_deadline_is_a_point_in_time() -> None:
    assert (stopped(120, deadline_at=120), stopped(121, deadline_at=120)) == (None, EndReason.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(
    ("reason", "words"),
    [(EndReason.DEADLINE_EXCEEDED, "1970-01-01 00:01:40 UTC"), (EndReason.MAX_RUNTIME_EXCEEDED, "30 s")],
)
def test_the_message_names_the_limit(reason: EndReason, words: str) -> None:
    job = JobRecord(id="j", spec={}, model="m", job_dir="/j", created_at=0, deadline_at=100.0, max_runtime_s=30.0)
    assert words in describe_limit(job, reason)
