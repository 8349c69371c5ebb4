"""What an engine that runs attempts must do. The database stays the truth; an engine only runs and watches."""

from __future__ import annotations

import errno
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from service.store.records import LOCAL_NODE


@dataclass(frozen=True)
class NodeShare:
    """Devices of one machine."""

    node: str
    """The machine, as the engine calls it; `local` for the one that the service runs on."""
    devices: tuple[int, ...]
    """Their numbers; for GPUs, CUDA's, in PCI bus order."""


Placement = tuple[NodeShare, ...]
"""Where a run has its devices: a share a machine, in rank order."""


def on_this_machine(devices: Sequence[int]) -> Placement:
    """Devices of the machine that the service runs on."""
    return (NodeShare(LOCAL_NODE, tuple(devices)),) if devices else ()


@dataclass(frozen=True)
class Capacity:
    """The devices that an engine has now, taken or not."""

    kind: Literal["gpu", "cpu"]
    """`cpu`: a device is room for one process."""
    nodes: tuple[NodeShare, ...]
    """What each machine has. A machine that is lost is not listed."""
    may_grow: bool = False
    """Whether machines come and go, so that a job too large for those of now may wait rather than fail."""
    note: str = ""
    """What else there is to say to people, such as how much waits in the engine's own queue."""
    problem: str | None = None
    """Why the engine cannot be reached; there are no `nodes` then."""

    @classmethod
    def of_this_machine(cls, kind: Literal["gpu", "cpu"], devices: Sequence[int]) -> Self:
        """The capacity of an engine that is one machine."""
        return cls(kind, on_this_machine(devices))

    @property
    def count(self) -> int:
        """Devices of all machines."""
        return sum(len(node.devices) for node in self.nodes)

    @property
    def devices(self) -> tuple[int, ...]:
        """The devices of the one machine that there is.

        Raises:
            ValueError: there are several.
        """
        return _only(self.nodes)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt, as an engine knows it."""

    job_id: str
    attempt: int
    job_dir: Path
    placement: Placement
    resume: bool = False
    engine_ref: Mapping[str, Any] | None = None
    """What `submit` left for finding it again."""
    worker_pids: tuple[int, ...] = ()
    """The ranks, once they have named themselves."""
    workers_seen_at: float | None = None
    """When they did, in Unix seconds."""

    @property
    def devices(self) -> tuple[int, ...]:
        """The devices of a run on one machine.

        Raises:
            ValueError: it runs on several.
        """
        return _only(self.placement)

    @property
    def world_size(self) -> int:
        """Ranks: one a device."""
        return sum(len(share.devices) for share in self.placement)


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that no other can be mistaken for."""

    pid: int
    created_at: float
    """Unix seconds."""
    start: str | None = field(default=None, compare=False)
    """When it started, by no clock that can be set; None where that is not known."""


@dataclass(frozen=True)
class Submitted:
    """How a run that was just started is found again."""

    leader: ProcessIdentity | None = None
    """Its first process, where that is on this machine."""
    engine_ref: Mapping[str, Any] | None = None
    """What `Run.engine_ref` will hold: actor names, a Slurm job id."""


LostReason = Literal["node_lost", "engine_lost"]


@dataclass(frozen=True)
class RunState:
    """What is left of a run."""

    leader: ProcessIdentity | None
    """The process that was started first, dead or alive; None if none ever was."""
    leader_alive: bool
    alive: bool
    """Whether any of its processes lives."""
    lost: LostReason | None = None
    """Why nothing more can be learnt of it: a machine of it is gone, or the engine does not know it any more."""
    started: bool | None = None
    """Whether it was ever started; None where a leader tells."""

    @property
    def was_started(self) -> bool:
        """Whether it must not be started again."""
        return self.leader is not None if self.started is None else self.started


NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a disk or quota that is full."""
PASSING = NO_SPACE | {
    errno.EAGAIN, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip
"""Error numbers of what may be over in a while: too many processes or open files, a file server that is away."""


class LaunchError(Exception):
    """An attempt could not be started; the text says why."""


class EngineUnavailable(Exception):
    """The engine does not answer just now; whatever was asked of it may be asked again. The text says why."""


class EngineRefused(Exception):
    """The engine must not be used as it is set up; the text says why and what to do."""


class Launcher(Protocol):
    """An engine."""

    name: str
    """`local`, `ray` or `slurm`."""
    shared: bool
    """Whether every replica of the service reaches all of its runs; otherwise only those on its own machine do."""

    def capacity(self) -> Capacity:
        """The devices there are, taken or not."""

    def submit(self, run: Run) -> Submitted:
        """Start a run.

        Raises:
            LaunchError: it cannot be started.
            EngineUnavailable: it may have been started or not; `poll` tells.
        """

    def poll(self, run: Run) -> RunState:
        """Look at a run, which another instance of the engine may have started.

        Raises:
            EngineUnavailable: nothing can be learnt of it now.
        """

    def signal(self, run: Run, number: signal.Signals) -> None:
        """SIGKILL goes to every process of the run; others to those that know what to do with it."""

    def list(self) -> Sequence[str]:
        """`JOB/ATTEMPT` of every run that has a living process on this engine, whoever started it."""

    def close(self) -> None:
        """Let go of the engine; what runs on it runs on."""


def _only(shares: tuple[NodeShare, ...]) -> tuple[int, ...]:
    if len(shares) > 1:
        raise ValueError(f"devices of {len(shares)} machines are no plain list of numbers")
    return shares[0].devices if shares else ()
