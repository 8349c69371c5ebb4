"""What a job would take, before it is submitted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from service.schemas.base import Answer
from service.schemas.job_request import JobCreate

Count = Annotated[int, Field(ge=1, lt=2**53)]


class EstimateCreate(JobCreate):
    """A job as it would be submitted, and what is to be assumed about it. Its data need not be there."""

    num_train: Count | None = None
    """Training images, in place of the data's own number."""
    num_classes: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Classes, in place of the data's own number."""
    device_memory_bytes: Count | None = None
    """Memory of a device, in place of what this service's devices have."""


class MemoryOfStage(Answer):
    """Bytes on one device under one ZeRO stage."""

    weights: int
    """The model's weights."""
    gradients: int
    """Their gradients, as far as the stage leaves them on each device."""
    optimizer: int
    """What the optimizer remembers, master weights included."""
    ema: int
    """The moving average of the weights."""
    activations: int
    """What the forward pass of a micro-batch keeps for the backward pass."""
    inputs: int
    """Images that are decoded ahead."""
    buffers: int
    """DeepSpeed's own: gradients that are averaged, and under stage 3 weights that are gathered."""
    host: int
    """What is offloaded, in the memory of the CPU or on NVMe."""
    total: int
    """What is on the device at its fullest: less than the sum, as activations give way to gradients."""
    fits: bool | None
    """Whether a device has that much, with a tenth to spare; null where it is not known how much it has."""


class Placement(Answer):
    """A way to run the job on a number of devices."""

    devices: int
    """Devices, on all nodes together."""
    zero_stage: int
    """ZeRO stage."""
    micro_size: int
    """Samples a device and forward pass."""
    accumulation: int
    """Micro-batches an optimizer step."""
    total: int
    """Bytes on each device."""


class Choice(Answer):
    """What `auto` comes to."""

    field: str
    """The spec's field."""
    value: int | str | None
    """What it would be; null where it is only known during training."""
    why: str
    """How it comes to that."""


class TimeEstimate(Answer):
    """How long it would take."""

    step_s: float | None
    """Seconds an optimizer step; null where nothing is known to tell it by."""
    total_s: float | None
    """Seconds of training, without evaluation, checkpoints and export."""
    total_steps: int | None
    """Optimizer steps; null where the size of the data is unknown."""
    images_per_s: float | None
    """On all devices together."""
    basis: str
    """What the speed is taken from."""


class Estimate(Answer):
    """What a job would take."""

    object: Literal["fine_tuning.estimate"] = "fine_tuning.estimate"
    """Always `fine_tuning.estimate`."""
    model: str
    """The model it would start from."""
    devices: int
    """Devices that it would run on."""
    device: str
    """What these are."""
    device_memory_bytes: int | None
    """Memory of one, as far as it is known."""
    zero_stage: int
    """The spec's ZeRO stage."""
    memory: dict[str, MemoryOfStage]
    """Memory of each device, by ZeRO stage: `0` to `3`."""
    fits: bool | None
    """Whether the job as it is specified fits its devices."""
    smallest: Placement | None
    """The fewest devices that it would fit on, at the lowest stage that does; null where memory is unknown or no number
    of this service's devices is enough."""
    advice: list[str]
    """What to change if it does not fit, or what else it could do with."""
    time: TimeEstimate
    """How long it would take."""
    auto: list[Choice]
    """What the spec leaves to the service, and what that comes to."""
    parameters: dict[str, int]
    """Numbers of parameters."""
    notes: list[str]
    """What was assumed."""
    spec: dict[str, Any]
    """The whole JobSpec."""
    plan: dict[str, Any]
    """All that `attune plan --json` tells."""
