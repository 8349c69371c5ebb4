"""What an engine that runs attempts must do. The database stays the truth; an engine only runs and watches."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True)
class Capacity:
    """The devices that an engine has."""

    kind: Literal["gpu", "cpu"]
    """`cpu`: a device is room for one process."""
    devices: tuple[int, ...]
    """Their numbers; for GPUs, CUDA's, in PCI bus order."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt, as an engine knows it."""

    job_id: str
    attempt: int
    job_dir: Path
    devices: tuple[int, ...]
    resume: bool = False
    worker_pids: tuple[int, ...] = ()
    """The ranks, once they have named themselves."""
    workers_seen_at: float | None = None
    """When they did, in Unix seconds."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that no other can be mistaken for."""

    pid: int
    created_at: float
    """Unix seconds."""


@dataclass(frozen=True)
class RunState:
    """What is left of a run."""

    leader: ProcessIdentity | None
    """The process that was started first, dead or alive; None if none ever was."""
    leader_alive: bool
    alive: bool
    """Whether any of its processes lives."""


class LaunchError(Exception):
    """An attempt could not be started; the text says why."""


class Launcher(Protocol):
    """An engine."""

    def capacity(self) -> Capacity:
        """The devices there are, taken or not."""

    def submit(self, run: Run) -> ProcessIdentity:
        """Start a run and return its first process.

        Raises:
            LaunchError: it cannot be started.
        """

    def poll(self, run: Run) -> RunState:
        """Look at a run, which another instance of the engine may have started."""

    def signal(self, run: Run, number: signal.Signals) -> None:
        """SIGKILL goes to every process of the run; others to those that know what to do with it."""

    def list(self) -> Sequence[str]:
        """`JOB/ATTEMPT` of every run that has a living process on this engine, whoever started it."""
