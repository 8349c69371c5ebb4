"""Gives devices to queued jobs: first come, first served, all devices of a job at once.

Strictly in order: while the first job waits for devices, none behind it starts, so a large job never starves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from service.launchers.base import Capacity, Placement, on_this_machine
from service.store.records import LOCAL_NODE, JobRecord
from trainer.spec import JobSpec
from trainer.spec_checks import check_divides, check_pairs


@dataclass(frozen=True)
class Grant:
    """A job that can start, and on what."""

    job: JobRecord
    placement: Placement


@dataclass(frozen=True)
class Refusal:
    """A job that this machine can never run."""

    job: JobRecord
    code: str
    param: str
    """The spec field at fault."""
    message: str


def plan(queue: Iterable[JobRecord], *, capacity: Capacity, taken: Iterable[tuple[str, int]]) -> list[Grant]:
    """Who starts now, and on what, when the devices `taken` are in use.

    `queue` is in order, without the jobs that `refuse` refuses: they would block it for ever.
    """
    used = set(taken)
    free = [device for device in capacity.devices if (LOCAL_NODE, device) not in used]
    grants = []
    for job in queue:
        wanted = devices_wanted(JobSpec.model_validate(job.spec), capacity)
        if wanted > len(free):
            break
        grants.append(Grant(job, on_this_machine(free[:wanted])))
        free = free[wanted:]
    return grants


def refuse(job: JobRecord, capacity: Capacity) -> Refusal | None:
    """Why this machine can never run a job, or None if it can."""
    try:
        spec = JobSpec.model_validate(job.spec)
    except ValidationError as error:  # stored by another version
        first = error.errors()[0]
        return Refusal(job, "bad_spec", ".".join(str(part) for part in first["loc"]), first["msg"])
    nodes, wanted, there = spec.parallel.nodes, devices_wanted(spec, capacity), capacity.count
    if nodes != 1:
        message = f"parallel.nodes is {nodes}, but this service runs jobs on one machine; use 1"
        return Refusal(job, "not_enough_devices", "parallel.nodes", message)
    if wanted > there:
        message = f"parallel.devices is {wanted}, but this machine has {describe(capacity)}; use at most {there}"
        return Refusal(job, "not_enough_devices", "parallel.devices", message)
    # `auto` is only settled here
    uneven = check_divides(spec.batch.global_size, spec.batch.micro_size, wanted) or check_pairs(spec, wanted)
    return None if uneven is None else Refusal(job, "bad_spec", uneven.field, uneven.message)


def devices_wanted(spec: JobSpec, capacity: Capacity) -> int:
    """Devices that a job wants: `auto` takes all GPUs of the machine, or one process without GPUs."""
    if spec.parallel.devices == "auto":
        return capacity.count if capacity.kind == "gpu" else 1
    return spec.parallel.devices


def describe(capacity: Capacity) -> str:
    """`4 GPUs`, or `no GPU and 2 CPU slots`."""
    return (
        _counted(capacity.count, "GPU")
        if capacity.kind == "gpu"
        else (f"no GPU and {_counted(capacity.count, 'CPU slot')}")
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
