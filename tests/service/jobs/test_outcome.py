from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.jobs.log_tail import LastWords
from service.jobs.outcome import Finish, Remains, Retry, decide, got_further
from service.jobs.retry_rules import RetryRule, default_rules
from service.store.records import AttemptRecord, AttemptStatus, EndReason, JobRecord, JobStatus
from trainer.job_dir import ExitRecord, JobDir
from trainer.resolve import resolve

PARTIAL = {"model": "ViT-B-32", "data": {"train": "/p"}, "batch": {"global_size": 256}}
SPEC = resolve(recipe="flyp", spec=PARTIAL).model_dump(mode="json")
RULES = default_rules(max_crashes=2)


def job(*, spec: dict[str, Any] | None = None, **fields: Any) -> JobRecord:
    base = {"id": "j", "model": "m", "job_dir": "/j", "created_at": 1.0, "status": JobStatus.RUNNING}
    return JobRecord(**{**base, "spec": spec or SPEC, **fields})


def spec_with(**sections: Any) -> dict[str, Any]:
    """FLYP, unless another objective is among them."""
    recipe = None if "objective" in sections else "flyp"
    return resolve(recipe=recipe, spec=PARTIAL | sections).model_dump(mode="json")


def attempt(number: int = 1, **fields: Any) -> AttemptRecord:
    base = {"job_id": "j", "number": number, "status": AttemptStatus.RUNNING, "devices": [0, 1], "resume": False}
    return AttemptRecord(**{**base, "created_at": 1.0, **fields})


def ended(status: str, reason: str = "completed") -> ExitRecord:
    return ExitRecord(status=status, reason=reason, message=f"said {reason}", step=7, time=1.0)  # type: ignore[arg-type]


def decided(record: ExitRecord | None = None, *, of: JobRecord | None = None, number: int = 1, **left: Any) -> Any:
    said = LastWords("at the end:\nsegfault", "segfault", None)
    remains = Remains(**{"exit_record": record, "said": said, **left})
    return decide(of or job(), [attempt(number, last_step=5)], remains, rules=RULES, now=1000.0)


@pytest.mark.parametrize("record", [None, ended("succeeded"), ended("failed", "error"), ended("interrupted", "signal")])
def test_a_cancelled_job_is_cancelled_whatever_came_of_it(record: ExitRecord | None) -> None:
    decision = decided(record, of=job(cancel_requested=True))
    assert (decision.to, decision.end.reason, decision.error_code) == (JobStatus.CANCELLED, EndReason.CANCELLED, None)


@pytest.mark.parametrize(("said", "reason"), [("bad_data", EndReason.BAD_DATA), ("a new one", EndReason.ERROR)])
def test_a_failure_keeps_the_workers_reason_if_it_is_known(said: str, reason: EndReason) -> None:
    decision = decided(ended("failed", said))
    assert isinstance(decision, Finish)
    assert (decision.to, decision.end.reason, decision.error_message) == (JobStatus.FAILED, reason, f"said {said}")


def test_a_paused_job_waits_but_a_late_pause_changes_no_end() -> None:
    paused = job(status=JobStatus.PAUSED)
    for record in (None, ended("interrupted", "signal")):
        waiting = decided(record, of=paused)
        assert (waiting.to, waiting.end.reason) == (None, EndReason.PAUSED)
    assert decided(ended("succeeded"), of=paused).to is JobStatus.SUCCEEDED
    assert decided(ended("failed", "bad_data"), of=paused).to is JobStatus.FAILED


def test_crashes_end_a_job_only_in_a_row_and_without_progress() -> None:
    first = decided()
    assert isinstance(first, Retry)
    assert (first.requeue, dict(first.retries)) == (False, {"crashed": 1})
    assert "attempt 1 crashed after step 5: segfault" in first.end.message.lower()
    assert "Attempt 2 goes on from the latest checkpoint" in first.message
    assert dict(decided(of=job(retries={"crashed": 1}), made_progress=True).retries) == {}
    failed = decided(of=job(retries={"crashed": 1}))
    assert isinstance(failed, Finish)
    assert (failed.to, failed.error_code) == (JobStatus.FAILED, "crashed")
    assert failed.error_message == "The training processes died 2 times in a row without getting any further. segfault"


def test_rules_count_each_for_itself_until_the_job_gets_further() -> None:
    crashed_once = job(retries={"crashed": 1})
    interrupted = decided(ended("interrupted", "signal"), of=crashed_once)
    assert dict(interrupted.retries) == {"crashed": 1, "interrupted": 1}
    assert decided(of=job(retries=dict(interrupted.retries))).to is JobStatus.FAILED
    further = decided(ended("interrupted", "signal"), of=crashed_once, made_progress=True)
    assert dict(further.retries) == {}


