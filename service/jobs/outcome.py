"""What follows an attempt whose processes are gone: a pure decision from what it left behind.

Only `exit.json` is believed. Without it the attempt crashed, whatever a launcher's exit code said.

1. The job was cancelled: it is cancelled, also if the attempt got to its end.
2. `succeeded`: the job has succeeded.
3. The job is paused, and the attempt did not fail by itself: the attempt ends, the job waits.
4. Its time is over (deadline, longest runtime): the job has failed.
5. Anything else is looked up in the retry rules (`service.jobs.retry_rules`), which see why it ended and its last
   words. The job fails where a rule says so, where it was needed too often in a row without the job getting any
   further, and where no rule fits; `scheduling.max_retries` limits all rules together.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from service.jobs.log_tail import LastWords
from service.jobs.memory import Halving, Unsplittable, halve
from service.jobs.retry_rules import Ending, RetryRule, default_rules, find_rule
from service.launchers.base import LostReason
from service.store.records import AttemptEnd, AttemptRecord, EndReason, JobRecord, JobStatus
from trainer.job_dir import ExitRecord, JobDir

_LOST: dict[LostReason, str] = {
    "node_lost": "a machine that it ran on is gone",
    "engine_lost": "the engine does not know it any more",
}
_TIME_IS_OVER = (EndReason.DEADLINE_EXCEEDED, EndReason.MAX_RUNTIME_EXCEEDED)
_NOTHING_SAID = LastWords(text="", sentence="", exit_code=None)
_NOT_ITS_FAULT = ("preempted",)
"""Rules that `scheduling.max_retries` does not count: nothing failed."""


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
    retries: Mapping[str, int] = field(default_factory=dict)
    """How often each rule was needed in a row."""
    message: str = ""
    """What people are told about the next attempt."""


@dataclass(frozen=True, kw_only=True)
class Remains:
    """What an attempt left behind."""

    exit_record: ExitRecord | None = None
    made_progress: bool = False
    said: LastWords = _NOTHING_SAID
    lost: LostReason | None = None
    """Why the engine can tell no more of it."""
    stop_reason: EndReason | None = None
    """Why the service stopped it, if no person wanted it: `preempted`, `stalled`, `deadline_exceeded` ..."""
    micro_size: int | None = None
    """Samples a device and forward pass, by the worker's own account; None if it did not get so far."""


def decide(
    job: JobRecord,
    attempts: Sequence[AttemptRecord],
    remains: Remains,
    *,
    rules: Sequence[RetryRule] | None = None,
    now: float | None = None,
) -> Finish | Retry:
    """Decide what follows the last of `attempts`.

    Args:
        rules: the first that fits decides; by default those without any settings.
        now: Unix seconds; by default the time it is.
    """
    record, progress = remains.exit_record, remains.made_progress
    if job.cancel_requested:
        return Finish(_plain(EndReason.CANCELLED, "Job cancelled", progress), JobStatus.CANCELLED)
    if record is not None and record.status == "succeeded":
        return Finish(_plain(EndReason.COMPLETED, "Job succeeded", progress), JobStatus.SUCCEEDED)
    failed = record is not None and record.status == "failed"
    if job.status is JobStatus.PAUSED and not failed:
        return Finish(_plain(EndReason.PAUSED, "Job paused", progress), None)
    reason, sentence = _what_happened(attempts[-1], remains)
    if reason in _TIME_IS_OVER:
        return _failed(reason, sentence, progress)
    message = "" if record is None else record.message
    ending = Ending(reason, "\n".join(filter(None, (message, remains.said.text))), remains.said.exit_code)
    rule = find_rule(default_rules() if rules is None else rules, ending)
    case = _Case(job, attempts, remains, reason=reason, sentence=sentence)
    return case.end() if rule is None else case.follow(rule, now=time.time() if now is None else now)


def got_further(attempts: Sequence[AttemptRecord], job_dir: JobDir) -> bool:
    """Whether the last of `attempts` published a checkpoint beyond its start, or logged more steps than any before."""
    attempt = attempts[-1]
    published = [name.step for name in job_dir.published_checkpoints() if name.attempt == attempt.number]
    logged_before = max((earlier.last_step for earlier in attempts[:-1]), default=0)
    return max(published, default=0) > attempt.start_step or attempt.last_step > logged_before


