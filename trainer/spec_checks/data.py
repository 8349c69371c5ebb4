"""Data, templates and augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer import prompts
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


CHECKS = (_data,)