def test_interruptions_without_any_progress_end_at_some_point() -> None:
    assert isinstance(decided(ended("interrupted", "signal"), of=job(retries={"interrupted": 8})), Retry)
    failed = decided(ended("interrupted", "signal"), of=job(retries={"interrupted": 9}))
    assert (failed.to, failed.error_code) == (JobStatus.FAILED, "interrupted")


@pytest.mark.parametrize("lost", ["node_lost", "engine_lost"])
def test_a_lost_machine_sends_the_job_back_to_wait_longer_each_time(lost: str) -> None:
    waits = [decided(of=job(retries={"machine_lost": n} if n else {}), lost=lost) for n in range(3)]
    assert all(isinstance(wait, Retry) and wait.requeue for wait in waits)
    assert [wait.not_before - 1000 for wait in waits] == [1, 2, 4]
    assert waits[0].end.reason.value == lost
    assert "queued again" in waits[0].message


def test_scheduling_max_retries_limits_all_rules_together() -> None:
    limited = spec_with(scheduling={"max_retries": 2})
    once_each = {"machine_lost": 1, "interrupted": 1}
    failed = decided(of=job(spec=limited, retries=once_each))
    assert failed.to is JobStatus.FAILED
    assert "scheduling.max_retries 2" in failed.error_message
    assert isinstance(decided(of=job(spec=limited, retries={"machine_lost": 1})), Retry)
    assert isinstance(decided(of=job(spec=limited, retries={"preempted": 7})), Retry)
    assert decided(of=job(spec=spec_with(scheduling={"max_retries": 0}))).to is JobStatus.FAILED


@pytest.mark.parametrize("reason", [EndReason.DEADLINE_EXCEEDED, EndReason.MAX_RUNTIME_EXCEEDED])
def test_a_job_whose_time_is_over_fails_with_that_reason(reason: EndReason) -> None:
    decision = decided(ended("interrupted", "signal"), stop_reason=reason, made_progress=True)
    assert (decision.to, decision.error_code) == (JobStatus.FAILED, reason.value)


def test_a_preempted_job_waits_again_however_often() -> None:
    decision = decided(
        ended("interrupted", "signal"), of=job(retries={"preempted": 50}), stop_reason=EndReason.PREEMPTED
    )
    assert isinstance(decision, Retry)
    assert (decision.requeue, decision.not_before, decision.end.reason) == (True, 0.0, EndReason.PREEMPTED)


def test_out_of_memory_halves_the_micro_batch_and_keeps_what_is_contrasted() -> None:
    decision = decided(ended("failed", "out_of_memory"), number=2, micro_size=128)
    assert isinstance(decision, Retry)
    assert not decision.requeue
    assert dict(decision.overrides) == {"micro_size": 64, "feature_cache": True}
    assert decision.end.message == "Attempt 2 ran out of memory with 128 samples a device"
    assert decision.message == (
        "Attempt 3 takes 64 and accumulates 2, and caches features to contrast the same samples"
    )


def test_a_classifier_needs_no_cache() -> None:
    objective = {"objective": {"name": "classification", "head": "fresh"}}
    decision = decided(ended("failed", "out_of_memory"), of=job(spec=spec_with(**objective)), micro_size=128)
    assert dict(decision.overrides) == {"micro_size": 64}


@pytest.mark.parametrize(
    ("sections", "micro_size", "words"),
    [
        ({"batch": {"global_size": 256, "micro_size": 64}}, 64, ["batch.micro_size is fixed at 64", "`auto`"]),
        ({}, 1, ["a single sample"]),
        ({}, None, ["before the first batch"]),
        (
            {"objective": {"name": "distillation", "loss": "vicreg", "teacher": {"name": "ViT-B-32"}}},
            128,
            ["'vicreg'", "cannot be cached"],
        ),
    ],
)
def test_out_of_memory_fails_where_nothing_smaller_trains_the_same(
    sections: dict[str, Any], micro_size: int | None, words: list[str]
) -> None:
    decision = decided(ended("failed", "out_of_memory"), of=job(spec=spec_with(**sections)), micro_size=micro_size)
    assert isinstance(decision, Finish)
    assert (decision.to, decision.error_code) == (JobStatus.FAILED, "out_of_memory")
    assert all(word in str(decision.error_message) for word in ["said out_of_memory", *words])


def test_what_the_kernel_killed_for_memory_gets_less_too() -> None:
    text = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."
    decision = decided(said=LastWords(text, text, -9), micro_size=128)
    assert isinstance(decision, Retry)
    assert (decision.end.reason, decision.overrides["micro_size"]) == (EndReason.OUT_OF_MEMORY, 64)


def test_rules_that_come_first_decide_first() -> None:
    own = RetryRule(name="mine", pattern="segfault", action="fail", advice="Ask the owner of the machine.")
    failed = decide(job(), [attempt()], Remains(said=LastWords("segfault", "segfault", None)), rules=(own, *RULES))
    assert isinstance(failed, Finish)
    assert str(failed.error_message).endswith("segfault Ask the owner of the machine.")


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
