"""From a plan to an estimate: whether a job fits its devices, on how few it would, how long it takes, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service.estimating.device_kind import DeviceKind
from service.jobs.planning import Plan
from service.launchers.base import Capacity
from service.schemas.estimates import Choice, Estimate, MemoryOfStage, Placement, TimeEstimate
from service.store.records import JobRecord, JobStatus
from service.store.store import Store
from trainer.plan.memory import Load, input_bytes, memory_by_stage
from trainer.spec import JobSpec

_HEADROOM = 0.9  # of a device's memory: the rest goes to workspaces, fragments and buckets in flight
_JOBS_LOOKED_AT = 50
_EVENTS_LOOKED_AT = 20


@dataclass(frozen=True)
class Speed:
    """How fast a job is expected to go."""

    images_per_s: float | None
    """On all its devices together."""
    basis: str


def estimate(job: JobRecord, plan: Plan, *, capacity: Capacity, device: DeviceKind, speed: Speed) -> Estimate:
    """What a job would take.

    Args:
        job: as it would be stored.
        plan: of `Planner.plan`.
        capacity: the devices there are.
        device: what each is.
        speed: from `expected_speed`.
    """
    spec = JobSpec.model_validate(job.spec)
    memory = plan["memory"]
    stages = {
        stage: MemoryOfStage(**sizes, fits=_fits(sizes["total"], device)) for stage, sizes in memory["stages"].items()
    }
    own = stages[str(_effective_stage(spec))]
    return Estimate(
        model=job.model,
        devices=memory["devices"],
        device=device.name,
        device_memory_bytes=device.memory_bytes,
        zero_stage=spec.parallel.zero_stage,
        memory=stages,
        fits=own.fits,
        smallest=_smallest(spec, plan, device=device, most=max(capacity.count, memory["devices"])),
        advice=list(_advice(spec, plan, stages, device)),
        time=_time(plan, speed),
        auto=list(_choices(spec, plan, capacity)),
        parameters=plan["parameters"],
        notes=plan["notes"],
        spec=job.spec,
        plan=plan,
    )


def expected_speed(store: Store, job: JobRecord, plan: Plan, *, device: DeviceKind) -> Speed:
    """How fast a job like `job` has gone on this service, or else what its FLOPs and the kind of device suggest."""
    devices = plan["memory"]["devices"]
    recent, _ = store.jobs.list(project=job.project_id, limit=_JOBS_LOOKED_AT)
    for past in recent:
        if past.status is JobStatus.SUCCEEDED and _alike(past, job) and (rate := _rate_per_device(store, past)):
            return Speed(rate * devices, f"job {past.id} did {rate:.4g} images a second on each of its devices")
    if device.flops is None:
        return Speed(None, f"no such job has run here, and the speed of {device.name} is not known")
    flops = plan["compute"]["train_flops_per_image"]
    basis = f"{flops:.3g} FLOPs an image, at {device.flops:.3g} a second that a {device.name} may come to"
    return Speed(devices * device.flops / flops, basis)


def _alike(past: JobRecord, job: JobRecord) -> bool:
    """Whether a job computes the same for each image."""
    same = ("model", "objective", "parallel.precision", "parallel.activation_checkpointing")
    return all(_at(past.spec, field) == _at(job.spec, field) for field in same)


def _at(spec: dict[str, Any], field: str) -> Any:
    value: Any = spec
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _rate_per_device(store: Store, job: JobRecord) -> float | None:
    events, _ = store.events.list(job.id, limit=_EVENTS_LOOKED_AT)
    attempt = store.attempts.latest(job.id)
    rates = [event.data["images_per_s"] for event in events if event.data and "images_per_s" in event.data]
    if attempt is None or not attempt.devices or not rates:
        return None
    return float(sorted(rates)[len(rates) // 2]) / len(attempt.devices)


def _time(plan: Plan, speed: Speed) -> TimeEstimate:
    total_steps, rate = plan["schedule"]["total_steps"], speed.images_per_s
    step_s = None if rate is None else plan["schedule"]["global_size"] / rate
    return TimeEstimate(
        step_s=step_s,
        total_s=None if step_s is None or total_steps is None else step_s * total_steps,
        total_steps=total_steps,
        images_per_s=rate,
        basis=speed.basis,
    )


def _fits(total: int, device: DeviceKind) -> bool | None:
    return None if device.memory_bytes is None else total <= _HEADROOM * device.memory_bytes


def _effective_stage(spec: JobSpec) -> int:
    """Stage 0 in bf16 or fp16 runs as stage 1."""
    half = spec.parallel.precision in ("bf16", "fp16")
    return max(1, spec.parallel.zero_stage) if half else spec.parallel.zero_stage


def _smallest(spec: JobSpec, plan: Plan, *, device: DeviceKind, most: int) -> Placement | None:
    """The first way that fits, on ever more devices; on each number, by stage, at the largest micro-batch."""
    if device.memory_bytes is None:
        return None
    ways = (way for devices in range(1, most + 1) for way in _ways(spec, plan, devices=devices))
    return next((way for way in ways if _fits(way.total, device)), None)


def _ways(spec: JobSpec, plan: Plan, *, devices: int) -> Iterator[Placement]:
    """Every stage and micro-batch on so many devices. A micro-batch that the spec names stays."""
    global_size, asked = spec.batch.global_size, spec.batch.micro_size
    if global_size % devices:
        return
    of_device = global_size // devices
    sizes = [int(size) for size in plan["memory"]["activations"]] if asked == "auto" else [asked]
    for stage in range(_effective_stage(spec), 4):
        for size in sizes:
            if size <= of_device and of_device % size == 0 and (size == of_device or _may_accumulate(spec)):
                total = _total(spec, plan, devices=devices, stage=stage, micro_size=size)
                yield Placement(
                    devices=devices,
                    zero_stage=stage,
                    micro_size=size,
                    accumulation=of_device // size,
                    total=total,
                )


def _may_accumulate(spec: JobSpec) -> bool:
    """Whether a smaller micro-batch keeps the negatives: always, but for contrasts without a feature cache."""
    return spec.batch.micro_size != "auto" or getattr(spec.objective, "feature_cache", True)


def _total(spec: JobSpec, plan: Plan, *, devices: int, stage: int, micro_size: int) -> int:
    trained, total = plan["parameters"]["trainable"], plan["parameters"]["total"]
    load = Load(
        trained=trained,
        frozen=total - trained,
        devices=devices,
        activations=plan["memory"]["activations"][str(micro_size)],
        inputs=input_bytes(spec, micro_size=micro_size, image_size=plan["memory"]["image_size"]),
        accumulation=spec.batch.global_size // (devices * micro_size),
    )
    stages = memory_by_stage(spec, load)
    return int(stages[str(stage)]["total"])


def _advice(spec: JobSpec, plan: Plan, stages: dict[str, MemoryOfStage], device: DeviceKind) -> Iterator[str]:
    """What would let the job fit, or what it could do without."""
    devices, own = plan["memory"]["devices"], stages[str(_effective_stage(spec))]
    if own.fits is not False:
        return
    ways = list(_ways(spec, plan, devices=devices))
    fitting = next((way for way in ways if _fits(way.total, device)), None)
    if fitting is not None:
        yield (
            f"with parallel.zero_stage {fitting.zero_stage} and batch.micro_size {fitting.micro_size} it fits"
            f" {devices} devices"
        )
    if not spec.parallel.activation_checkpointing and own.activations > own.total // 2:
        yield "most of it is activations: set parallel.activation_checkpointing, or a smaller batch.micro_size"
    if spec.parallel.offload_optimizer == "none" and own.optimizer > own.total // 3:
        yield "much of it is the optimizer's: raise parallel.zero_stage, or set parallel.offload_optimizer"


def _choices(spec: JobSpec, plan: Plan, capacity: Capacity) -> Iterator[Choice]:
    memory = plan["memory"]
    if spec.parallel.devices == "auto":
        why = "all GPUs that there are" if capacity.kind == "gpu" else "there is no GPU: one process"
        yield Choice(field="parallel.devices", value=memory["devices"] // spec.parallel.nodes, why=why)
    if spec.batch.micro_size == "auto":
        why = f"batch.global_size {spec.batch.global_size} over {memory['devices']} devices, without accumulation"
        yield Choice(field="batch.micro_size", value=memory["micro_size"], why=why)
    if spec.export.weights == "auto":
        average = spec.optim.ema_decay is not None
        why = "the better of the two on held-out data" if average else "there is no moving average (optim.ema_decay)"
        yield Choice(field="export.weights", value=None if average else "raw", why=why)
