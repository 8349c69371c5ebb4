"""What the kernel does to a process that needs more memory than its group may have."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.jobs.log_tail import LastWords, last_words
from service.jobs.memory import with_kernels_word
from service.launchers import memory_kills as module
from service.launchers.memory_kills import memory_kills
from service.launchers.processes import LaunchRecord
from trainer.job_dir import write_json_atomically

FIRST_GROUPS = Path("/sys/fs/cgroup/memory")
LOG = "[2026-11-21 09:18:43,368] [ERROR] [launch.py:259:sigkill_handler] ['python'] exits with return code = {code}\n"
GREEDY = """
import os, sys
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
bytearray(64 * 2**20)
"""


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of 16 MiB."""
    group = FIRST_GROUPS / f"attune-test-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(16 * 2**20))
    except OSError as error:
        pytest.skip(f"this machine does not let its user make a control group of version 1: {error}")
    yield group
    group.rmdir()


def words(tmp_path: Path, *, code: int, kills_before: int | None) -> LastWords:
    log, record = tmp_path / "worker.log", tmp_path / "launch.json"
    log.write_text(LOG.format(code=code))
    write_json_atomically(record, LaunchRecord(pid=1, created_at=0.0, memory_kills=kills_before))
    return with_kernels_word(last_words(log), launch_record=record)


def test_a_process_that_the_kernel_kills_for_memory_is_told_from_one_that_a_person_kills(
    tmp_path: Path, small_group: Path
) -> None:
    before = memory_kills()
    assert before is not None
    assert "signal 9" in words(tmp_path, code=-9, kills_before=before).sentence
    killed = subprocess.run([sys.executable, "-c", GREEDY, str(small_group)])
    assert killed.returncode == -9
    assert memory_kills() == before + 1
    assert words(tmp_path, code=-9, kills_before=before).sentence.endswith("killed a process for lack of memory")
    assert "signal 11" in words(tmp_path, code=-11, kills_before=before).sentence


def test_nothing_is_said_of_what_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "signal 9" in words(tmp_path, code=-9, kills_before=None).sentence
    monkeypatch.setattr(module, "_MACHINE", tmp_path / "none")
    monkeypatch.setattr(module, "_GROUPS", tmp_path)
    assert memory_kills() is None


def test_a_groups_own_count_goes_before_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").write_text("9:name=systemd:/\n0::/jobs/a\n")
    (tmp_path / "jobs/a").mkdir(parents=True)
    (tmp_path / "jobs/a/memory.events").write_text("low 0\noom 4\noom_kill 3\noom_group_kill 1\n")
    monkeypatch.setattr(module, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(module, "_GROUPS", tmp_path)
    assert memory_kills() == 3