@dataclass(frozen=True)
class _Case:
    """An attempt that did not get to its end, and a rule for it."""

    job: JobRecord
    attempts: Sequence[AttemptRecord]
    remains: Remains
    reason: EndReason
    sentence: str

    def follow(self, rule: RetryRule, *, now: float) -> Finish | Retry:
        """Do what the rule says, as often as it may be done."""
        if rule.action == "fail":
            return self.end(rule)
        counts = {}
        if not self.remains.made_progress:
            counts = {**self.job.retries, rule.name: self.job.retries.get(rule.name, 0) + 1}
            if limit := self._limit(rule, counts):
                return self.end(rule, often=limit)
        if rule.action == "halve_micro_batch":
            return self._with_half(rule, counts)
        wait_s = rule.wait_s(counts.get(rule.name, 1))
        retry = Retry(
            self._end(level="info" if self.reason is EndReason.INTERRUPTED else "warn"),
            requeue=rule.action == "retry_elsewhere" or wait_s > 0,
            not_before=now + wait_s if wait_s else 0.0,
            retries=counts,
        )
        return replace(retry, message=self._next(retry, wait_s))

    def end(self, rule: RetryRule | None = None, *, often: str = "") -> Finish:
        """The job fails."""
        advice = "" if rule is None else rule.advice
        return _failed(self.reason, " ".join(filter(None, (self._fault(often), advice))), self.remains.made_progress)

    def _limit(self, rule: RetryRule, counts: Mapping[str, int]) -> str:
        """Why there is not another attempt, or nothing."""
        times = counts[rule.name]
        if rule.max_in_row is not None and times >= rule.max_in_row:
            return f"{times} times in a row"
        most = self.job.spec.get("scheduling", {}).get("max_retries")
        in_all = sum(count for name, count in counts.items() if name not in _NOT_ITS_FAULT)
        return f"{in_all} times, with scheduling.max_retries {most}," if most is not None and in_all > most else ""

    def _with_half(self, rule: RetryRule, counts: Mapping[str, int]) -> Finish | Retry:
        attempt = self.attempts[-1]
        tried = halve(self.job.spec, world_size=len(attempt.devices), micro_size=self.remains.micro_size)
        if isinstance(tried, Unsplittable):
            fault = " ".join(filter(None, (self.sentence, tried.why, rule.advice)))
            return _failed(EndReason.OUT_OF_MEMORY, fault, self.remains.made_progress)
        end = replace(self._end(level="warn"), reason=EndReason.OUT_OF_MEMORY, message=_out_of_memory(attempt, tried))
        return Retry(end, overrides=tried.overrides, retries=counts, message=_takes_half(attempt.number + 1, tried))

    def _fault(self, often: str) -> str:
        if not often:
            return self.sentence
        if self.reason is EndReason.CRASHED:
            return f"The training processes died {often} without getting any further. {self.remains.said.sentence}"
        if self.reason is EndReason.INTERRUPTED:
            return f"Attempts were stopped {often} before they got any further. {self.remains.said.sentence}".strip()
        return f"{self.sentence} (tried {often} without getting any further)"

    def _end(self, *, level: Any) -> AttemptEnd:
        return AttemptEnd(
            reason=self.reason, message=self.sentence, made_progress=self.remains.made_progress, level=level
        )

    def _next(self, retry: Retry, wait_s: float) -> str:
        if not retry.requeue:
            return f"Attempt {self.attempts[-1].number + 1} goes on from the latest checkpoint"
        when = f"in {_duration(wait_s)}" if wait_s else "as soon as there are devices"
        return f"The job is queued again, and goes on {when} from its latest checkpoint"


def _what_happened(attempt: AttemptRecord, remains: Remains) -> tuple[EndReason, str]:
    """The end reason, and a sentence for people."""
    record, said = remains.exit_record, remains.said.sentence
    if record is not None and record.status == "failed":
        return _reason(record), record.message
    step = max(attempt.start_step, attempt.last_step)
    if remains.stop_reason is not None:
        what = remains.stop_reason.value.replace("_", " ")
        return remains.stop_reason, f"Attempt {attempt.number} was stopped after step {step}: {what}"
    if record is not None:
        return EndReason.INTERRUPTED, f"Attempt {attempt.number} was interrupted at step {record.step}"
    if remains.lost is not None:
        return EndReason(remains.lost), f"Attempt {attempt.number} was lost: {_LOST[remains.lost]}"
    reason = f": {said}" if said else ""
    return EndReason.CRASHED, f"Attempt {attempt.number} crashed after step {step}{reason}"


def _out_of_memory(attempt: AttemptRecord, tried: Halving) -> str:
    samples = f"{tried.before} sample{'' if tried.before == 1 else 's'} a device"
    return f"Attempt {attempt.number} ran out of memory with {samples}"


def _takes_half(number: int, tried: Halving) -> str:
    cached = ", and caches features to contrast the same samples" if tried.caches else ""
    return f"Attempt {number} takes {tried.after} and accumulates {tried.accumulation}{cached}"


def _plain(reason: EndReason, message: str, made_progress: bool) -> AttemptEnd:
    return AttemptEnd(reason=reason, message=message, made_progress=made_progress)


def _failed(reason: EndReason, message: str, made_progress: bool) -> Finish:
    message = message.strip()
    end = AttemptEnd(reason=reason, message=f"Job failed: {message}", made_progress=made_progress, level="error")
    return Finish(end, JobStatus.FAILED, error_code=reason.value, error_message=message)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _reason(exit_record: ExitRecord) -> EndReason:
    """The worker's own reason, if this version knows it."""
    known = {reason.value: reason for reason in EndReason}
    return known.get(exit_record.reason, EndReason.ERROR)
