"""Runs on several nodes of an engine, whose processes stand in for training (`gang_worker.py`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from service.launchers.base import Run
from service.launchers.gang import NodeEnd
from service.launchers.processes import tagged
from trainer.job_dir import ExitRecord, JobDir

WORKER = Path(__file__).with_name("gang_worker.py")


def gang_command(run: Run) -> list[str]:
    """What each node runs."""
    return [sys.executable, str(WORKER), str(run.job_dir), str(run.attempt)]


@dataclass
class Gang:
    """One run and what its processes have left."""

    run: Run

    @property
    def attempt(self) -> Path:
        return JobDir(self.run.job_dir).attempt(self.run.attempt).path

    @property
    def exit(self) -> ExitRecord | None:
        return JobDir(self.run.job_dir).attempt(self.run.attempt).read_exit()

    def order(self, what: str) -> None:
        """Tell the workers something: `finish`, `deaf`, `fail-1`."""
        (self.run.job_dir / what).touch()

    def processes(self) -> list[psutil.Process]:
        """Its living processes on this machine: agents, launchers and ranks."""
        return [process for process, _ in tagged(f"{self.run.job_id}/{self.run.attempt}")]

    def is_here(self) -> bool:
        """Whether every node's rank has begun."""
        return all((self.attempt / f"here-{node}.json").exists() for node in range(len(self.run.placement)))

    def end_of(self, node: int) -> NodeEnd | None:
        path = self.attempt / "nodes" / f"{node}-end.json"
        return NodeEnd.model_validate_json(path.read_bytes()) if path.exists() else None


def wait_for(condition: Callable[[], Any], timeout_s: float = 120) -> Any:
    """Wait until `condition` is true; what it is then."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.1)
    return found
