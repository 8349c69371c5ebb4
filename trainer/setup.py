"""Everything that must exist before the first step: manifests, model, optimizer, DeepSpeed engine, loader."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor

from dali_pipelines.manifest import Manifest
from trainer import checkpoint
from trainer.bad_sample_log import BadSampleLog
from trainer.deepspeed_config import build_config
from trainer.distributed import agree
from trainer.ema import track_average
from trainer.errors import UnusableSpecError
from trainer.job_dir import AttemptDir, JobDir
from trainer.machine import refuse_what_the_machine_lacks
from trainer.model_setup import apply_compute_options, build_model, forward_flops_per_sample
from trainer.models import ClassifierModel, ClipModel
from trainer.objectives import TrainingObjective, build_objective
from trainer.objectives.token_tables import TokenTables
from trainer.optim import build_optimizer
from trainer.schedules import Schedule, build_schedule
from trainer.short_attention import choose_attention
from trainer.spec import JobSpec
from trainer.spec_checks.batch_split import BatchSplit, settle_batch
from trainer.startup_times import phase_ends
from trainer.throughput import peak_flops
from trainer.training_data import build_sampler, load_manifests


@dataclass(frozen=True)
class Run:
    """One attempt's working parts."""

    spec: JobSpec
    device: torch.device
    rank: int
    world_size: int
    split: BatchSplit
    model: ClipModel | ClassifierModel
    """Its module is the one inside the engine."""
    replica: ClipModel | ClassifierModel
    """A copy on the CPU that takes gathered weights, for evaluation and export."""
    manifests: dict[str, Manifest]
    """By `train`, `validation`, `evaluate-NAME`."""
    engine: Any
    objective: TrainingObjective
    schedule: Schedule
    steps_per_epoch: int
    flops_per_sample: int
    bad_samples: BadSampleLog
    """Images that have gone bad since the data were checked."""
    start_weights: dict[str, Tensor] | None
    """The state dict of the model before the first step, on the CPU, where something is interpolated with it."""

    def evaluates_at(self, step: int) -> bool:
        """Whether held-out data are evaluated once `step` optimizer steps are done."""
        return self._is_due(step, self.spec.evaluation.every_steps or self.spec.checkpoint.every_steps)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is saved once `step` optimizer steps are done."""
        return self._is_due(step, self.spec.checkpoint.every_steps or self.spec.evaluation.every_steps)

    def _is_due(self, step: int, every_steps: int | None) -> bool:
        return step == self.schedule.total_steps or step % (every_steps or self.steps_per_epoch) == 0

    @property
    def micro_size(self) -> int:
        """Samples a device and forward pass."""
        return self.split.micro_size

    @property
    def accumulation(self) -> int:
        """Micro-batches an optimizer step."""
        return self.split.accumulation


def prepare(spec: JobSpec, *, job: JobDir, attempt: AttemptDir, device: torch.device) -> Run:
    """Build an attempt's working parts, the same on every rank.

    Raises:
        UnusableSpecError: something in the spec does not fit the machine, the model or the data.
    """
    refuse_what_the_machine_lacks(spec)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    overrides, earlier = agree((attempt.read_overrides(), checkpoint.earlier_split(job)))
    split = settle_batch(spec, world_size=world_size, overrides=overrides, earlier=earlier)
    manifests = load_manifests(spec, job=job)
    train = manifests["train"]
    steps_per_epoch = _steps_per_epoch(spec, train=train)
    schedule = build_schedule(spec, steps_per_epoch=steps_per_epoch)

    torch.manual_seed(spec.seed)
    model = build_model(spec, train=train, validation=manifests.get("validation"), probe_file=job.probe_head)
    replica = replace(model, module=copy.deepcopy(model.module).eval().requires_grad_(False))
    model.module.to(device)
    flops = forward_flops_per_sample(model, device=device) if peak_flops(device) else 0
    phase_ends("model")
    choose_attention(spec, model, device=device)
    apply_compute_options(spec, model.module)

    config = build_config(spec, world_size=world_size, micro_size=split.micro_size)
    sharded = config["zero_optimization"]["stage"] > 0
    optimizer = build_optimizer(model.module, spec=spec, sharded=sharded)
    if spec.optim.ema_decay is not None:
        track_average(optimizer, decay=spec.optim.ema_decay)
    if rank == 0:
        attempt.deepspeed_config.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    engine, *_ = deepspeed.initialize(model=model.module, optimizer=optimizer, config=config)
    if world_size == 1 and not sharded:
        engine.enable_backward_allreduce = False  # it would copy all gradients to a buffer and back, for nothing
    phase_ends("engine")
    tables = TokenTables(job.manifest("train").parent)
    objective = build_objective(spec, model=model, manifest=train, device=device, tables=tables)
    phase_ends("objective")
    torch.manual_seed(spec.seed + 1 + rank)
    return Run(
        spec=spec,
        device=device,
        rank=rank,
        world_size=world_size,
        split=split,
        model=model,
        replica=replica,
        manifests=manifests,
        engine=engine,
        objective=objective,
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
        flops_per_sample=flops,
        bad_samples=BadSampleLog(
            spec.data.on_bad_sample,
            num_samples={name: len(manifest) for name, manifest in manifests.items()},
            max_bad_share=spec.data.max_bad_share,
        ),
        start_weights=_start_weights(spec, replica.module),
    )


def _steps_per_epoch(spec: JobSpec, *, train: Manifest) -> int:
    sampler = build_sampler(spec, manifest=train)
    try:
        return sampler.steps_per_epoch(spec.batch.global_size)
    except ValueError as error:
        raise UnusableSpecError(f"batch.global_size: {error}") from error


def _start_weights(spec: JobSpec, module: torch.nn.Module) -> dict[str, Tensor] | None:
    if spec.export.wise_ft is None and spec.evaluation.wise_ft_alpha is None:
        return None
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
