"""What a sweep came to: each trial's mean and standard deviation over its seeds, as one table. Imports no torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.evaluation.tables import Cell, Column, Table
from trainer.events import Exported, read_events
from trainer.job_dir import JobDir, write_json_atomically
from trainer.recipes.sweeps.sweep import PlannedRun, Sweep, Trial


@dataclass(frozen=True)
class FinishedRun:
    """One job of a sweep that has succeeded."""

    trial: str
    seed: int
    metrics: dict[str, float]
    """`DATASET/METRIC` of the exported weights."""


def finished_run(job: JobDir, run: PlannedRun) -> FinishedRun | None:
    """What `run` reached, or None unless its job has succeeded."""
    attempts = job.attempts()
    ended = attempts[-1].read_exit() if attempts else None
    if ended is None or ended.status != "succeeded":
        return None
    written, _ = read_events(attempts[-1].events)
    exports = [event for event in written if isinstance(event, Exported)]
    return FinishedRun(run.trial.folder_name, run.seed, exports[-1].metrics if exports else {})


def sweep_table(sweep: Sweep, finished: Sequence[FinishedRun], *, metrics: Sequence[str] = ()) -> Table:
    """A row a trial: what it sets, the published value, its runs, and mean and standard deviation of each metric.

    Args:
        sweep: the sweep.
        finished: the runs there are; a trial without one has an empty row.
        metrics: `DATASET/METRIC` to show; by default the sweep's own.
    """
    shown = tuple(metrics) or (sweep.metric,)
    columns = [Column("trial"), *(Column(field) for field in _simple_fields(sweep)), Column("published", "fraction")]
    columns.append(Column("runs", "integer"))
    for metric in shown:
        kind = _kind(metric)
        columns += [Column(metric, kind), Column(f"{metric} std", kind)]
    rows = tuple(_row(trial, sweep, finished, shown) for trial in sweep.all_trials())
    return Table(tuple(columns), rows, title=sweep.summary)


def write_results(folder: Path, sweep: Sweep, finished: Sequence[FinishedRun], *, table: Table) -> None:
    """Write `results.json` (the table and every run), `results.csv` and `results.md` into `folder`."""
    runs = [{"trial": run.trial, "seed": run.seed, "metrics": run.metrics} for run in finished]
    about = {"summary": sweep.summary, "source": sweep.source, "recipe": sweep.recipe, "metric": sweep.metric}
    write_json_atomically(folder / "results.json", {**about, "table": table.to_json(), "runs": runs})
    (folder / "results.csv").write_text(table.to_csv(), encoding="utf-8")
    source = f"\nPublished values: {sweep.source}\n" if sweep.source else ""
    (folder / "results.md").write_text(f"# {sweep.summary}\n\n{table.to_markdown()}\n{source}", encoding="utf-8")


def _row(trial: Trial, sweep: Sweep, finished: Sequence[FinishedRun], metrics: Sequence[str]) -> tuple[Cell, ...]:
    runs = [run for run in finished if run.trial == trial.folder_name]
    settings = [str(trial.set[field]) if field in trial.set else None for field in _simple_fields(sweep)]
    published = None if trial.published is None else trial.published / 100
    cells: list[Cell] = [trial.folder_name, *settings, published, len(runs)]
    for metric in metrics:
        cells += _mean_and_deviation([run.metrics[metric] for run in runs if metric in run.metrics])
    return tuple(cells)


def _mean_and_deviation(values: Sequence[float]) -> tuple[Cell, Cell]:
    """Mean and sample standard deviation (n - 1); None where there are too few values."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _kind(metric: str) -> Any:
    return "number" if metric.endswith("/cross_entropy") else "fraction"


def _simple_fields(sweep: Sweep) -> list[str]:
    """The varied fields that fit into a cell; lists and sections are what a trial's name stands for."""
    values = {field: [t.set[field] for t in sweep.all_trials() if field in t.set] for field in sweep.varied()}
    return [field for field, given in values.items() if not any(isinstance(v, list | dict) for v in given)]
