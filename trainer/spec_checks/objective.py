"""Objectives against models and data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.spec_checks.problem import Problem

if TYPE_CHECKING:
    from trainer.spec import DataSource, JobSpec


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


CHECKS = (_objective,)
