"""`attune sweep`: what it shows without running anything, and a real sweep of two jobs that is run twice."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.job_dir import JobDir
from trainer.resolve import resolve

Attune = Callable[..., "subprocess.CompletedProcess[str]"]

MINE = """
summary: Two rates
recipe: flyp
set:
  model.name: attune-tiny-32
  batch.global_size: 4
  parallel: {devices: 1, precision: fp32}
  schedule: {max_steps: 2, warmup_steps: 0}
trials:
  - {set: {optim.lr: 0.001}, published: 75}
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE, encoding="utf-8")
    return path


def test_shipped_sweeps_are_listed(attune: Attune) -> None:
    sweeps = json.loads(attune("sweep", "list", "--json").stdout)

    assert {"itra-learning-rate", "itra-freezing", "flyp-few-shot-sst2"} <= {sweep["name"] for sweep in sweeps}


def test_a_sweep_is_shown_with_its_published_values(attune: Attune) -> None:
    shown = attune("sweep", "show", "itra-epochs").stdout

    assert "74.45" in shown
    assert "schedule.epochs=20" in shown
    assert "8 x RTX 2080 Ti" in shown


def test_a_plan_needs_no_data_and_lists_every_job(attune: Attune) -> None:
    planned = json.loads(attune("sweep", "plan", "flyp-few-shot-sst2", "--repeats", 2, "--json").stdout)

    assert [(job["trial"], job["seed"]) for job in planned["jobs"][:3]] == [
        ("shots-4", 0),
        ("shots-4", 1),
        ("shots-16", 0),
    ]
    assert planned["jobs"][2]["spec"]["batch"]["global_size"] == 32
    assert {job["state"] for job in planned["jobs"]} == {"to do"}


def test_unknown_sweeps_exit_4_and_name_near_ones(attune: Attune) -> None:
    ended = attune("sweep", "show", "itra-emma")

    assert ended.returncode == 4
    assert "Did you mean itra-ema" in ended.stderr


def test_a_run_without_data_is_refused_before_anything_starts(attune: Attune, tmp_path: Path) -> None:
    ended = attune("sweep", "run", "itra-learning-rate")

    assert ended.returncode == 2
    assert "name the training data" in ended.stderr
    assert not (tmp_path / "sweeps").exists()


def test_what_the_sweep_varies_cannot_be_set(attune: Attune, sweep_file: Path) -> None:
    ended = attune("sweep", "run", sweep_file, "--set", "optim.lr=1", "--set", "data.train=x")

    assert ended.returncode == 2
    assert "the sweep varies optim.lr" in ended.stderr


@pytest.mark.parametrize(
    ("more", "field"), [((), "data.validation"), (("--metric", "sketch/top1"), "data.evaluate.sketch")]
)
def test_a_metric_on_data_that_nobody_named_is_refused(
    attune: Attune, sweep_file: Path, more: tuple[str, ...], field: str
) -> None:
    ended = attune("sweep", "run", sweep_file, "--set", "data.train=x", *more)

    assert ended.returncode == 2
    assert f"name {field}" in ended.stderr


def test_another_sweep_in_the_folder_is_refused(attune: Attune, sweep_file: Path, tmp_path: Path) -> None:
    job = JobDir(tmp_path / "out" / "trials" / "lr=0.001" / "seed-0")
    job.path.mkdir(parents=True)
    job.spec.write_text(resolve(recipe="flyp", overrides=["data.train=/photos"]).model_dump_json())

    data = ("--set", "data.train=/other", "--set", "data.validation=/other")
    ended = attune("sweep", "run", sweep_file, *data, "--output", "out")

    assert ended.returncode == 2
    assert "give this sweep another --output" in ended.stderr


@pytest.mark.slow
@pytest.mark.nightly
def test_seeds_are_averaged_and_finished_jobs_are_not_run_again(
    attune: Attune, sweep_file: Path, two_class_folder: Path, tmp_path: Path
) -> None:
    data = ("--set", f"data.train={two_class_folder}", "--set", f"data.validation={two_class_folder}")
    command = ("sweep", "run", sweep_file, *data, "--repeats", 2, "--output", "out", "--json")
    ended = attune(*command, timeout_s=300)

    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads(ended.stdout)["table"]
    runs = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    values = [run["metrics"]["validation/top1"] for run in runs]
    assert [run["seed"] for run in runs] == [0, 1]
    assert (row["runs"], row["published"]) == (2, 0.75)
    assert row["validation/top1"] == pytest.approx(sum(values) / 2)
    assert row["validation/top1 std"] is not None

    again = attune(*command)
    assert json.loads(again.stdout)["table"] == [row]
    jobs = sorted((tmp_path / "out" / "trials" / "lr=0.001").iterdir())
    assert [len(JobDir(path).attempts()) for path in jobs] == [1, 1]
