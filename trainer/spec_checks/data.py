"""Data, templates and augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer import prompts
from trainer.spec.sources import lacks_labels
from trainer.spec_checks.problem import Problem

if TYPE_CHECKING:
    from trainer.spec import JobSpec


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


def _long_texts(spec: JobSpec) -> Iterator[Problem]:
    if spec.data.long_texts == "refuse" and spec.objective.name == "classification":
        message = "`classification` trains on no texts, and the prompts that its head may begin with are not counted"
        yield Problem("data.long_texts", "refuse", f"{message}; leave it at `truncate`")


def _mixing(spec: JobSpec) -> Iterator[Problem]:
    augmentation = spec.data.augmentation
    is_on = {name: getattr(augmentation, name) > 0 for name in ("mixup", "cutmix")}
    for name, wanted in is_on.items():
        if wanted and spec.objective.name != "classification":
            message = f"images are mixed with their targets for `classification` only, not for `{spec.objective.name}`"
            yield Problem(f"data.augmentation.{name}", getattr(augmentation, name), message)
    needed = {"mix_probability": any(is_on.values()), "mix_switch_probability": all(is_on.values())}
    for name, has_effect in needed.items():
        value = getattr(augmentation, name)
        if not has_effect and value != type(augmentation).model_fields[name].default:
            wanted = "mixup or cutmix is" if name == "mix_probability" else "mixup and cutmix both are"
            yield Problem(f"data.augmentation.{name}", value, f"has no effect unless {wanted} above 0")


def _shots(spec: JobSpec) -> Iterator[Problem]:
    shots, train = spec.data.shots, spec.data.train
    if shots is None or train is None:
        return
    if lacks_labels(train):
        field = "label_column" if train.format == "csv" else "format"
        message = "few-shot training counts images by class; name the column that holds it, or take data with classes"
        yield Problem(f"data.train.{field}", getattr(train, field), message)
    if train.format != "mixture" and train.limit_per_class is not None and train.limit_per_class < shots:
        message = f"data.shots {shots} is more than the {train.limit_per_class} images a class of limit_per_class"
        yield Problem("data.shots", shots, message)


def _episodes(spec: JobSpec) -> Iterator[Problem]:
    size, global_size = spec.data.episode_size, spec.batch.global_size
    if size is None:
        if "itra-episode-rows" in spec.compat:
            message = "`itra-episode-rows` concerns episodes only; set data.episode_size"
            yield Problem("compat", list(spec.compat), message)
        return
    if not spec.data.shuffle:
        message = "an episode is drawn at random, and data.shuffle is off; leave one of both out"
        yield Problem("data.episode_size", size, message)
    if size < global_size:
        message = f"data.episode_size {size} does not fill one batch of {global_size} (batch.global_size)"
        yield Problem("data.episode_size", size, message)


CHECKS = (_data, _long_texts, _mixing, _shots, _episodes)
