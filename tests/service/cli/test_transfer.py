from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cli import transfer

Attune = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.slow
@pytest.mark.nightly
def test_fine_tuning_trains_a_job_a_domain_once(
    attune: Attune, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("schedule.max_steps=2", "parallel.precision=fp32", "evaluation.before_training=false")
    changes = [word for override in overrides for word in ("--set", override)]
    asked = ("--mode", "fine-tune", "--models", "tiny=attune-tiny-32", "--domains", "heldout", *changes)
    ended = attune("transfer", digits, *asked, "--output", "out", "--json", timeout_s=400)

    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads(ended.stdout)["tables"]["results"]
    assert row["backbone"] == "tiny"
    assert 0 <= row["heldout"] == row["mean"] <= 1
    assert (tmp_path / "out" / "results.png").is_file()

    def train_again(**_: object) -> int:
        raise AssertionError("the job has succeeded already")

    monkeypatch.setattr("service.cli.train.train", train_again)
    assert transfer._train_all(tmp_path / "out" / "jobs.json", json=False) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--mode", "ze"), "--mode is 'ze'; allowed: zero-shot, features, fine-tune"),
        (("--precision", "int1"), "--precision is 'int1'; allowed: fp32, amp_bf16"),
        (("--set", "optim.lr=1"), "--set: only --mode fine-tune takes it"),
        (("--mode", "fine-tune", "--held-out", "0.5"), "--held-out is 0.5; give a share above 0 and below 0.5"),
    ],
)
def test_wrong_options_exit_2_before_anything_is_loaded(attune: Attune, options: tuple[str, ...], says: str) -> None:
    ended = attune("transfer", "folder", "--output", "out", *options)

    assert ended.returncode == 2
    assert says in ended.stderr
