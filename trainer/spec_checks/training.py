"""Batch, devices and schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.spec_checks.problem import Problem

if TYPE_CHECKING:
    from trainer.spec import JobSpec


def check_divides(global_size: int, micro_size: int | str, world_size: int) -> Problem | None:
    """Whether a global batch splits evenly over devices and accumulation steps."""
    unit = world_size if micro_size == "auto" else int(micro_size) * world_size
    if global_size % unit == 0:
        return None
    below, above = global_size // unit * unit, -(-global_size // unit) * unit
    allowed = " or ".join(str(n) for n in (below, above) if n)
    if micro_size == "auto":
        divisor = f"{world_size} devices"
    else:
        divisor = f"batch.micro_size {micro_size} × {world_size} devices"
    return Problem(
        "batch.global_size",
        global_size,
        f"batch.global_size {global_size} is not divisible by {divisor}; use {allowed}",
    )


def _batch(spec: JobSpec) -> Iterator[Problem]:
    if spec.parallel.devices != "auto":
        world_size = spec.parallel.devices * spec.parallel.nodes
        if problem := check_divides(spec.batch.global_size, spec.batch.micro_size, world_size):
            yield problem
    elif spec.batch.micro_size != "auto" and (
        problem := check_divides(spec.batch.global_size, spec.batch.micro_size, spec.parallel.nodes)
    ):
        yield problem


def _parallel(spec: JobSpec) -> Iterator[Problem]:
    parallel = spec.parallel
    stage = parallel.zero_stage
    if parallel.deepspeed_config is not None:
        defaults = type(parallel).model_fields
        for name in ("offload_optimizer", "offload_parameters"):
            if getattr(parallel, name) != defaults[name].default:
                yield Problem(
                    f"parallel.{name}",
                    getattr(parallel, name),
                    f"offloading belongs in {parallel.deepspeed_config!r} when parallel.deepspeed_config is given",
                )
        return
    if parallel.offload_optimizer == "cpu" and stage < 1:
        yield Problem(
            "parallel.offload_optimizer", "cpu", "optimizer offload to CPU needs parallel.zero_stage 1, 2 or 3"
        )
    if parallel.offload_optimizer == "nvme" and stage != 3:
        yield Problem("parallel.offload_optimizer", "nvme", f"offload to NVMe needs parallel.zero_stage 3, not {stage}")
    if parallel.offload_parameters != "none" and stage != 3:
        yield Problem(
            "parallel.offload_parameters",
            parallel.offload_parameters,
            f"parameter offload needs parallel.zero_stage 3, not {stage}",
        )
    if "nvme" in (parallel.offload_optimizer, parallel.offload_parameters) and not parallel.nvme_path:
        yield Problem("parallel.nvme_path", None, "offload to NVMe needs parallel.nvme_path, a folder on a local drive")


def _schedule(spec: JobSpec) -> Iterator[Problem]:
    schedule = spec.schedule
    if schedule.epochs is None and schedule.max_steps is None:
        yield Problem("schedule", None, "give schedule.epochs or schedule.max_steps")
    if schedule.max_steps is not None and schedule.warmup_steps > schedule.max_steps:
        yield Problem(
            "schedule.warmup_steps",
            schedule.warmup_steps,
            f"warm-up of {schedule.warmup_steps} steps is longer than schedule.max_steps {schedule.max_steps}",
        )
    if schedule.min_lr > spec.optim.lr:
        yield Problem("schedule.min_lr", schedule.min_lr, f"schedule.min_lr is above optim.lr {spec.optim.lr}")


CHECKS = (_batch, _parallel, _schedule)
