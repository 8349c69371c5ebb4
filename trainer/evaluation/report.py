"""What an evaluation found, as a record, as JSON and as one table for Markdown and terminals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Task = Literal["zero_shot", "classification", "retrieval"]
MAIN_METRIC: dict[Task, str] = {"zero_shot": "top1", "classification": "top1", "retrieval": "mean_recall"}


@dataclass(frozen=True)
class Result:
    """One data set's result. Metrics are fractions from 0 to 1."""

    dataset: str
    task: Task
    num_samples: int
    """Images that counted."""
    metrics: dict[str, float]
    per_class: list[dict[str, Any]] = field(default_factory=list)
    """For classification a row a class: name, num_samples, accuracy (None without samples)."""

    @property
    def main_metric(self) -> float:
        """The metric that ranks models on this task."""
        return self.metrics[MAIN_METRIC[self.task]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Table:
    """Column heads and rows of text, for Markdown or a terminal."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """A pipe table; numbers to the right."""
        rule = ["---", *("---:" for _ in self.columns[1:])]
        lines = [self.columns, rule, *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def metrics_table(results: Sequence[Result]) -> Table:
    """A row a data set and metric, in percent."""
    rows = [
        (result.dataset, result.task, metric, _percent(value), str(result.num_samples))
        for result in results
        for metric, value in result.metrics.items()
    ]
    return Table(("data set", "task", "metric", "%", "images"), tuple(rows))


def per_class_table(result: Result) -> Table:
    """A row a class, in percent; classes without samples show a dash."""
    rows = [(row["name"], _percent(row["accuracy"]), str(row["num_samples"])) for row in result.per_class]
    return Table(("class", "top-1 %", "images"), tuple(rows))


def flat_metrics(results: Sequence[Result]) -> dict[str, float]:
    """`DATASET/METRIC` -> value, as checkpoints and model cards name them."""
    return {f"{result.dataset}/{metric}": value for result in results for metric, value in result.metrics.items()}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
