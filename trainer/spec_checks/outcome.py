"""Checkpoints, evaluation and export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.spec_checks.problem import Problem

if TYPE_CHECKING:
    from trainer.spec import JobSpec


METRICS = (
    "top1",
    "top5",
    "mean_per_class",
    *(f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
    "mean_recall",
)
"""What evaluation measures: accuracies of classification, recalls of retrieval."""


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


def _export(spec: JobSpec) -> Iterator[Problem]:
    if spec.export.weights == "ema" and spec.optim.ema_decay is None:
        yield Problem("export.weights", "ema", "there is no moving average to export unless optim.ema_decay is set")


CHECKS = (_metric, _export)
