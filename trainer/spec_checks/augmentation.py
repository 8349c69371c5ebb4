"""Augmentation of training images, but for mixing, which `trainer.spec_checks.data` checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.spec_checks.problem import Problem

if TYPE_CHECKING:
    from trainer.spec import JobSpec


def _ranges(spec: JobSpec) -> Iterator[Problem]:
    augmentation = spec.data.augmentation
    ranges = {name: getattr(augmentation, name) for name in ("crop_scale", "crop_ratio")}
    if augmentation.blur is not None:
        ranges["blur.sigma"] = augmentation.blur.sigma
    for name, (low, high) in ranges.items():
        if low > high or low <= 0:
            yield Problem(f"data.augmentation.{name}", [low, high], "give the smallest first, above 0")


def _simple_crop(spec: JobSpec) -> Iterator[Problem]:
    augmentation = spec.data.augmentation
    for name in ("crop_scale", "crop_ratio") if augmentation.crop == "simple" else ():
        value, default = getattr(augmentation, name), type(augmentation).model_fields[name].default
        if value != default:
            message = "the simple crop keeps the image's scale and ratio; leave it out, or set crop to `resized`"
            yield Problem(f"data.augmentation.{name}", list(value), message)


def _policies(spec: JobSpec) -> Iterator[Problem]:
    augmentation = spec.data.augmentation
    if augmentation.three_augment and augmentation.rand_augment is not None:
        message = "3-Augment and RandAugment are two policies for the same place; choose one"
        yield Problem("data.augmentation.three_augment", True, message)


CHECKS = (_ranges, _simple_crop, _policies)
