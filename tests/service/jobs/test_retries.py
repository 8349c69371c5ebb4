"""Retries with real processes: what ends, what is decided, and what people are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from service.jobs.retry_rules import RetryRule
from service.store.records import EndReason, JobRecord, JobStatus

if TYPE_CHECKING:
    from conftest import World


def said(world: World, job: JobRecord) -> list[str]:
    return [event.message for event in world.store.events.since(job.id, limit=1000)]


def ends(world: World, job: JobRecord) -> list[EndReason | None]:
    return [attempt.end_reason for attempt in world.store.attempts.list(job.id)]


def test_a_job_that_runs_out_of_memory_goes_on_with_smaller_micro_batches(world: World) -> None:
    """512 samples of a mebibyte do not fit into 160, nor do 256; 128 do."""
    job = world.submit(micro_size=512, mebibytes_a_sample=1, mebibytes=160)
    ended = world.finish(job, world.new_runner())
    assert ended.status is JobStatus.SUCCEEDED, ended.error_message
    assert ends(world, job) == [EndReason.OUT_OF_MEMORY, EndReason.OUT_OF_MEMORY, EndReason.COMPLETED]
    attempts = world.store.attempts.list(job.id)
    assert [attempt.overrides.get("micro_size") for attempt in attempts] == [None, 256, 128]
    decided = json.loads((Path(job.job_dir) / "attempts/0003/attempt.json").read_text())
    assert decided["overrides"] == {"micro_size": 128, "feature_cache": True}
    messages = said(world, job)
    assert "Attempt 2 ran out of memory with 256 samples a device" in messages
    assert "Attempt 3 takes 128 and accumulates 4, and caches features to contrast the same samples" in messages


def test_a_job_that_fits_with_no_micro_batch_fails_and_says_what_to_set(world: World) -> None:
    job = world.submit(micro_size=1, mebibytes_a_sample=1000, mebibytes=160)
    ended = world.finish(job, world.new_runner())
    assert (ended.status, ended.error_code, ended.num_attempts) == (JobStatus.FAILED, "out_of_memory", 1)
    assert "a single sample" in str(ended.error_message)
    assert "parallel.zero_stage" in str(ended.error_message)


def test_a_job_waits_without_devices_before_it_is_tried_again(world: World) -> None:
    rule = RetryRule(name="network", pattern="link is down", action="retry_elsewhere", backoff_s=0.4)
    words = "the link is down"
    job = world.submit(crash_at={1: 1, 2: 1}, last_words={1: words, 2: words})
    runner = world.new_runner(retry_rules=(rule,))
    world.wait(lambda: world.job(job).num_attempts == 2 and world.job(job).status is JobStatus.QUEUED, runner=runner)
    waiting = world.job(job)
    assert world.store.attempts.leased_devices() == set()
    assert waiting.retries == {"network": 1}, "the first attempt made a step, the second none that was new"
    ended = world.finish(job, runner)
    assert ended.status is JobStatus.SUCCEEDED
    _, second, third = world.store.attempts.list(job.id)
    assert second.ended_at is not None
    assert third.created_at >= waiting.not_before >= second.ended_at + 0.35
    assert any("the job is queued again" in message.lower() for message in said(world, job))


def test_the_sentence_that_matters_is_in_the_error(world: World) -> None:
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: shard 7 is not a tar file'
    job = world.submit(always_crash_at=1, last_words={3: trace})
    ended = world.finish(job, world.new_runner(max_crashes_without_progress=2))
    assert (ended.status, ended.error_code, ended.num_attempts) == (JobStatus.FAILED, "crashed", 3)
    assert str(ended.error_message).endswith("ValueError: shard 7 is not a tar file")
