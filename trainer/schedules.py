"""Learning rate over time. Imports no torch: a plan needs it too."""

from __future__ import annotations

import math
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import UnusableSpecError
from trainer.spec import ScheduleSpec


@dataclass(frozen=True)
class Schedule:
    """The learning rate at each optimizer step."""

    kind: str
    peak_lr: float
    min_lr: float
    warmup_steps: int
    total_steps: int

    def lr_at(self, step: int) -> float:
        """Learning rate of 0-based optimizer step `step`: linear from peak/warmup_steps, then cosine to min_lr."""
        if step < self.warmup_steps:
            return self.peak_lr * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak_lr
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.min_lr + (self.peak_lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))

    def apply(self, groups: Iterable[MutableMapping[str, Any]], *, step: int) -> float:
        """Set each group's rate for `step`, scaled by its `lr_scale`; returns the unscaled rate."""
        lr = self.lr_at(step)
        for group in groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr


def total_steps(spec: ScheduleSpec, *, steps_per_epoch: int) -> int:
    """Optimizer steps of a job, at least one."""
    limits = [] if spec.epochs is None else [max(1, round(spec.epochs * steps_per_epoch))]
    if spec.max_steps is not None:
        limits.append(spec.max_steps)
    return min(limits)


def build_schedule(spec: ScheduleSpec, *, peak_lr: float, steps_per_epoch: int) -> Schedule:
    """The schedule of a job.

    Raises:
        UnusableSpecError: the warm-up is longer than the job.
    """
    steps = total_steps(spec, steps_per_epoch=steps_per_epoch)
    if spec.warmup_steps > steps:
        raise UnusableSpecError(
            f"schedule.warmup_steps {spec.warmup_steps} is longer than the job's {steps} steps; "
            f"use fewer, or raise schedule.epochs"
        )
    return Schedule(spec.kind, peak_lr, spec.min_lr, spec.warmup_steps, steps)
