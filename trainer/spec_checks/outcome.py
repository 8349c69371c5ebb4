"""Checkpoints, evaluation and export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.spec.sources import lacks_labels
from trainer.spec_checks.metrics import METRICS, Task
from trainer.spec_checks.problem import Problem

if TYPE_CHECKING:
    from trainer.spec import JobSpec


_FREQUENCIES: dict[Task, str] = {
    "zero_shot": "zero_shot_every",
    "retrieval": "retrieval_every",
    "linear_probe": "linear_probe_every",
}
"""The field of `evaluation` that says how often a task is measured; a classifier's own is measured each time."""


def tasks_in_training(spec: JobSpec) -> tuple[Task, ...]:
    """What a job with this objective can be measured by while it trains."""
    if spec.objective.name == "classification":
        return "classification", "linear_probe"
    return "zero_shot", "retrieval", "linear_probe"


def _metric(spec: JobSpec) -> Iterator[Problem]:
    metric = spec.checkpoint.metric
    if metric is None:
        return
    held_out = [*(["validation"] if spec.data.validation is not None else []), *spec.data.evaluate]
    measured_by = tasks_in_training(spec)
    names = [name for name, of in METRICS.items() if set(of.tasks) & set(measured_by)]
    dataset, _, name = metric.partition("/")
    # A recipe names its metric before there are data, so the data set counts once there is something to train on.
    measured = dataset in held_out or (spec.data.train is None and dataset == "validation")
    if not measured or name not in names:
        sets = " or ".join(held_out) or "a held-out data set, of which there is none"
        message = f"{metric!r} is not DATASET/METRIC with {sets}, and one of {', '.join(names)}"
        yield Problem("checkpoint.metric", metric, message)


def _ranking_is_measured(spec: JobSpec) -> Iterator[Problem]:
    """The metric that ranks checkpoints must be there whenever one is saved."""
    task = _ranking_task(spec)
    if task not in _FREQUENCIES:
        return
    field = _FREQUENCIES[task]
    every = getattr(spec.evaluation, field)
    metric = spec.checkpoint.metric or f"the default for these data, which {task} measures,"
    if every == 0:
        yield Problem(f"evaluation.{field}", 0, f"checkpoints are ranked by {metric} and so it must be at least 1")
    elif every > 1 and not _saves_only_where_measured(spec, every=every):
        message = (
            f"checkpoints are ranked by {metric} and would be saved where it is not measured; use 1, or set"
            f" checkpoint.every_steps to a multiple of {every} x evaluation.every_steps"
        )
        yield Problem(f"evaluation.{field}", every, message)


def _ranking_task(spec: JobSpec) -> Task | None:
    if spec.checkpoint.metric is not None:
        named = METRICS.get(spec.checkpoint.metric.rpartition("/")[2])
        return next((task for task in tasks_in_training(spec) if named and task in named.tasks), None)
    if spec.data.validation is None or spec.objective.name == "classification":
        return None
    return "retrieval" if lacks_labels(spec.data.validation) else "zero_shot"


def _saves_only_where_measured(spec: JobSpec, *, every: int) -> bool:
    evaluating = spec.evaluation.every_steps or spec.checkpoint.every_steps
    saving = spec.checkpoint.every_steps or spec.evaluation.every_steps
    return evaluating is not None and saving is not None and saving % (every * evaluating) == 0


def _frequencies(spec: JobSpec) -> Iterator[Problem]:
    """A frequency of something that is never measured."""
    evaluation = spec.evaluation
    if spec.objective.name == "classification":
        for field in ("zero_shot_every", "retrieval_every"):
            if getattr(evaluation, field) != 1:
                message = "the classification objective is measured by its own classes; leave it at 1"
                yield Problem(f"evaluation.{field}", getattr(evaluation, field), message)
    if not evaluation.linear_probe_every or spec.data.train is None:
        return
    held_out = [*([spec.data.validation] if spec.data.validation else []), *spec.data.evaluate.values()]
    if lacks_labels(spec.data.train):
        message = "a linear probe learns from the training data's labels; data.train has none (label_column)"
        yield Problem("evaluation.linear_probe_every", evaluation.linear_probe_every, message)
    elif not any(not lacks_labels(source) for source in held_out):
        message = "a linear probe is measured on labelled data; give data.validation or data.evaluate, with labels"
        yield Problem("evaluation.linear_probe_every", evaluation.linear_probe_every, message)


def _export(spec: JobSpec) -> Iterator[Problem]:
    if spec.export.weights == "ema" and spec.optim.ema_decay is None:
        yield Problem("export.weights", "ema", "there is no moving average to export unless optim.ema_decay is set")
    elif spec.export.weights == "ema" and not spec.evaluation.ema and (spec.data.validation or spec.data.evaluate):
        message = (
            "export.weights `ema` ranks checkpoints by the moving average and exports its metrics, so it must be"
            " evaluated; leave it at true"
        )
        yield Problem("evaluation.ema", False, message)


def _wise_ft(spec: JobSpec) -> Iterator[Problem]:
    settings, data = spec.export.wise_ft, spec.data
    if settings is None or data.train is None:  # a recipe has no data yet
        return
    if settings.alpha == "best" and data.validation is None and spec.checkpoint.metric is None:
        message = "nothing says which point is best; give data.validation, or checkpoint.metric on one of data.evaluate"
        yield Problem("export.wise_ft.alpha", "best", message)
    default = type(settings).model_fields["alphas"].default
    if settings.alphas != default and data.validation is None and not data.evaluate:
        message = (
            "there is nothing to measure these points on; give data.validation or data.evaluate, or leave them out"
        )
        yield Problem("export.wise_ft.alphas", list(settings.alphas), message)


CHECKS = (_metric, _ranking_is_measured, _frequencies, _export, _wise_ft)
