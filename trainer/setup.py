"""Everything that must exist before the first step: manifests, model, optimizer, DeepSpeed engine, loader."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from dali_pipelines.loader import TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.transforms import Augment
from trainer.deepspeed_config import build_config
from trainer.ema import track_average
from trainer.errors import UnusableSpecError
from trainer.freezing import freeze_matching
from trainer.job_dir import AttemptDir, JobDir
from trainer.machine import refuse_what_the_machine_lacks
from trainer.model_setup import apply_compute_options, build_model, forward_flops_per_sample
from trainer.models import ClassifierModel, ClipModel
from trainer.objectives import TrainingObjective, build_objective
from trainer.optim import build_optimizer
from trainer.schedules import Schedule, build_schedule
from trainer.spec import AugmentationSpec, JobSpec
from trainer.spec_checks import check_divides
from trainer.throughput import peak_flops


@dataclass(frozen=True)
class Run:
    """One attempt's working parts."""

    spec: JobSpec
    device: torch.device
    rank: int
    world_size: int
    micro_size: int
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

    def evaluates_at(self, step: int) -> bool:
        """Whether held-out data are evaluated once `step` optimizer steps are done."""
        return self._is_due(step, self.spec.evaluation.every_steps or self.spec.checkpoint.every_steps)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is saved once `step` optimizer steps are done."""
        return self._is_due(step, self.spec.checkpoint.every_steps or self.spec.evaluation.every_steps)

    def _is_due(self, step: int, every_steps: int | None) -> bool:
        return step == self.schedule.total_steps or step % (every_steps or self.steps_per_epoch) == 0

    @property
    def accumulation(self) -> int:
        """Micro-batches an optimizer step."""
        return self.spec.batch.global_size // (self.micro_size * self.world_size)


def prepare(spec: JobSpec, *, job: JobDir, attempt: AttemptDir, device: torch.device) -> Run:
    """Build an attempt's working parts, the same on every rank.

    Raises:
        UnusableSpecError: something in the spec does not fit the machine, the model or the data.
    """
    refuse_what_the_machine_lacks(spec)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    micro_size = settle_micro_size(spec, world_size=world_size)
    manifests = load_manifests(spec, job=job)
    train = manifests["train"]
    steps_per_epoch = _sampler(spec, train).steps_per_epoch(spec.batch.global_size)
    schedule = build_schedule(spec.schedule, peak_lr=spec.optim.lr, steps_per_epoch=steps_per_epoch)

    torch.manual_seed(spec.seed)
    model = build_model(spec, train=train)
    replica = replace(model, module=copy.deepcopy(model.module).eval().requires_grad_(False))
    freeze_matching(model.module, patterns=spec.model.freeze)
    model.module.to(device)
    flops = forward_flops_per_sample(model, device=device) if peak_flops(device) else 0
    apply_compute_options(spec, model.module)

    optimizer = build_optimizer(
        model.module, spec=spec.optim, max_logit_scale=getattr(spec.objective, "max_logit_scale", None)
    )
    if spec.optim.ema_decay is not None:
        track_average(optimizer, decay=spec.optim.ema_decay)
    config = build_config(spec, world_size=world_size, micro_size=micro_size)
    if rank == 0:
        attempt.deepspeed_config.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    engine, *_ = deepspeed.initialize(model=model.module, optimizer=optimizer, config=config)
    objective = build_objective(spec, model=model, manifest=train, device=device)
    torch.manual_seed(spec.seed + 1 + rank)
    return Run(
        spec=spec,
        device=device,
        rank=rank,
        world_size=world_size,
        micro_size=micro_size,
        model=model,
        replica=replica,
        manifests=manifests,
        engine=engine,
        objective=objective,
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
        flops_per_sample=flops,
    )


def settle_micro_size(spec: JobSpec, *, world_size: int) -> int:
    """Samples a device and forward pass on `world_size` ranks.

    Raises:
        UnusableSpecError: another number of ranks was asked for, or the global batch does not divide.
    """
    asked = spec.parallel.devices
    if asked != "auto" and asked * spec.parallel.nodes != world_size:
        raise UnusableSpecError(
            f"parallel.devices {asked} x parallel.nodes {spec.parallel.nodes} do not match the {world_size} ranks "
            f"that were started"
        )
    if problem := check_divides(spec.batch.global_size, spec.batch.micro_size, world_size):
        raise UnusableSpecError(problem.message)
    return spec.batch.global_size // world_size if spec.batch.micro_size == "auto" else spec.batch.micro_size


def dataset_names(spec: JobSpec) -> list[str]:
    """`train`, `validation` and `evaluate-NAME`, as far as the spec has them."""
    held_out = ["validation"] if spec.data.validation is not None else []
    return ["train", *held_out, *(f"evaluate-{name}" for name in spec.data.evaluate)]


def load_manifests(spec: JobSpec, *, job: JobDir) -> dict[str, Manifest]:
    """The manifests that preflight left in the job folder."""
    return {name: Manifest.load(job.manifest(name)) for name in dataset_names(spec)}


@contextmanager
def train_batches(run: Run, *, start_step: int) -> Iterator[TrainLoader]:
    """The stream of this rank's micro-batches from optimizer step `start_step` on."""
    data = run.spec.data
    loader = TrainLoader(
        run.manifests["train"],
        preprocess=run.model.preprocess,
        augment=_augment(data.augmentation),
        sampler=_sampler(run.spec, run.manifests["train"]),
        global_size=run.spec.batch.global_size,
        micro_size=run.micro_size,
        rank=run.rank,
        world_size=run.world_size,
        device=run.device.index if run.device.type == "cuda" else None,
        num_threads=data.decoder.num_threads,
        prefetch_batches=data.decoder.prefetch_batches,
        hardware_load=data.decoder.hardware_load,
        on_bad_sample=data.on_bad_sample,
        start_step=start_step,
    )
    try:
        yield loader
    finally:
        loader.close()


def _sampler(spec: JobSpec, train: Manifest) -> Sampler:
    return Sampler(len(train), seed=spec.seed, shuffle=spec.data.shuffle)


def _augment(spec: AugmentationSpec) -> Augment:
    jitter, rand = spec.color_jitter, spec.rand_augment
    return Augment(
        crop_scale=spec.crop_scale,
        crop_ratio=spec.crop_ratio,
        horizontal_flip=spec.horizontal_flip,
        color_jitter=jitter and (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue),
        rand_augment=rand and (rand.magnitude, rand.magnitude_std, rand.num_ops, rand.increasing),
        random_erasing=spec.random_erasing,
    )
