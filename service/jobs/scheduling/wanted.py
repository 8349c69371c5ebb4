"""From a spec to the devices that it wants, and what an engine can never run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from pydantic import ValidationError

from service.launchers.base import Capacity
from service.store.records import JobRecord
from trainer.errors import UnusableSpecError
from trainer.spec import JobSpec
from trainer.spec_checks import check_divides
from trainer.spec_checks.batch_split import settle_batch


@dataclass(frozen=True)
class Refusal:
    """A job that these machines can never run."""

    job: JobRecord
    code: str
    param: str
    """The spec field at fault."""
    message: str


class Columns(TypedDict):
    """What planning needs of a spec, as fields of `JobRecord`."""

    priority: int
    nodes: int
    devices_per_node: int | None
    min_devices: int | None
    preemptible: bool
    deadline_at: float | None
    max_runtime_s: float | None


def columns_of(spec: JobSpec) -> Columns:
    """What a spec asks of the scheduler."""
    scheduling, devices = spec.scheduling, spec.parallel.devices
    return Columns(
        priority=scheduling.priority,
        nodes=spec.parallel.nodes,
        devices_per_node=None if devices == "auto" else devices,
        min_devices=scheduling.min_devices,
        preemptible=scheduling.preemptible,
        deadline_at=scheduling.deadline,
        max_runtime_s=scheduling.max_runtime_s,
    )


def settle(devices_per_node: int | None, *, nodes: int, capacity: Capacity, max_devices: int | None = None) -> int:
    """Devices a machine: `auto` (None) takes all GPUs that each of `nodes` machines has, within the project's quota
    `max_devices`, or one process where there are no GPUs."""
    if devices_per_node is not None:
        return devices_per_node
    if capacity.kind == "cpu":
        return 1
    largest = sorted((len(node.devices) for node in capacity.nodes), reverse=True)
    every = largest[nodes - 1] if len(largest) >= nodes else max(largest, default=1)
    return max(1, every if max_devices is None else min(every, max_devices // nodes))


def fewer(job: JobRecord, *, devices: int, capacity: Capacity) -> tuple[int, int] | None:
    """Machines and devices of each on which a job that has run can go on where what it wants is not there any more:
    the most that there are, `scheduling.min_devices` or more, that its batch divides over. None: there is no such."""
    if job.min_devices is None or job.num_attempts == 0 or could_host(job.nodes, devices, capacity):
        return None
    try:
        spec = JobSpec.model_validate(job.spec)
    except ValidationError:  # stored by another version; it is told to its owner when it is looked at
        return None
    shapes = [
        (nodes, each)
        for nodes in range(1, job.nodes + 1)
        for each in range(1, devices + 1)
        if nodes * each >= job.min_devices and could_host(nodes, each, capacity)
    ]
    largest_first = sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape[1]), reverse=True)
    return next((shape for shape in largest_first if _splits(spec, shape[0] * shape[1], job.overrides)), None)


def _splits(spec: JobSpec, world_size: int, overrides: Mapping[str, Any]) -> bool:
    try:
        settle_batch(spec, world_size=world_size, overrides=overrides)
    except UnusableSpecError:
        return False
    return True


def could_host(nodes: int, devices: int, capacity: Capacity) -> bool:
    """Whether there are so many machines with so many devices, taken or not."""
    return sum(len(node.devices) >= devices for node in capacity.nodes) >= nodes


def refuse(job: JobRecord, capacity: Capacity, *, max_devices: int | None = None) -> Refusal | None:
    """Why these machines can never run a job, or None if they can.

    Args:
        max_devices: most that its project may hold.
    """
    try:
        spec = JobSpec.model_validate(job.spec)
    except ValidationError as error:  # stored by another version
        first = error.errors()[0]
        return Refusal(job, "bad_spec", ".".join(str(part) for part in first["loc"]), first["msg"])
    devices = settle(job.devices_per_node, nodes=job.nodes, capacity=capacity, max_devices=max_devices)
    if fewer(job, devices=devices, capacity=capacity) is not None:
        return None
    if not capacity.may_grow and not could_host(job.nodes, devices, capacity):
        return _too_large(job, devices, capacity)
    if max_devices is not None and job.nodes * devices > max_devices:
        wants = f"{job.nodes * devices} devices are wanted"
        message = f"{wants}, but the project {job.project_id} may hold {max_devices} at once; ask for fewer"
        return Refusal(job, "over_quota", "parallel.devices", message)
    uneven = check_divides(
        spec.batch.global_size, _micro_size(job, spec), job.nodes * devices
    )  # `auto` is settled here
    return None if uneven is None else Refusal(job, "bad_spec", uneven.field, uneven.message)


def describe(capacity: Capacity) -> str:
    """`this machine has 4 GPUs`, or `the 3 machines have 4, 4 and 2 GPUs`."""
    noun = "GPU" if capacity.kind == "gpu" else "CPU slot"
    if len(capacity.nodes) <= 1:
        counted = _counted(capacity.count, noun)
        return f"this machine has {counted if capacity.kind == 'gpu' else f'no GPU and {counted}'}"
    counts = [str(len(node.devices)) for node in capacity.nodes]
    return f"the {len(counts)} machines have {', '.join(counts[:-1])} and {counts[-1]} {noun}s"


def _too_large(job: JobRecord, devices: int, capacity: Capacity) -> Refusal:
    if job.nodes > max(1, len(capacity.nodes)):
        there = "this service runs jobs on one machine" if len(capacity.nodes) <= 1 else describe(capacity)
        message = f"parallel.nodes is {job.nodes}, but {there}; use {'1' if len(capacity.nodes) <= 1 else 'fewer'}"
        return Refusal(job, "not_enough_devices", "parallel.nodes", message)
    most = settle(None, nodes=job.nodes, capacity=capacity) if capacity.kind == "gpu" else _most(job.nodes, capacity)
    there = describe(capacity)
    message = f"parallel.devices is {devices}, but {there}; use at most {min(most, _most(job.nodes, capacity))}"
    return Refusal(job, "not_enough_devices", "parallel.devices", message)


def _most(nodes: int, capacity: Capacity) -> int:
    """Devices that each of `nodes` machines has."""
    largest = sorted((len(node.devices) for node in capacity.nodes), reverse=True)
    return largest[nodes - 1] if len(largest) >= nodes else 0


def _micro_size(job: JobRecord, spec: JobSpec) -> Any:
    return job.overrides.get("micro_size", spec.batch.micro_size)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
