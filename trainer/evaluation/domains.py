"""Several domains of one task: in distribution, on each shifted domain, the mean of the shifted and the gap to it.

The mean of the shifted top1 is what FLYP calls the average OOD accuracy: every shifted data set counts once, however
many images it has, and the one in distribution does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trainer.evaluation.results import MAIN_METRIC, Result, by_column, metric_column
from trainer.evaluation.tables import Cell, Column, Table
from trainer.spec_checks.metrics import Task


def shift_table(results: Sequence[Result], *, in_distribution: str, task: Task) -> Table:
    """All metrics of one task, a column each.

    Raises:
        ValueError: the results of the task are not of `in_distribution` and at least one other data set.
    """
    values = {result.dataset: by_column(result) for result in results if result.task == task}
    title = f"{task}: in distribution against shifted"
    return _table(values, in_distribution=in_distribution, column=metric_column, title=title)


def shift_summary(results: Sequence[Result], *, in_distribution: str) -> Table:
    """The main metric of each task that has been measured on all the domains, a column a task.

    Raises:
        ValueError: there is no such task.
    """
    tasks = [task for task in dict.fromkeys(r.task for r in results) if in_distribution in by_domain(results, task)]
    domains = list(dict.fromkeys(r.dataset for r in results))
    full = {task: of for task in tasks if len(of := by_domain(results, task)) == len(domains)}
    values = {name: {task: of[name] for task, of in full.items()} for name in domains}

    def column(task: str) -> Column:
        return Column(task, "fraction")

    title = "Main metrics, in distribution against shifted"
    return _table(values if full else {}, in_distribution=in_distribution, column=column, title=title)


def by_domain(results: Sequence[Result], task: Task) -> dict[str, float]:
    """The task's main metric of each data set, in their order."""
    return {result.dataset: result.metrics[MAIN_METRIC[task]] for result in results if result.task == task}


def _table(
    values: Mapping[str, Mapping[str, float]], *, in_distribution: str, column: Callable[[str], Column], title: str
) -> Table:
    """Of values by domain and column: the domain in distribution first, mean and gap last."""
    shifted = {name: of for name, of in values.items() if name != in_distribution}
    if in_distribution not in values or not shifted:
        raise ValueError(f"there must be results of {in_distribution!r} and of another data set, got {list(values)}")
    own = values[in_distribution]
    mean = {name: sum(of[name] for of in shifted.values()) / len(shifted) for name in own}
    gap = {name: own[name] - mean[name] for name in own}
    rows: list[tuple[Cell, ...]] = [
        (in_distribution, "in distribution", *own.values()),
        *((name, "shifted", *of.values()) for name, of in shifted.items()),
        ("all shifted", "mean", *mean.values()),
        (f"{in_distribution} - mean", "gap", *gap.values()),
    ]
    return Table((Column("domain"), Column("kind"), *map(column, own)), tuple(rows), title)
