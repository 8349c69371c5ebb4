"""What a sweep came to: a row a trial, for programs and as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.schemas.sweeps import BestTrial, Sweep, SweepCounts, SweepCreate, SweepResult, SweepResults
from service.store.records import SweepRecord, SweepTrialRecord
from service.store.store import Store
from service.sweeps.space import num_trials
from service.sweeps.suggesting import goal_of
from trainer.evaluation.tables import Cell, Column, Table
from trainer.spec_checks.metrics import metric_named


def shown(store: Store, record: SweepRecord) -> Sweep:
    """A sweep as it is sent, with its best trial."""
    trials = store.sweeps.trials(record.id)
    ranked = _ranked(record.request["metric"], trials)
    best = None
    if ranked:
        first = ranked[0]
        assert first.value is not None
        best = BestTrial(number=first.number, job_id=first.job_id, value=first.value, parameters=first.parameters)
    return _sweep(record, store.sweeps.count_trials([record.id])[record.id], best)


def listed(store: Store, records: Sequence[SweepRecord]) -> list[Sweep]:
    """Sweeps as they are sent in lists."""
    counts = store.sweeps.count_trials([record.id for record in records])
    return [_sweep(record, counts[record.id], None) for record in records]


def results(store: Store, record: SweepRecord) -> SweepResults:
    """A row a trial, by number."""
    metric = record.request["metric"]
    trials = store.sweeps.trials(record.id)
    ranks = {trial.number: rank for rank, trial in enumerate(_ranked(metric, trials), start=1)}
    rows = [_row(store, trial, ranks.get(trial.number)) for trial in trials]
    return SweepResults(sweep_id=record.id, metric=metric, goal=goal_of(metric), data=rows)


def as_table(found: SweepResults) -> Table:
    """The results with a column for each setting."""
    fields = list(dict.fromkeys(field for row in found.data for field in row.parameters))
    columns = [Column("trial", "integer"), Column("status"), *(Column(field) for field in fields)]
    columns += [Column(found.metric, metric_named(found.metric).kind, 4), Column("rank", "integer")]
    columns += [Column("step", "integer"), Column("runtime_s", "number", 1), Column("job_id")]
    columns += [Column("fine_tuned_model"), Column("note")]
    return Table(tuple(columns), tuple(_cells(row, fields) for row in found.data))


def _cells(row: SweepResult, fields: Sequence[str]) -> tuple[Cell, ...]:
    settings = [str(row.parameters[field]) if field in row.parameters else None for field in fields]
    found = [row.value, row.rank, row.step, row.runtime_s, row.job_id, row.fine_tuned_model, row.note]
    return (row.trial, row.status, *settings, *found)


def _row(store: Store, trial: SweepTrialRecord, rank: int | None) -> SweepResult:
    job = None if trial.job_id is None else store.jobs.get(trial.job_id)
    detail: dict[str, Any] = trial.detail or {}
    return SweepResult(
        trial=trial.number,
        status=trial.status,
        job_id=trial.job_id,
        value=trial.value,
        rank=rank,
        step=detail.get("step"),
        runtime_s=None if job is None else job.runtime_s,
        fine_tuned_model=None if job is None else job.fine_tuned_model,
        note=detail.get("note"),
        parameters=trial.parameters,
    )


def _ranked(metric: str, trials: Sequence[SweepTrialRecord]) -> list[SweepTrialRecord]:
    """Trials that have a value, the best first, and the earliest of equals."""
    merit = metric_named(metric).merit
    valued = [(merit(trial.value), trial) for trial in trials if trial.value is not None]
    return [trial for _, trial in sorted(valued, key=lambda pair: (-pair[0], pair[1].number))]


def _sweep(record: SweepRecord, counts: dict[str, int], best: BestTrial | None) -> Sweep:
    request = SweepCreate.model_validate(record.request)
    total = SweepCounts(total=num_trials(request), **counts)
    return Sweep.from_record(record, counts=total, goal=goal_of(request.metric), best=best)
