import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer.job_dir import CheckpointName, ExitRecord, JobDir, write_json_atomically


def test_checkpoints_are_ordered_by_step_then_attempt(tmp_path):
    job = JobDir(tmp_path)
    for name in ("step-9-attempt-1", "step-10-attempt-1", "step-9-attempt-2", ".step-11-attempt-1.partial", "step-x"):
        (job.checkpoints / name).mkdir(parents=True)
    assert [str(n) for n in job.published_checkpoints()] == [
        "step-9-attempt-1",
        "step-9-attempt-2",
        "step-10-attempt-1",
    ]


def test_names_parse_only_if_whole():
    assert CheckpointName.parse("step-40-attempt-2") == CheckpointName(40, 2)
    assert CheckpointName.parse("step-40-attempt-2.partial") is None


def test_attempts_are_listed_in_order(tmp_path):
    for name in ("0010", "0002", "notes"):
        (tmp_path / "attempts" / name).mkdir(parents=True)
    assert [attempt.number for attempt in JobDir(tmp_path).attempts()] == [2, 10]


def test_an_exit_record_is_there_or_not(tmp_path):
    attempt = JobDir(tmp_path).attempt(1)
    assert attempt.read_exit() is None
    record = ExitRecord(status="failed", reason="disk_full", message="no room", step=3, time=1.0)
    write_json_atomically(attempt.exit, record)
    assert attempt.read_exit() == record
    assert [p.name for p in attempt.path.iterdir()] == ["exit.json"]


def test_writers_of_one_file_do_not_meddle(tmp_path: Path) -> None:
    path, values = tmp_path / "x.json", [{"writer": i, "filling": "x" * 20_000} for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: [write_json_atomically(path, value) for _ in range(10)], values))
    assert json.loads(path.read_text()) in values
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json_atomically(tmp_path / "x.json", {})
    assert list(tmp_path.iterdir()) == []


def test_an_exit_is_read_without_asking_whether_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS may answer that question from what it remembers."""
    paths = JobDir(tmp_path).attempt(1)
    assert paths.read_exit() is None
    write_json_atomically(paths.exit, ExitRecord(status="succeeded", reason="finished", message="", step=1, time=1.0))
    monkeypatch.setattr(Path, "exists", lambda path: False)
    assert paths.read_exit() is not None
