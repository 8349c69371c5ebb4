"""Objectives against models and data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.catalogue import architectures
from trainer.spec.sources import lacks_captions, lacks_labels
from trainer.spec_checks.problem import Problem

if TYPE_CHECKING:
    from trainer.spec import AnySource, DataSource, DistillationObjective, JobSpec, ModelSpec

SIZE_FREE_LOSSES = ("rkd", "compress_2q")
"""Distillation losses for which teacher and student embeddings may differ in size."""

_LOSS_OPTIONS = {
    "temperature": ("dino", "proto_cpc", "seed", "compress_1q", "compress_2q"),
    "student_temperature": ("dino", "proto_cpc", "seed"),
    "queue_size": ("seed", "compress_1q", "compress_2q"),
    "num_prototypes": ("dino", "proto_cpc"),
    "rkd_distance_weight": ("rkd",),
    "rkd_angle_weight": ("rkd",),
}
"""By field of the distillation objective: the losses that it is for."""


def problem_without_text_tower(spec: JobSpec) -> Problem | None:
    """What a model without a text tower, such as timm's, cannot be trained for."""
    name = spec.model.name
    if spec.objective.name != "classification":
        allowed = "only `classification` can train it"
        message = f"{name!r} is an image model in timm's layout, without a text tower; {allowed}"
        return Problem("objective.name", spec.objective.name, message)
    if spec.objective.head == "zero_shot":
        message = f"{name!r} has no text tower to build a head from; use `fresh` or `probe`, or `keep` a trained one"
        return Problem("objective.head", "zero_shot", message)
    return None


def embedding_size(model: ModelSpec) -> int | None:
    """The width of a model's shared space as far as its name or folder tells, or None."""
    for head in (model.image.head, model.text.head):
        if head is not None and head.output_size is not None:
            return head.output_size
    kind, _, folder = model.name.partition(":")
    if kind == "local-dir":
        config = Path(folder) / "open_clip_config.json"
        if not config.is_file():
            return None
        size = json.loads(config.read_text(encoding="utf-8")).get("model_cfg", {}).get("embed_dim")
        return size if isinstance(size, int) else None
    known = architectures().get(model.name.partition("/")[0])
    return None if known is None else known.embed_dim


def _towers(spec: JobSpec) -> Iterator[Problem]:
    if spec.model.name.startswith("timm/") and (problem := problem_without_text_tower(spec)):
        yield problem


def _captions(spec: JobSpec) -> Iterator[Problem]:
    objective, train = spec.objective, spec.data.train
    if train is None or objective.name != "contrastive" or objective.loss == "cross_entropy":
        return
    for field, member in _members("data.train", train):
        if not lacks_captions(member):
            continue
        if member.format == "csv":
            yield Problem(f"{field}.caption_column", None, "`contrastive` needs a caption for each image")
            continue
        message = f"`contrastive` needs a caption for each image, and the format {member.format!r} has none; use"
        message += " `class_prompts`, or data with captions"
        if train.format == "mixture":
            yield Problem(f"{field}.format", member.format, message)
        else:
            yield Problem("objective.name", objective.name, message)


def _members(field: str, source: AnySource) -> Iterator[tuple[str, DataSource]]:
    """The source, or the members of a mixture, each with its field."""
    if source.format != "mixture":
        yield field, source
        return
    for number, member in enumerate(source.sources):
        yield f"{field}.sources.{number}", member


def _classes(spec: JobSpec) -> Iterator[Problem]:
    objective = spec.objective
    for field, source in _sources(spec):
        training = field == "data.train"
        needed = objective.name == "classification" or (training and _trains_on_classes(spec))
        for place, member in _members(field, source) if needed else ():
            if not lacks_labels(member):
                continue
            wanted = f"`{objective.name}`" + (" with this loss" if objective.name == "contrastive" else "")
            message = f"the objective {wanted} needs a class for each image"
            if member.format == "csv":
                yield Problem(f"{place}.label_column", None, f"{message}; name the column that holds it")
            else:
                yield Problem(f"{place}.format", member.format, f"{message}, and captions are all that is there")


def _trains_on_classes(spec: JobSpec) -> bool:
    objective, train = spec.objective, spec.data.train
    if objective.name == "contrastive":
        return objective.loss == "cross_entropy"
    if objective.name == "distillation":
        needs_texts = objective.towers != "image" or objective.contrastive_weight > 0
        return needs_texts and train is not None and lacks_captions(train)
    return True


