"""What a sweep came to: read from job folders, as a table and as files."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest

from trainer.events import EventWriter, Exported
from trainer.job_dir import ExitRecord, JobDir, write_json_atomically
from trainer.recipes.sweeps import (
    FinishedRun,
    Sweep,
    Trial,
    expand,
    find_sweep,
    finished_run,
    sweep_table,
    write_results,
)

SWEEP = Sweep(
    summary="Rates",
    source="a table",
    recipe="flyp",
    metric="validation/top1",
    trials=(Trial(set={"optim.lr": 1e-4}, published=81.5), Trial(set={"optim.lr": 1e-5})),
)


def end(job: JobDir, *, status: str, metrics: dict[str, float]) -> None:
    """Leave what a worker leaves at its end."""
    attempt = job.attempt(len(job.attempts()) + 1)
    attempt.path.mkdir(parents=True)
    EventWriter(attempt.events).write(
        Exported(checkpoint="step-1-attempt-1", weights="raw", task="clip", metrics=metrics)
    )
    record = ExitRecord(status=status, reason="completed", message="done", step=1, time=0.0)
    write_json_atomically(attempt.exit, record)


def runs_of(trial: str, *values: float) -> list[FinishedRun]:
    return [FinishedRun(trial, seed, {"validation/top1": value}) for seed, value in enumerate(values)]


def test_only_jobs_that_succeeded_are_finished(tmp_path: Path) -> None:
    run, _ = expand(SWEEP, runnable=False)
    job = JobDir(tmp_path / "job")
    assert finished_run(job, run) is None

    end(job, status="failed", metrics={})
    assert finished_run(job, run) is None

    end(job, status="succeeded", metrics={"validation/top1": 0.5})
    assert finished_run(job, run) == FinishedRun("lr=0.0001", 0, {"validation/top1": 0.5})


def test_rows_hold_mean_and_sample_deviation() -> None:
    values = (0.5, 0.75, 0.7)
    first, second = sweep_table(SWEEP, runs_of("lr=0.0001", *values)).to_json()

    assert first["optim.lr"] == "0.0001"
    assert first["published"] == pytest.approx(0.815)
    assert first["runs"] == 3
    assert first["validation/top1"] == pytest.approx(sum(values) / 3)
    assert first["validation/top1 std"] == pytest.approx(statistics.stdev(values))
    assert (second["runs"], second["validation/top1"], second["published"]) == (0, None, None)


def test_one_run_has_no_deviation() -> None:
    first, _ = sweep_table(SWEEP, runs_of("lr=0.0001", 0.5)).to_json()

    assert (first["validation/top1"], first["validation/top1 std"]) == (0.5, None)


def test_other_metrics_can_be_asked_for() -> None:
    run = FinishedRun("lr=1e-05", 0, {"sketch/top1": 0.25, "validation/cross_entropy": 1.5})
    table = sweep_table(SWEEP, [run], metrics=["sketch/top1", "validation/cross_entropy"])

    assert table.to_json()[1]["sketch/top1"] == 0.25
    assert "150.00" not in table.to_markdown()
    assert "1.50" in table.to_markdown()


def test_sections_and_lists_are_left_to_the_trials_name() -> None:
    columns = [column.name for column in sweep_table(find_sweep("itra-freezing"), []).columns]

    assert columns[:2] == ["trial", "model.image.lock"]
    assert "model.text" not in columns


def test_files_hold_the_same_table(tmp_path: Path) -> None:
    finished = runs_of("lr=0.0001", 0.5, 0.75)
    table = sweep_table(SWEEP, finished)
    write_results(tmp_path, SWEEP, finished, table=table)
    document = json.loads((tmp_path / "results.json").read_text())
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))

    assert document["table"] == table.to_json()
    assert [run["metrics"]["validation/top1"] for run in document["runs"]] == [0.5, 0.75]
    assert float(rows[0]["validation/top1"]) == 0.625
    assert "| lr=0.0001 | 0.0001 | 81.50 | 2 | 62.50 | 17.68 |" in (tmp_path / "results.md").read_text()
