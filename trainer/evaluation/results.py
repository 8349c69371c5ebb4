"""What an evaluation found, as a record and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.evaluation.tables import Column, Table
from trainer.spec_checks.metrics import METRICS, Task, shown

if TYPE_CHECKING:
    from trainer.evaluation.outcomes import Outcomes

MAIN_METRIC: dict[Task, str] = {
    "zero_shot": "top1",
    "classification": "top1",
    "retrieval": "mean_recall",
    "linear_probe": "linear_probe_top1",
    "knn": "knn_top1",
}


@dataclass(frozen=True)
class Result:
    """One data set's result on one task. Metrics are fractions from 0 to 1, but for the cross-entropy in nats."""

    dataset: str
    task: Task
    num_samples: int
    """Images that counted."""
    metrics: dict[str, float]
    per_class: list[dict[str, Any]] = field(default_factory=list)
    """For classification a row a class: name, num_samples, accuracy (None without samples)."""
    per_domain: list[dict[str, Any]] = field(default_factory=list)
    """For classification of data with domains a row a domain that has images: name, num_samples, accuracy."""
    outcomes: Outcomes | None = field(default=None, compare=False, repr=False)
    """What became of each image, for reports; not part of the record."""
    class_names: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Names by the class numbers of `outcomes`."""

    @property
    def main_metric(self) -> float:
        """The metric that ranks models on this task."""
        return self.metrics[MAIN_METRIC[self.task]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        names = ("dataset", "task", "num_samples", "metrics", "per_class", "per_domain")
        return {name: getattr(self, name) for name in names}


def metrics_table(results: Sequence[Result]) -> Table:
    """A row a data set and task, a column a metric; fractions in percent where people read."""
    values = [by_column(result) for result in results]
    names = [name for name in METRICS if any(name in own for own in values)]
    columns = (Column("data set"), Column("task"), Column("images", "integer"), *map(metric_column, names))
    rows = [
        (result.dataset, result.task, result.num_samples, *(own.get(name) for name in names))
        for result, own in zip(results, values, strict=True)
    ]
    return Table(columns, tuple(rows))


def by_column(result: Result) -> dict[str, float]:
    """The metrics by the name that they have where the task is told beside them: top1 for linear_probe_top1."""
    return {name.removeprefix(f"{result.task}_"): value for name, value in result.metrics.items()}


def metric_column(name: str) -> Column:
    """The column of a metric."""
    return Column(name, METRICS[name].kind, 2 if METRICS[name].kind == "fraction" else 4)


def long_table(results: Sequence[Result]) -> Table:
    """A row a data set, task and metric: what fits a terminal however many metrics there are."""
    rows = [
        (result.dataset, result.task, metric, shown(metric, value), result.num_samples)
        for result in results
        for metric, value in result.metrics.items()
    ]
    columns = (Column("data set"), Column("task"), Column("metric"), Column("value"), Column("images", "integer"))
    return Table(columns, tuple(rows))


def per_class_table(result: Result) -> Table:
    """A row a class; classes without samples have no accuracy."""
    rows = [(row["name"], row["accuracy"], row["num_samples"]) for row in result.per_class]
    columns = (Column("class"), Column("top-1", "fraction"), Column("images", "integer"))
    return Table(columns, tuple(rows), title=f"{result.dataset}: {result.task} by class")


def per_domain_table(result: Result) -> Table:
    """A row a domain."""
    rows = [(row["name"], row["accuracy"], row["num_samples"]) for row in result.per_domain]
    columns = (Column("domain"), Column("top-1", "fraction"), Column("images", "integer"))
    return Table(columns, tuple(rows), title=f"{result.dataset}: {result.task} by domain")


def flat_metrics(results: Sequence[Result]) -> dict[str, float]:
    """`DATASET/METRIC` -> value, as checkpoints and model cards name them."""
    return {f"{result.dataset}/{metric}": value for result in results for metric, value in result.metrics.items()}
