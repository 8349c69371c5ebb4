"""Everything that must exist before the first step: manifests, model, optimizer, DeepSpeed engine, loader."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import nn

from dali_pipelines.loader import EvalLoader, TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.transforms import Augment
from trainer import heads, throughput
from trainer.deepspeed_config import build_config
from trainer.ema import track_average
from trainer.errors import UnusableSpecError
from trainer.evaluation.zero_shot import zero_shot_weights
from trainer.export import clip_export_problem
from trainer.freezing import freeze_matching
from trainer.job_dir import AttemptDir, JobDir
from trainer.models import (
    ClassifierModel,
    ClipModel,
    clip_classifier,
    image_projection,
    load_clip,
    load_timm_classifier,
)
from trainer.objectives import TrainingObjective, build_objective
from trainer.optim import build_optimizer
from trainer.prompts import expand_templates
from trainer.schedules import Schedule, build_schedule
from trainer.spec import AugmentationSpec, JobSpec
from trainer.spec_checks import check_divides
from trainer.timm_layout import classifier_export_problem

_NORM_SAMPLES = 64  # images that set the temperature of a head made from text


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

    @property
    def accumulation(self) -> int:
        """Micro-batches an optimizer step."""
        return self.spec.batch.global_size // (self.micro_size * self.world_size)


def prepare(spec: JobSpec, *, job: JobDir, attempt: AttemptDir, device: torch.device) -> Run:
    """Build an attempt's working parts, the same on every rank.

    Raises:
        UnusableSpecError: something in the spec does not fit the machine, the model or the data.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    micro_size = settle_micro_size(spec, world_size=world_size)
    manifests = load_manifests(spec, job=job)
    train = manifests["train"]
    steps_per_epoch = _sampler(spec, train).steps_per_epoch(spec.batch.global_size)
    schedule = build_schedule(spec.schedule, peak_lr=spec.optim.lr, steps_per_epoch=steps_per_epoch)

    torch.manual_seed(spec.seed)
    model = _build_model(spec, train=train)
    _refuse_what_cannot_be_exported(model)
    replica = replace(model, module=copy.deepcopy(model.module).eval().requires_grad_(False))
    freeze_matching(model.module, patterns=spec.model.freeze)
    model.module.to(device)
    flops = _forward_flops(model, device=device) if throughput.peak_flops(device) else 0
    _apply_compute_options(spec, model.module)
    _apply_precision(spec, model.module)

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


def _build_model(spec: JobSpec, *, train: Manifest) -> ClipModel | ClassifierModel:
    exif = spec.data.exif
    if spec.objective.name != "classification":
        return load_clip(spec.model, exif=exif)
    if _is_timm(spec.model.name):
        classifier = load_timm_classifier(spec.model, class_names=train.class_names, exif=exif)
        heads.init_fresh_head(classifier.module.head)
        return classifier
    clip = load_clip(spec.model, exif=exif)
    classifier = clip_classifier(clip, class_names=train.class_names)
    if spec.objective.head == "fresh":
        heads.init_fresh_head(classifier.module.head)
    else:
        _init_head_from_text(classifier, clip=clip, spec=spec, train=train)
    return classifier


def _refuse_what_cannot_be_exported(model: ClipModel | ClassifierModel) -> None:
    """Better now than after the last step."""
    if isinstance(model, ClassifierModel):
        problem = classifier_export_problem(model.config)
    else:
        problem = clip_export_problem(model)
    if problem:
        raise UnusableSpecError(f"model.name {model.name!r} could not be exported after training: {problem}")


def _is_timm(name: str) -> bool:
    """Whether a model name means timm's layout; a local folder says so by its config file."""
    folder = Path(name.removeprefix("local-dir:"))
    return name.startswith("timm/") or (
        name.startswith("local-dir:") and not (folder / "open_clip_config.json").exists()
    )


@torch.no_grad()
def _init_head_from_text(classifier: ClassifierModel, *, clip: ClipModel, spec: JobSpec, train: Manifest) -> None:
    clip.module.eval()
    class_weights = zero_shot_weights(
        clip.module,
        clip.tokenize,
        train.class_names,
        expand_templates(spec.data.templates),
        device=torch.device("cpu"),
    )
    sample = train.select(range(min(_NORM_SAMPLES, len(train))))
    loader = EvalLoader(sample, preprocess=clip.preprocess, batch_size=16, rank=0, world_size=1, device=None)
    features = torch.cat([clip.module.encode_image(batch.images) for batch in loader])  # (N, D)
    heads.init_zero_shot_head(
        classifier.module.head,
        class_weights_dc=class_weights,
        projection_fd=image_projection(clip.module.visual),
        logit_scale=clip.module.logit_scale.exp().item(),
        feature_norm=features.norm(dim=-1).mean().item(),
    )


def _apply_compute_options(spec: JobSpec, module: nn.Module) -> None:
    if spec.parallel.activation_checkpointing:
        towers = [module.trunk] if isinstance(module, heads.ImageClassifier) else [module]
        for tower in towers:
            tower.set_grad_checkpointing(True)
    if spec.parallel.compile:
        for block in _transformer_blocks(module):
            block.compile()


def _apply_precision(spec: JobSpec, module: nn.Module) -> None:
    """Low-precision weights take low-precision images; the loader makes float32."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(spec.parallel.precision)
    if dtype is None:
        return
    if dtype is torch.float16 and not get_accelerator().is_fp16_supported():
        raise UnusableSpecError(
            "parallel.precision fp16 is not supported by this machine's processor; use amp_bf16, bf16 or fp32"
        )

    def cast_inputs(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)

    module.register_forward_pre_hook(cast_inputs)


def _transformer_blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks: compiled one by one, they are compiled once and leave DeepSpeed's hooks alone."""
    lists = [m for name, m in module.named_modules() if name.rpartition(".")[2] in ("resblocks", "blocks")]
    blocks = [block for blocks in lists for block in blocks]
    return blocks or [module]


def _forward_flops(model: ClipModel | ClassifierModel, *, device: torch.device) -> int:
    size = model.preprocess.image_size
    inputs = [torch.zeros(1, 3, size, size, device=device)]
    if isinstance(model, ClipModel):
        inputs.append(model.tokenize(["a"]).to(device))
    return throughput.forward_flops(model.module, *inputs)
