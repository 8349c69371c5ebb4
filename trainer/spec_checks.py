"""What a job spec's fields must satisfy together. Each problem names the field, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from trainer import prompts

if TYPE_CHECKING:
    from trainer.spec import DataSource, JobSpec


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a spec."""

    field: str
    """Dotted path, such as `parallel.offload_optimizer`."""
    value: Any
    message: str


def refuse_impossible(spec: JobSpec) -> None:
    """Raise one ValidationError that lists every impossible combination in `spec`."""
    problems = [problem for check in CHECKS for problem in check(spec)]
    if problems:
        raise ValidationError.from_exception_data(
            type(spec).__name__,
            [
                InitErrorDetails(
                    type=PydanticCustomError("impossible", "{message}", {"message": p.message}),
                    loc=tuple(p.field.split(".")),
                    input=p.value,
                )
                for p in problems
            ],
        )


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


def _objective(spec: JobSpec) -> Iterator[Problem]:
    if spec.model.name.startswith("timm/") and (problem := problem_without_text_tower(spec)):
        yield problem
    objective, train = spec.objective.name, spec.data.train
    if train is not None and objective == "contrastive":
        if train.format == "image_folder":
            message = "`contrastive` needs a caption for each image, and class folders have none; use `class_prompts`"
            yield Problem("objective.name", objective, f"{message}, or a table of images and captions")
        elif train.caption_column is None:
            yield Problem("data.train.caption_column", None, "`contrastive` needs a caption for each image")
    for field, source in _sources(spec):
        held_out = field != "data.train"
        if objective == "contrastive" or (held_out and objective == "class_prompts"):
            continue
        if source.format == "csv" and source.label_column is None:
            yield Problem(
                f"{field}.label_column",
                None,
                f"the objective `{objective}` needs a class for each image; name the column that holds it",
            )


def problem_without_text_tower(spec: JobSpec) -> Problem | None:
    """What a model without a text tower, such as timm's, cannot be trained for."""
    name = spec.model.name
    if spec.objective.name != "classification":
        allowed = "only `classification` can train it"
        message = f"{name!r} is an image model in timm's layout, without a text tower; {allowed}"
        return Problem("objective.name", spec.objective.name, message)
    if spec.objective.head == "zero_shot":
        message = f"{name!r} has no text tower to build a head from; use `fresh`"
        return Problem("objective.head", "zero_shot", message)
    return None


def _sources(spec: JobSpec) -> Iterator[tuple[str, DataSource]]:
    """Spec field and source of each data set."""
    if spec.data.train is not None:
        yield "data.train", spec.data.train
    if spec.data.validation is not None:
        yield "data.validation", spec.data.validation
    for name, source in spec.data.evaluate.items():
        yield f"data.evaluate.{name}", source


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


def _data(spec: JobSpec) -> Iterator[Problem]:
    for name in ("crop_scale", "crop_ratio"):
        low, high = getattr(spec.data.augmentation, name)
        if low > high or low <= 0:
            yield Problem(f"data.augmentation.{name}", [low, high], "give the smallest first, above 0")
    try:
        prompts.expand_templates(spec.data.templates)
    except ValueError as error:
        yield Problem("data.templates", list(spec.data.templates), str(error))
    for name in spec.data.evaluate:
        if name in ("train", "validation") or "/" in name or not name:
            yield Problem(f"data.evaluate.{name}", name, "use another name: no slash, not `train` or `validation`")


def _export(spec: JobSpec) -> Iterator[Problem]:
    if spec.export.weights == "ema" and spec.optim.ema_decay is None:
        yield Problem("export.weights", "ema", "there is no moving average to export unless optim.ema_decay is set")


def _metric(spec: JobSpec) -> Iterator[Problem]:
    metric = spec.checkpoint.metric
    if metric is None:
        return
    held_out = [*(["validation"] if spec.data.validation is not None else []), *spec.data.evaluate]
    dataset, _, name = metric.partition("/")
    if dataset not in held_out or name not in METRICS:
        sets = " or ".join(held_out) or "a held-out data set, of which there is none"
        message = f"{metric!r} is not DATASET/METRIC with {sets}, and one of {', '.join(METRICS)}"
        yield Problem("checkpoint.metric", metric, message)


METRICS = (
    "top1",
    "top5",
    "mean_per_class",
    *(f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
    "mean_recall",
)
"""What evaluation measures: accuracies of classification, recalls of retrieval."""

CHECKS = (_batch, _parallel, _objective, _schedule, _data, _metric, _export)
