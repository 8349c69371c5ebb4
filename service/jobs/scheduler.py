"""Gives devices to queued jobs: first come, first served, all devices of a job at once.

Strictly in order: while the first job waits for devices, none behind it starts, so a large job never starves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from service.launchers.base import Capacity
from service.store.records import JobRecord
from trainer.spec_checks import check_divides


@dataclass(frozen=True)
class Grant:
    """A job that can start, and on what."""

    job: JobRecord
    devices: tuple[int, ...]


@dataclass(frozen=True)
class Refusal:
    """A job that this machine can never run."""

    job: JobRecord
    code: str
    param: str
    """The spec field at fault."""
    message: str


@dataclass(frozen=True)
class Plan:
    """What to do with the queue now."""

    grants: list[Grant]
    refusals: list[Refusal]


def plan(queue: Iterable[JobRecord], *, capacity: Capacity, taken: Iterable[int]) -> Plan:
    """Decide for the jobs of `queue`, oldest first, when the devices `taken` are in use."""
    free = sorted(set(capacity.devices) - set(taken))
    grants, refusals = [], []
    waiting = False
    for job in queue:
        refusal = refuse(job, capacity)
        if refusal is not None:
            refusals.append(refusal)
            continue
        wanted = devices_wanted(job.spec, capacity)
        waiting = waiting or wanted > len(free)
        if not waiting:
            grants.append(Grant(job, tuple(free[:wanted])))
            free = free[wanted:]
    return Plan(grants, refusals)


def refuse(job: JobRecord, capacity: Capacity) -> Refusal | None:
    """Why this machine can never run a job, or None if it can."""
    parallel = job.spec["parallel"]
    if parallel["nodes"] != 1:
        message = f"parallel.nodes is {parallel['nodes']}, but this service runs jobs on one machine; use 1"
        return Refusal(job, "not_enough_devices", "parallel.nodes", message)
    wanted, there = devices_wanted(job.spec, capacity), capacity.devices
    if wanted > len(there):
        message = f"parallel.devices is {wanted}, but this machine has {describe(capacity)}; use at most {len(there)}"
        return Refusal(job, "not_enough_devices", "parallel.devices", message)
    batch = job.spec["batch"]
    uneven = check_divides(batch["global_size"], batch["micro_size"], wanted)  # `auto` is only settled here
    return None if uneven is None else Refusal(job, "bad_spec", uneven.field, uneven.message)


def devices_wanted(spec: dict[str, Any], capacity: Capacity) -> int:
    """Devices that a job spec wants: `auto` takes all GPUs of the machine, or one process without GPUs."""
    wanted = spec["parallel"]["devices"]
    if wanted == "auto":
        return len(capacity.devices) if capacity.kind == "gpu" else 1
    return int(wanted)


def describe(capacity: Capacity) -> str:
    """`4 GPUs`, or `no GPU and 2 CPU slots`."""
    return (
        _counted(len(capacity.devices), "GPU")
        if capacity.kind == "gpu"
        else (f"no GPU and {_counted(len(capacity.devices), 'CPU slot')}")
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