def _pairs(spec: JobSpec) -> Iterator[Problem]:
    objective = spec.objective
    if objective.name not in ("contrastive", "class_prompts"):
        return
    if objective.loss == "cross_entropy":
        reason = "`cross_entropy` compares with the texts of all classes, not with the rest of the batch"
        for name in ("same_class", "feature_cache"):
            value = getattr(objective, name)
            if value != type(objective).model_fields[name].default:
                yield Problem(f"objective.{name}", value, f"{reason}; leave it at its default")
    scale, limit = objective.initial_logit_scale, objective.max_logit_scale
    if scale is not None and limit is not None and scale > limit:
        message = f"objective.initial_logit_scale {scale:g} is above objective.max_logit_scale {limit:g}"
        yield Problem("objective.initial_logit_scale", scale, message)


def _distillation(spec: JobSpec) -> Iterator[Problem]:
    objective = spec.objective
    if objective.name != "distillation":
        return
    if objective.teacher.name.startswith("timm/"):
        message = f"the teacher must be an image-text model, and {objective.teacher.name!r} has no text tower"
        yield Problem("objective.teacher.name", objective.teacher.name, message)
    yield from _embedding_sizes(spec.model, objective)
    for name, losses in _LOSS_OPTIONS.items():
        value = getattr(objective, name)
        if objective.loss not in losses and value != type(objective).model_fields[name].default:
            message = f"is for {', '.join(losses)}, not for the loss {objective.loss!r}; leave it at its default"
            yield Problem(f"objective.{name}", value, f"objective.{name} {message}")
    yield from _lone_samples(spec, objective.loss)
    if objective.loss == "rkd" and objective.rkd_distance_weight == 0 == objective.rkd_angle_weight:
        message = "rkd_distance_weight and rkd_angle_weight are both 0; give at least one a weight"
        yield Problem("objective.rkd_distance_weight", 0, message)


def _lone_samples(spec: JobSpec, loss: str) -> Iterator[Problem]:
    """A forward pass of one sample, where a loss compares samples: on each device, or on all together."""
    batch, parallel = spec.batch, spec.parallel
    devices = None if parallel.devices == "auto" else parallel.devices * parallel.nodes
    if batch.global_size == 1:
        devices = 1
    micro_size = batch.micro_size
    if micro_size == "auto" and devices is not None:
        micro_size = batch.global_size // devices
    field = "batch.global_size" if batch.micro_size == "auto" else "batch.micro_size"
    value = batch.global_size if batch.micro_size == "auto" else batch.micro_size
    if loss == "rkd" and micro_size == 1:
        message = "`rkd` compares the samples of a device's micro-batch, and there is one in each; make it 2 or more"
        yield Problem(field, value, message)
    elif loss == "vicreg" and micro_size == devices == 1:
        message = "`vicreg` measures how samples vary over all devices, and there is one in each forward pass"
        yield Problem(field, value, f"{message}; make it 2 or more")


def _embedding_sizes(student: ModelSpec, objective: DistillationObjective) -> Iterator[Problem]:
    sizes = embedding_size(student), embedding_size(objective.teacher)
    if None in sizes or sizes[0] == sizes[1] or objective.loss in SIZE_FREE_LOSSES:
        return
    message = (
        f"the teacher's embeddings have size {sizes[1]}, the student's {sizes[0]}; the loss {objective.loss!r} needs "
        f"the same size, only {' and '.join(SIZE_FREE_LOSSES)} do not"
    )
    yield Problem("objective.teacher.name", objective.teacher.name, message)


def _sources(spec: JobSpec) -> Iterator[tuple[str, AnySource]]:
    """Spec field and source of each data set."""
    if spec.data.train is not None:
        yield "data.train", spec.data.train
    if spec.data.validation is not None:
        yield "data.validation", spec.data.validation
    for name, source in spec.data.evaluate.items():
        yield f"data.evaluate.{name}", source


def _probe(spec: JobSpec) -> Iterator[Problem]:
    """Settings of a probe that would change nothing."""
    objective = spec.objective
    if objective.name != "classification":
        return
    settings = objective.probe
    changed = {name: getattr(settings, name) for name in sorted(settings.model_fields_set)}
    defaults = {name: field.default for name, field in type(settings).model_fields.items()}
    for name, value in changed.items():
        if value == defaults[name]:
            continue
        if objective.head != "probe":
            message = f"there is no probe with objective.head {objective.head!r}; use `probe`, or leave this out"
            yield Problem(f"objective.probe.{name}", value, message)
        elif name == "held_out" and spec.data.validation is not None:
            message = "the strength is chosen on data.validation, and nothing of the training data is held out"
            yield Problem("objective.probe.held_out", value, f"{message}; leave this out")


CHECKS = (_towers, _captions, _classes, _pairs, _distillation, _probe)
