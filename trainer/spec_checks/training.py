"""Batch, devices and schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.schedules import peak_lr
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
    if schedule.warmup_epochs is not None and schedule.warmup_steps:
        message = f"give this or schedule.warmup_steps {schedule.warmup_steps}, not both; set the other to its default"
        yield Problem("schedule.warmup_epochs", schedule.warmup_epochs, message)
    epochs, warmup_epochs = schedule.epochs, schedule.warmup_epochs
    if epochs is not None and warmup_epochs is not None and warmup_epochs > epochs:
        message = f"warm-up of {warmup_epochs:g} epochs is longer than schedule.epochs {epochs:g}"
        yield Problem("schedule.warmup_epochs", warmup_epochs, message)
    yield from _lowest_rate(spec)


def _lowest_rate(spec: JobSpec) -> Iterator[Problem]:
    schedule = spec.schedule
    if schedule.min_lr > peak_lr(spec):
        peak = "optim.lr" if spec.optim.lr_batch is None else "the rate that optim.lr_batch makes of optim.lr,"
        yield Problem("schedule.min_lr", schedule.min_lr, f"schedule.min_lr is above {peak} {peak_lr(spec):g}")
    if "flyp-min-lr" in spec.compat and schedule.kind != "cosine":
        message = f"`flyp-min-lr` concerns the cosine only, and schedule.kind is {schedule.kind!r}"
        yield Problem("compat", list(spec.compat), message)
    if schedule.update == "epoch" and schedule.kind == "constant":
        yield Problem("schedule.update", "epoch", "a constant rate has nothing to update; use schedule.kind `cosine`")


def _optimizer(spec: JobSpec) -> Iterator[Problem]:
    optim, classifies = spec.optim, spec.objective.name == "classification"
    if optim.nesterov and (optim.name != "sgd" or optim.momentum == 0):
        message = f"needs optim.name `sgd` with momentum, not {optim.name!r} with optim.momentum {optim.momentum:g}"
        yield Problem("optim.nesterov", True, message)
    if optim.head_lr_multiplier != 1 and not classifies:
        message = f"the objective `{spec.objective.name}` has no classifier's head; only `classification` has"
        yield Problem("optim.head_lr_multiplier", optim.head_lr_multiplier, message)
    if optim.layer_decay_text is not None and classifies:
        message = "`classification` trains no text tower; use optim.layer_decay"
        yield Problem("optim.layer_decay_text", optim.layer_decay_text, message)
    if optim.weight_decay_end is not None and optim.weight_decay == 0 == optim.weight_decay_end:
        yield Problem("optim.weight_decay_end", 0, "there is no weight decay to begin with; leave it out")
    layerwise = {optim.layer_decay, optim.layer_decay_text or 1.0} != {1.0}
    if "itra-layer-decay" in spec.compat and not layerwise:
        message = "`itra-layer-decay` changes nothing unless optim.layer_decay or optim.layer_decay_text is below 1"
        yield Problem("compat", list(spec.compat), message)
    if "itra-weight-decay" in spec.compat and optim.decay_vectors:
        message = "`itra-weight-decay` changes nothing where optim.decay_vectors decays every parameter"
        yield Problem("compat", list(spec.compat), message)


CHECKS = (_batch, _parallel, _schedule, _optimizer)
