"""The plan of a job: everything about it that follows from the spec and the size of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from trainer.errors import UnusableSpecError
from trainer.long_texts import refuse_long_templates
from trainer.model_setup import build_structure
from trainer.models import ClassifierModel, ClipModel
from trainer.optim import parameter_groups
from trainer.plan import compute
from trainer.plan.activations import activation_bytes, tower_activations
from trainer.plan.dataset import TrainingData, training_data
from trainer.plan.memory import Load, input_bytes, memory_by_stage
from trainer.schedules import Schedule, build_schedule, peak_lr
from trainer.spec import ContrastiveObjective, JobSpec, ScheduleSpec
from trainer.spec.sources import describe
from trainer.spec_checks import check_divides
from trainer.stored_classifiers import read_classifier

ASSUMED_CLASSES = 1000
"""Outputs of a head where nothing tells the number of classes."""


@dataclass(frozen=True)
class Assumptions:
    """What a plan may take from the command line in place of data and machines."""

    num_train: int | None = None
    """Training images."""
    num_classes: int | None = None
    """Classes of the training data."""
    devices: int | None = None
    """Ranks, on all nodes together."""
    steps: tuple[int, ...] | None = None
    """Steps to tell the learning rate of; None for the first, the last of the warm-up and the last."""


def make_plan(spec: JobSpec, *, assumptions: Assumptions = Assumptions()) -> dict[str, Any]:
    """The plan of a job, ready for JSON; numbers of parameters and bytes are integers.

    Raises:
        UnusableSpecError: the job cannot be run as it is described; the text names the field.
        UnusableDataError: the data that it names cannot be listed.
    """
    data = training_data(spec, num_train=assumptions.num_train, num_classes=assumptions.num_classes)
    notes: list[str] = []
    num_classes = _num_classes(spec, data, notes=notes)
    model = build_structure(spec, num_classes=num_classes)
    compute.without_looking_at_values(model.module)
    devices, micro_size = _devices(spec, data, asked=assumptions.devices)
    parameters = count_parameters(model, spec=spec)
    macs = {"image": compute.image_macs(model)}
    if isinstance(model, ClipModel):
        refuse_long_templates(spec, model=model)
        macs["text"] = compute.text_macs(model)
    towers = _towers(spec, model, macs, num_classes=num_classes, micro_size=micro_size)
    made = {
        "recipe": spec.recipe,
        "model": spec.model.name,
        "objective": spec.objective.name,
        "data": _data(spec, data),
        "parameters": parameters,
        "optimizer": {"name": spec.optim.name, "groups": describe_groups(model.module, spec=spec)},
        "schedule": _schedule(spec, data.steps_per_epoch(spec), steps=assumptions.steps, notes=notes),
        "compute": _compute(spec, model, macs, towers, accumulation=spec.batch.global_size // (devices * micro_size)),
    }
    made["memory"] = _memory(spec, model, towers, devices=devices, micro_size=micro_size, parameters=parameters)
    return {**made, "notes": notes}


def count_parameters(model: ClipModel | ClassifierModel, *, spec: JobSpec) -> dict[str, int]:
    """Parameters by what becomes of them; `text` is all that is not of the image tower, logit scale included."""
    sizes = {name: parameter.numel() for name, parameter in model.module.named_parameters()}
    groups = describe_groups(model.module, spec=spec)
    of_images = isinstance(model, ClassifierModel)
    image = sum(size for name, size in sizes.items() if of_images or name.startswith(("visual.", "image_head.")))
    return {
        "total": sum(sizes.values()),
        "trainable": sum(group["num_parameters"] for group in groups),
        "weight_decayed": sum(group["num_parameters"] for group in groups if group["weight_decay"] > 0),
        "image": image,
        "text": sum(sizes.values()) - image,
    }


def describe_groups(module: nn.Module, *, spec: JobSpec) -> list[dict[str, Any]]:
    """The optimizer's parameter groups; the weight decay is that of the first step."""
    return [
        {
            "layer_id": group["layer_id"],
            "lr_scale": group["lr_scale"],
            "weight_decay": group["weight_decay"],
            "num_parameters": sum(parameter.numel() for parameter in group["params"]),
        }
        for group in parameter_groups(module, spec=spec)
    ]


