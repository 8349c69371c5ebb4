"""Less memory for the same training: half the micro-batch, twice the accumulation; and who died for lack of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.jobs.log_tail import LastWords
from service.launchers.memory_kills import describe_kill, memory_kills
from service.launchers.processes import LaunchRecord
from trainer.errors import UnusableSpecError
from trainer.spec import JobSpec
from trainer.spec_checks.batch_split import compares, settle_batch

_HEAD_BYTES = 262144  # of events.jsonl: the worker says how it splits the batch before it says anything about steps


@dataclass(frozen=True)
class Halving:
    """A smaller micro-batch that trains the same."""

    before: int
    """Samples a device and forward pass."""
    after: int
    accumulation: int
    """Forward passes of a device in an optimizer step."""
    caches: bool
    """Whether features are cached, so that the same samples are contrasted."""

    @property
    def overrides(self) -> dict[str, Any]:
        """As `Attempt.overrides`."""
        return {"micro_size": self.after, "feature_cache": True} if self.caches else {"micro_size": self.after}


@dataclass(frozen=True)
class Unsplittable:
    """There is no smaller micro-batch."""

    why: str
    """A sentence."""


def halve(spec: Mapping[str, Any], *, world_size: int, micro_size: int | None) -> Halving | Unsplittable:
    """The largest micro-batch of at most half of `micro_size` that divides, for a job that ran out of memory with it.

    Args:
        spec: the job's, as stored.
        world_size: ranks.
        micro_size: None if memory ran out before training began.
    """
    job = JobSpec.model_validate(spec)
    if micro_size is None:
        return Unsplittable("It did so before the first batch, so that a smaller batch would not help.")
    if job.batch.micro_size != "auto":
        return Unsplittable(
            f"batch.micro_size is fixed at {job.batch.micro_size}; a smaller one needs less, and `auto` is halved by "
            "itself."
        )
    if micro_size == 1:
        return Unsplittable("It did so with a single sample on each device.")
    share = job.batch.global_size // world_size
    halves = (size for size in range(micro_size // 2, 0, -1) if share % size == 0)
    caches = compares(job) == "pairs"
    problem = ""
    for size in halves:
        try:
            overrides = {"micro_size": size, "feature_cache": caches}
            split = settle_batch(job, world_size=world_size, overrides=overrides)
        except UnusableSpecError as error:
            problem = problem or f"A smaller micro-batch is not possible: {error}."
            continue
        if split.micro_size < micro_size:
            return Halving(micro_size, split.micro_size, split.accumulation, caches=caches)
    return Unsplittable(problem or f"No smaller micro-batch divides the {share} samples of a device.")


def with_kernels_word(said: LastWords, *, launch_record: Path) -> LastWords:
    """Last words of processes on this machine, with what the kernel did to them where memory ran out.

    Args:
        launch_record: `launch.json` of their launcher; where there is none, nothing is known.
    """
    if said.exit_code != -signal.SIGKILL or not launch_record.exists():
        return said
    before = LaunchRecord.model_validate_json(launch_record.read_bytes()).memory_kills
    now = memory_kills()
    if before is None or now is None or now <= before:
        return said
    sentence = describe_kill()
    return replace(said, text=f"{said.text}\n{sentence}", sentence=f"{sentence[0].upper()}{sentence[1:]}")


def micro_size_of(path: Path) -> int | None:
    """Samples a device and forward pass of the attempt that wrote events to `path`; None if it never began to train."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for line in head.split(b"\n")[:-1]:
        try:
            event = json.loads(line)
        except ValueError:  # a full disk or a power cut may have broken it
            continue
        if isinstance(event, dict) and event.get("type") == "started":
            return int(event["micro_size"])
    return None
