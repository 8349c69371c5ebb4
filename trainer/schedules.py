"""Learning rate and weight decay over time. Imports no torch: a plan needs it too."""

from __future__ import annotations

import math
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from trainer.errors import UnusableSpecError

if TYPE_CHECKING:  # checks of the spec import this module
    from trainer.spec import JobSpec, ScheduleSpec


@dataclass(frozen=True)
class Schedule:
    """The learning rate and the weight decay at each optimizer step, both for parameters whose `lr_scale` is 1."""

    total_steps: int
    steps_per_epoch: int
    warmup_steps: int
    peak_lr: float
    min_lr: float
    kind: str
    """`cosine` or `constant`."""
    starts_at_zero: bool
    """Whether the warm-up begins at 0 rather than at peak_lr / warmup_steps."""
    by_epoch: bool
    """Whether the rate after the warm-up stays for an epoch."""
    adds_min_lr: bool
    """Whether the cosine falls to 0 and min_lr is added to it, as in FLYP, rather than falling to min_lr."""
    weight_decay: float
    weight_decay_end: float | None
    """Weight decay that the cosine leads to, or None where it is constant."""

    def lr_at(self, step: int) -> float:
        """Learning rate of optimizer step `step`, which counts from 0.

        With w warm-up steps of T, the warm-up is peak * (step + 1) / w, or peak * step / (w - 1) where it starts at
        zero. The cosine is min + (peak - min) / 2 * (1 + cos(pi * (step - w) / (T - w))), and min is never quite
        reached. Where it changes by epoch, `step` stands for the first step of its epoch, so that without a warm-up
        epoch e of E takes min + (peak - min) / 2 * (1 + cos(pi * e / E)); a warm-up still changes with each step.
        """
        if step < self.warmup_steps:
            return self._warmup_lr(step)
        if self.kind == "constant":
            return self.peak_lr
        if self.by_epoch:
            step = max(step // self.steps_per_epoch * self.steps_per_epoch, self.warmup_steps)
        done, left = step - self.warmup_steps, max(1, self.total_steps - self.warmup_steps)
        if self.adds_min_lr:
            return _cosine(self.peak_lr, 0.0, done, left) + self.min_lr
        return _cosine(self.peak_lr, self.min_lr, done, left)

    def weight_decay_at(self, step: int) -> float:
        """Weight decay of optimizer step `step`: constant, or a cosine over all steps of the job."""
        if self.weight_decay_end is None:
            return self.weight_decay
        return _cosine(self.weight_decay, self.weight_decay_end, step, self.total_steps)

    def apply(self, groups: Iterable[MutableMapping[str, Any]], *, step: int) -> float:
        """Set each group's rate for `step`, scaled by its `lr_scale`, and the weight decay of those that decay.

        Returns the unscaled rate.
        """
        lr, weight_decay = self.lr_at(step), self.weight_decay_at(step)
        for group in groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
            if group.get("decays", False):
                group["weight_decay"] = weight_decay
        return lr

    def _warmup_lr(self, step: int) -> float:
        if not self.starts_at_zero:
            return self.peak_lr * (step + 1) / self.warmup_steps
        if step and step == self.warmup_steps - 1:
            return self.peak_lr
        return step * (self.peak_lr / max(1, self.warmup_steps - 1))


def peak_lr(spec: JobSpec) -> float:
    """The highest learning rate of a job: optim.lr, in proportion to the batch where optim.lr_batch is given."""
    if spec.optim.lr_batch is None:
        return spec.optim.lr
    # Scaled as the decimal that was written: 1e-5 for 256 is then 7e-5 for 1792, and not the float beside it.
    return float(Fraction(repr(spec.optim.lr)) * spec.batch.global_size / spec.optim.lr_batch)


def total_steps(spec: ScheduleSpec, *, steps_per_epoch: int) -> int:
    """Optimizer steps of a job, at least one."""
    limits = [] if spec.epochs is None else [max(1, round(spec.epochs * steps_per_epoch))]
    if spec.max_steps is not None:
        limits.append(spec.max_steps)
    return min(limits)


def build_schedule(spec: JobSpec, *, steps_per_epoch: int) -> Schedule:
    """The schedule of a job.

    Raises:
        UnusableSpecError: the warm-up is longer than the job.
    """
    schedule = spec.schedule
    steps = total_steps(schedule, steps_per_epoch=steps_per_epoch)
    warmup_steps, asked = schedule.warmup_steps, f"warmup_steps {schedule.warmup_steps}"
    if schedule.warmup_epochs is not None:
        warmup_steps = round(schedule.warmup_epochs * steps_per_epoch)
        asked = f"warmup_epochs {schedule.warmup_epochs:g} ({warmup_steps} steps)"
    if warmup_steps > steps:
        limit = "max_steps" if steps == schedule.max_steps else "epochs"
        raise UnusableSpecError(
            f"schedule.{asked} is longer than the job's {steps} steps; use fewer, or raise schedule.{limit}"
        )
    return Schedule(
        total_steps=steps,
        steps_per_epoch=steps_per_epoch,
        warmup_steps=warmup_steps,
        peak_lr=peak_lr(spec),
        min_lr=schedule.min_lr,
        kind=schedule.kind,
        starts_at_zero=schedule.warmup_start == "zero",
        by_epoch=schedule.update == "epoch",
        adds_min_lr="flyp-min-lr" in spec.compat,
        weight_decay=spec.optim.weight_decay,
        weight_decay_end=spec.optim.weight_decay_end,
    )


def _cosine(first: float, last: float, step: int, steps: int) -> float:
    """`first` at step 0, `last` at step `steps`, in the order of operations that FT-CLIP's figures come from."""
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * step / steps))