def _num_classes(spec: JobSpec, data: TrainingData, *, notes: list[str]) -> int | None:
    """Classes of the training data; for a head, those that it has already or an assumption if they are unknown."""
    if spec.objective.name != "classification" or data.num_classes is not None:
        return data.num_classes
    if spec.objective.head == "keep":
        return len(read_classifier(Path(spec.model.name.removeprefix("local-dir:")), weights=False).class_names)
    notes.append(f"the number of classes is unknown: the head has {ASSUMED_CLASSES} outputs; give --num-classes")
    return ASSUMED_CLASSES


def _devices(spec: JobSpec, data: TrainingData, *, asked: int | None) -> tuple[int, int]:
    """Ranks, and the samples of each in a forward pass.

    Raises:
        UnusableSpecError: the global batch does not divide.
    """
    batch = spec.batch
    published = data.devices
    if published and check_divides(batch.global_size, batch.micro_size, published):
        published = None  # the batch is no longer the published one
    named = None if spec.parallel.devices == "auto" else spec.parallel.devices * spec.parallel.nodes
    devices = asked or named or published or spec.parallel.nodes
    if problem := check_divides(batch.global_size, batch.micro_size, devices):
        raise UnusableSpecError(problem.message)
    return devices, batch.global_size // devices if batch.micro_size == "auto" else batch.micro_size


def _data(spec: JobSpec, data: TrainingData) -> dict[str, Any]:
    return {
        "num_train": data.num_train,
        "num_classes": data.num_classes,
        "origin": data.origin,
        "samples_per_epoch": data.samples_per_epoch(spec),
        "image_template_rows": data.prompt_rows(spec),
    }


def _schedule(
    spec: JobSpec, steps_per_epoch: int | None, *, steps: Sequence[int] | None, notes: list[str]
) -> dict[str, Any]:
    described: dict[str, Any] = {"global_size": spec.batch.global_size, "peak_lr": peak_lr(spec)}
    names = ("total_steps", "warmup_steps", "lr_at", "weight_decay_at")
    described |= {"steps_per_epoch": steps_per_epoch, **dict.fromkeys(names)}
    if steps_per_epoch is None:
        source = spec.data.train
        missing = "" if source is None else f" (data.train.path {describe(source)!r} is not on this machine)"
        notes.append(f"the size of the training data is unknown{missing}: epochs have no steps yet; give --num-train")
        if _counts_epochs(spec.schedule):
            return described
    schedule = build_schedule(spec, steps_per_epoch=steps_per_epoch or 1)
    shown = _shown_steps(schedule) if steps is None else list(steps)
    beyond = [str(step) for step in shown if not 0 <= step < schedule.total_steps]
    if beyond:
        last = schedule.total_steps - 1
        raise UnusableSpecError(f"--lr-at: there is no step {', '.join(beyond)}; the job's are 0 to {last}")
    return described | {
        "total_steps": schedule.total_steps,
        "warmup_steps": schedule.warmup_steps,
        "lr_at": {str(step): schedule.lr_at(step) for step in shown},
        "weight_decay_at": {str(step): schedule.weight_decay_at(step) for step in shown},
    }


def _counts_epochs(schedule: ScheduleSpec) -> bool:
    return schedule.epochs is not None or schedule.warmup_epochs is not None or schedule.update == "epoch"


def _shown_steps(schedule: Schedule) -> list[int]:
    return sorted({0, max(0, schedule.warmup_steps - 1), schedule.total_steps - 1})


def _compute(
    spec: JobSpec,
    model: ClipModel | ClassifierModel,
    macs: Mapping[str, int],
    towers: Mapping[str, compute.Tower],
    *,
    accumulation: int,
) -> dict[str, Any]:
    shape = compute.vit_shape(model.module)
    counts: dict[str, int | None] = {
        "attune": macs["image"],
        "ft_clip": shape and compute.ft_clip_macs(shape),
        "mmpretrain": shape and compute.mmpretrain_macs(shape),
    }
    flops = compute.train_flops_per_image(list(towers.values()), spec=spec, accumulation=accumulation)
    return {
        "convention": "attune",
        "forward_macs_per_image": macs["image"],
        "forward_macs_per_text": macs.get("text"),
        "train_flops_per_image": flops,
        "towers": {name: asdict(tower) for name, tower in towers.items()},
        "conventions": {
            name: {"forward_macs_per_image": count, "counted": compute.COUNTED[name]} for name, count in counts.items()
        },
    }


