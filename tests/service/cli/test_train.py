"""`attune train`: refusals before anything starts, and a real two-process run that is interrupted and resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.job_dir import JobDir
from trainer.resolve import resolve

Attune = Callable[..., "subprocess.CompletedProcess[str]"]
StartAttune = Callable[..., "subprocess.Popen[str]"]

SMALL = [
    *("--recipe", "flyp", "--set", "model.name=attune-tiny-32", "--set", "batch.global_size=8"),
    *("--set", "parallel={devices: 2, zero_stage: 2, precision: fp32}", "--set", "schedule.warmup_steps=0"),
]


def test_bad_spec_exits_2_with_every_problem(attune: Attune) -> None:
    ended = attune("train", "--recipe", "flyp", "--set", "data.train=x", "--set", "optim.lr=-1", "--set", "optim.lrr=1")

    assert ended.returncode == 2
    assert "optim.lr: Input should be greater than 0, got -1" in ended.stderr
    assert "Did you mean lr" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_spec_and_no_job_is_a_usage_error(attune: Attune) -> None:
    ended = attune("train", "--job-dir", "nothing-here")

    assert ended.returncode == 2
    assert "give --spec, --recipe or --set" in ended.stderr


def test_missing_deepspeed_config_is_a_usage_error(attune: Attune) -> None:
    ended = attune("train", "--recipe", "flyp", "--set", "data.train=x", "--deepspeed_config", "none.json")

    assert ended.returncode == 2
    assert "none.json" in ended.stderr


def test_another_spec_in_the_folder_is_refused(attune: Attune, tmp_path: Path) -> None:
    job = tmp_path / "job"
    job.mkdir()
    (job / "spec.json").write_text(resolve(recipe="flyp", overrides=["data.train=/photos"]).model_dump_json())

    ended = attune("train", "--recipe", "flyp", "--set", "data.train=/other", "--job-dir", job)

    assert ended.returncode == 2
    assert "another spec" in ended.stderr


def test_checkpoints_are_not_trained_over_without_resume(attune: Attune, tmp_path: Path) -> None:
    job = tmp_path / "job"
    (job / "checkpoints" / "step-4-attempt-1").mkdir(parents=True)
    (job / "spec.json").write_text(resolve(recipe="flyp", overrides=["data.train=/photos"]).model_dump_json())

    ended = attune("train", "--job-dir", job)

    assert ended.returncode == 2
    assert "--resume" in ended.stderr


def test_a_batch_that_does_not_divide_is_refused(attune: Attune) -> None:
    ended = attune("train", *SMALL, "--set", "data.train=x", "--set", "batch.global_size=9")

    assert ended.returncode == 2
    assert "use 8 or 10" in ended.stderr


def test_a_refused_job_leaves_no_folder(attune: Attune, tmp_path: Path) -> None:
    given = ("--set", "data.train=x", "--set", "parallel.nodes=2", "--job-dir", "job")

    assert attune("train", *SMALL, *given).returncode == 2
    assert not (tmp_path / "job").exists()


def test_several_nodes_need_deepspeeds_own_launcher(attune: Attune) -> None:
    ended = attune("train", *SMALL, "--set", "data.train=x", "--set", "parallel.nodes=2")

    assert ended.returncode == 2
    assert "parallel.nodes is 2" in ended.stderr


@pytest.mark.slow
def test_missing_data_exits_2_and_names_the_folder(attune: Attune, tmp_path: Path) -> None:
    ended = attune("train", *SMALL, "--set", f"data.train={tmp_path}/nowhere", timeout_s=300)

    assert ended.returncode == 2
    assert f"{tmp_path}/nowhere" in ended.stderr


@pytest.mark.slow
def test_trains_to_an_export(attune: Attune, two_class_folder: Path, tmp_path: Path) -> None:
    data = ("--set", f"data.train={two_class_folder}", "--set", "schedule.max_steps=3")
    ended = attune("train", *SMALL, *data, "--job-dir", "job", "--json", timeout_s=180)

    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["exit"]["status"] == "succeeded"
    assert answer["exit"]["step"] == 3
    assert (tmp_path / "job" / "export" / "open_clip_model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.nightly
def test_ctrl_c_saves_and_resume_goes_on(
    attune: Attune, start_attune: StartAttune, two_class_folder: Path, tmp_path: Path
) -> None:
    job = JobDir(tmp_path / "job")
    data = ("--set", f"data.train={two_class_folder}", "--set", "schedule.max_steps=4000")
    checkpoints = ("--set", "checkpoint.every_steps=4000", "--set", "evaluation.every_steps=4000")
    running = start_attune("train", *SMALL, *data, *checkpoints, "--set", "log_every_steps=1", "--job-dir", job.path)
    wait_for(lambda: '"type":"step"' in events_text(job), timeout_s=300)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=90)

    assert running.returncode == 75, errors
    assert "attune train --resume --job-dir" in errors
    stopped_at = job.attempt(1).read_exit()
    assert stopped_at is not None
    assert stopped_at.status == "interrupted"
    assert [name.step for name in job.published_checkpoints()] == [stopped_at.step]

    resumed = start_attune("train", "--resume", "--job-dir", job.path)
    wait_for(lambda: job.attempt(2).start.exists(), timeout_s=300)
    resumed.send_signal(signal.SIGTERM)
    resumed.communicate(timeout=90)

    assert json.loads(job.attempt(2).start.read_text())["step"] == stopped_at.step
    assert resumed.returncode == 75


def events_text(job: JobDir) -> str:
    path = job.attempt(1).events
    return path.read_text() if path.exists() else ""


def wait_for(condition: Callable[[], bool], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
