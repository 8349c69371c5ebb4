"""The devices of all machines during one plan: free, coming free, promised, or held for a job that needs many.

Backfilling follows EASY (Lifka 1995, https://doi.org/10.1007/3-540-60153-8_35): the first job that does not fit gets a
reservation, and a later one may start only where it does not put that off: on other machines, on devices that are left
over once the first has started, or if it ends before then. A later job that nobody knows the end of, on machines whose
runs nobody knows the end of, starts nowhere near a reservation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from service.jobs.scheduling.state import Running, State, Waiting
from service.launchers.base import NodeShare, Placement


@dataclass
class Hold:
    """The reservation."""

    starts_at: float
    """When the job that it is for can start; infinite if nobody knows."""
    spare: dict[str, int]
    """By machine of the reservation: devices that this job will not need."""


class Board:
    """Counts devices down as a plan gives them out."""

    def __init__(self, state: State) -> None:
        self._now = state.now
        self._total = {node.node: len(node.devices) for node in state.nodes}
        taken = {(s.node, d) for run in state.running for s in run.placement for d in s.devices}
        self._free = {n.node: [d for d in sorted(n.devices) if (n.node, d) not in taken] for n in state.nodes}
        self._stopping = dict.fromkeys(self._total, 0)
        self._ends: dict[str, list[tuple[float, int]]] = {name: [] for name in self._total}
        for run in state.running:
            self._count_run(run.placement, state.now if run.stopping else _end(run))
            if run.stopping:
                self._count_stopping(run.placement)
        self.hold: Hold | None = None

    @property
    def num_free(self) -> int:
        """Devices that nobody has."""
        return sum(map(len, self._free.values()))

    def could_host(self, job: Waiting) -> bool:
        """Whether the machines have enough devices, taken or not."""
        return sum(total >= job.devices for total in self._total.values()) >= job.nodes

    def fit(self, job: Waiting) -> Placement | None:
        """Where a job can start now without putting off the reservation, or None. Nothing is given yet."""
        room = {name: self._room(name, job) for name in self._free}
        fitting = sorted((name for name in room if room[name] >= job.devices), key=lambda name: room[name])
        if len(fitting) < job.nodes:
            return None
        chosen = sorted(fitting[: job.nodes])  # the fullest, to keep others whole
        return tuple(NodeShare(name, tuple(self._free[name][: job.devices])) for name in chosen)

    def give(self, job: Waiting, placement: Placement) -> None:
        """Devices found by `fit` are the job's now."""
        for share in placement:
            if self.hold is not None and not self._ends_in_time(job):
                self._use_spare(share.node, len(share.devices))
            self._free[share.node] = [d for d in self._free[share.node] if d not in share.devices]
        self._count_run(placement, self._end_of(job))

    def missing(self, job: Waiting) -> dict[str, int]:
        """By machine that is not reserved and has enough devices: how many more would have to stop, perhaps 0."""
        held = self.hold.spare if self.hold is not None else {}
        return {
            name: max(0, job.devices - len(self._free[name]) - self._stopping[name])
            for name, total in self._total.items()
            if name not in held and total >= job.devices
        }

    def promise(self, job: Waiting, nodes: list[str]) -> None:
        """Keep devices of these machines for a job that starts as soon as what stops there has stopped."""
        for name in nodes:
            from_stopping = min(self._stopping[name], job.devices)
            self._stopping[name] -= from_stopping
            del self._free[name][: job.devices - from_stopping]
            self._ends[name] += [(self._now, -from_stopping), (self._end_of(job), job.devices)]

    def will_stop(self, run: Running) -> None:
        """A run's devices come free soon."""
        for share in run.placement:
            if share.node in self._ends:
                self._ends[share.node].remove((max(_end(run), self._now), len(share.devices)))
        self._count_run(run.placement, self._now)
        self._count_stopping(run.placement)

    def reserve(self, job: Waiting) -> None:
        """Hold the machines on which a job that does not fit can start first."""
        ready = {name: self._ready(name, job.devices) for name, total in self._total.items() if total >= job.devices}
        soonest = sorted(ready, key=lambda name: (ready[name][0], -min(len(self._free[name]), job.devices), name))
        chosen = soonest[: job.nodes]
        starts_at = max(ready[name][0] for name in chosen)
        spare = {name: 0 if math.isinf(starts_at) else self._spare_at(name, starts_at, job.devices) for name in chosen}
        self.hold = Hold(starts_at, spare)

    def _room(self, name: str, job: Waiting) -> int:
        free = len(self._free[name])
        if self.hold is None or name not in self.hold.spare or self._ends_in_time(job):
            return free
        return min(free, self.hold.spare[name])

    def _ends_in_time(self, job: Waiting) -> bool:
        assert self.hold is not None
        return math.isfinite(self.hold.starts_at) and self._end_of(job) <= self.hold.starts_at

    def _end_of(self, job: Waiting) -> float:
        return math.inf if job.longest_s is None else self._now + job.longest_s

    def _use_spare(self, name: str, num_devices: int) -> None:
        assert self.hold is not None
        if name in self.hold.spare:
            self.hold.spare[name] -= num_devices

    def _count_run(self, placement: Placement, ends_at: float) -> None:
        for share in placement:
            if share.node in self._ends:  # or else the machine is lost
                self._ends[share.node].append((max(ends_at, self._now), len(share.devices)))

    def _count_stopping(self, placement: Placement) -> None:
        for share in placement:
            if share.node in self._stopping:
                self._stopping[share.node] += len(share.devices)

    def _ready(self, name: str, wanted: int) -> tuple[float, int]:
        """When a machine has `wanted` devices free, and how many it then has."""
        free, at = len(self._free[name]), self._now
        for end, num_devices in sorted(self._ends[name]):
            if free >= wanted:
                break
            free, at = free + num_devices, end
        return (at, free) if free >= wanted else (math.inf, free)

    def _spare_at(self, name: str, time: float, wanted: int) -> int:
        free = len(self._free[name]) + sum(num for end, num in self._ends[name] if end <= time)
        return max(0, free - wanted)


def _end(run: Running) -> float:
    return math.inf if run.ends_at is None else run.ends_at