def _towers(
    spec: JobSpec,
    model: ClipModel | ClassifierModel,
    macs: Mapping[str, int],
    *,
    num_classes: int | None,
    micro_size: int,
) -> dict[str, compute.Tower]:
    """The towers that a training image goes through, the teacher's among them."""
    image_trains, text_trains = _trains(model.module)
    image = compute.Tower(macs["image"], 1, image_trains)
    if isinstance(model, ClassifierModel):
        return {"image": image}
    objective = spec.objective
    texts = 1.0
    if _embeds_all_classes(spec):
        texts = (num_classes or ASSUMED_CLASSES) / micro_size
    towers = {"image": image, "text": compute.Tower(macs["text"], texts, text_trains)}
    if objective.name != "distillation":
        return towers
    teacher = _teacher(spec)
    taught = ("image", "text") if objective.towers == "both" else (objective.towers,)
    used = {name: tower for name, tower in towers.items() if name in taught or objective.contrastive_weight > 0}
    of_teacher = {"image": compute.image_macs(teacher), "text": compute.text_macs(teacher)}
    return used | {f"teacher_{name}": compute.Tower(of_teacher[name], 1, trains=False) for name in taught}


def _memory(
    spec: JobSpec,
    model: ClipModel | ClassifierModel,
    towers: Mapping[str, compute.Tower],
    *,
    devices: int,
    micro_size: int,
    parameters: Mapping[str, int],
) -> dict[str, Any]:
    """Memory of each device by ZeRO stage, and activations by micro-batch. Uses the model up."""
    image_size = model.preprocess.image_size
    used = [name for name in ("image", "text") if name in towers]
    kept = tower_activations(model, spec=spec, towers=used)
    fixed_texts = round(towers["text"].inputs_per_image * micro_size) if _embeds_all_classes(spec) else None

    def activations(size: int) -> int:
        texts = size if fixed_texts is None else fixed_texts
        return activation_bytes(kept, inputs={name: texts if name == "text" else size for name in used})

    trained, total = parameters["trainable"], parameters["total"]
    return {
        "unit": "bytes on each device",
        "devices": devices,
        "micro_size": micro_size,
        "precision": spec.parallel.precision,
        "zero_stage": spec.parallel.zero_stage,
        "image_size": image_size,
        "stages": memory_by_stage(
            spec,
            Load(
                trained=trained,
                frozen=total - trained,
                devices=devices,
                activations=activations(micro_size),
                inputs=input_bytes(spec, micro_size=micro_size, image_size=image_size),
                accumulation=spec.batch.global_size // (devices * micro_size),
            ),
        ),
        "activations": {str(size): activations(size) for size in _micro_sizes(spec.batch.global_size, micro_size)},
    }


def _micro_sizes(global_size: int, chosen: int) -> list[int]:
    """Sizes of micro-batches that the global batch divides into, and the one chosen; the largest first."""
    return sorted({chosen, *(size for size in range(1, global_size + 1) if global_size % size == 0)}, reverse=True)


def _embeds_all_classes(spec: JobSpec) -> bool:
    """Whether each micro-batch comes with the texts of all classes rather than with one for each image."""
    return getattr(spec.objective, "loss", None) == "cross_entropy"


def _teacher(spec: JobSpec) -> ClipModel:
    assert spec.objective.name == "distillation"
    alone = JobSpec(model=spec.objective.teacher, objective=ContrastiveObjective())
    teacher = build_structure(alone, num_classes=None)
    compute.without_looking_at_values(teacher.module)
    assert isinstance(teacher, ClipModel)
    return teacher


def _trains(module: nn.Module) -> tuple[bool, bool]:
    """Whether anything trains in the image tower or on it, and in what reads text."""
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    of_image = [name.startswith(("visual.", "image_head.", "trunk.", "head.")) for name in names]
    of_text = [
        not image and name not in ("logit_scale", "logit_bias") for name, image in zip(names, of_image, strict=True)
    ]
    return any(of_image), any(of_text)
