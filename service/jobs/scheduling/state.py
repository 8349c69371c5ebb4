"""What planning starts from, and what it decides. Plain records: `plan` needs neither a database nor a clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from service.launchers.base import NodeShare, Placement

Why = Literal[
    "not_before", "more_than_there_is", "project_devices", "project_running_jobs", "more_than_the_quota", "stopping",
    "devices",
]  # fmt: skip
"""What a job waits for: its backoff; machines that are not there; its project's quotas; a quota that would never let
it run; runs that are stopping to make room; devices."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A queued job."""

    id: str
    project_id: str
    priority: int
    queue_order: float
    """Smaller goes first within its project and priority."""
    nodes: int = 1
    """Machines that it wants."""
    devices: int
    """Devices of each."""
    longest_s: float | None = None
    """Seconds after which its run ends at the latest; None: nobody knows."""
    not_before: float = 0.0
    room_made: bool = False
    """Whether runs were stopped for it, so that it goes before others of its priority."""

    @property
    def num_devices(self) -> int:
        """Devices in all."""
        return self.nodes * self.devices


@dataclass(frozen=True, kw_only=True)
class Running:
    """An attempt that holds devices."""

    job_id: str
    number: int
    project_id: str
    priority: int
    placement: Placement
    started_at: float
    preemptible: bool = True
    ends_at: float | None = None
    """When it is expected to end; None: nobody knows."""
    stopping: bool = False
    """Whether it was asked to stop, so that its devices come free soon."""

    @property
    def num_devices(self) -> int:
        """Devices in all."""
        return sum(len(share.devices) for share in self.placement)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a project may have, and has had."""

    weight: float = 1.0
    used: float = 0.0
    """Device-seconds, the recent ones; those of running attempts so far included."""
    max_devices: int | None = None
    max_running_jobs: int | None = None


@dataclass(frozen=True, kw_only=True)
class State:
    """All that a plan depends on."""

    now: float
    nodes: tuple[NodeShare, ...]
    """The machines and their devices, taken or not."""
    running: tuple[Running, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    projects: Mapping[str, Share] = field(default_factory=dict)
    """Of every project that a job belongs to."""


@dataclass(frozen=True)
class Grant:
    """A job that can start, and on what."""

    job_id: str
    placement: Placement


@dataclass(frozen=True)
class Preemption:
    """A run that is asked to save and stop, and for whom."""

    job_id: str
    number: int
    for_job: str


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Why a job does not start now."""

    job_id: str
    why: Why
    wanted: int
    """Devices in all."""
    free: int = 0
    """Devices that nobody has now."""
    limit: int | None = None
    """The quota."""
    behind: str | None = None
    """The job that devices are held for."""
    starts_at: float | None = None
    """When it is expected to start; None: nobody knows."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do now, and why not more."""

    order: tuple[str, ...] = ()
    """The waiting jobs, in the order in which they were looked at."""
    grants: tuple[Grant, ...] = ()
    preemptions: tuple[Preemption, ...] = ()
    waits: Mapping[str, Wait] = field(default_factory=dict)
    """Of every waiting job that was granted nothing, by its id."""

    @property
    def changes_anything(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.grants or self.preemptions)


Reason = Why | Literal["starting", "far_back"]
"""`starting`: it starts at the next turn; `far_back`: so many go before it that it was not looked at."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A job's place in the queue."""

    job_id: str
    project_id: str
    priority: int
    position: int
    """1 for the job that is looked at first, over all projects."""
    devices: int | None
    """Devices that it wants in all; None: `auto`, not settled yet."""
    reason: Reason
    message: str
    estimated_start: float | None = None
    """Unix seconds; None: nobody knows."""
