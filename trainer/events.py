"""What a worker tells the world: typed lines in `events.jsonl`. Imports no torch.

Rank 0 appends one JSON object a line; anybody may read at any time, and nobody has to. A line counts once it
ends in a newline, so a reader never sees half an event.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Event(BaseModel):
    """Base of all events."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    time: float = Field(default_factory=time.time)
    """Unix seconds."""


class Stage(Event):
    """The worker enters a stage."""

    type: Literal["stage"] = "stage"
    stage: Literal["loading", "training", "evaluating", "exporting"]
    """Which one."""


class Started(Event):
    """Training begins, or goes on."""

    type: Literal["started"] = "started"
    start_step: int
    """Optimizer steps done in earlier attempts."""
    total_steps: int
    """Optimizer steps of the whole job."""
    steps_per_epoch: int
    """Optimizer steps an epoch."""
    num_samples: int
    """Training samples."""
    world_size: int
    """Processes, one a device."""
    micro_size: int
    """Samples a device and forward pass."""
    accumulation: int = 1
    """Forward passes of a device in an optimizer step."""
    cached: int = 1
    """Micro-batches of a device whose features are cached to be contrasted together; 1: none are."""
    device: str
    """Such as `cpu` or `NVIDIA H200`."""
    num_parameters: int
    """Parameters of the model."""
    num_trainable: int
    """Parameters that are trained."""
    pids: list[int] = Field(default_factory=list)
    """Process ids of all ranks."""


Phase = Literal["imports", "process_group", "data_check", "model", "engine", "objective", "state", "first_step"]
"""In order: importing; joining the other ranks; preflight, if it was still to be done; building the model; DeepSpeed's
engine; tokens and the like; loading a checkpoint or evaluating before the first step; the first batch and step."""


class Startup(Event):
    """The first step of an attempt is done."""

    type: Literal["startup"] = "startup"
    seconds: dict[Phase, float]
    """Seconds of each phase, from the start of rank 0's process on."""


class Step(Event):
    """Metrics of one logged optimizer step."""

    type: Literal["step"] = "step"
    step: int
    """Optimizer steps done, 1 after the first."""
    epoch: float
    """Passes over the data done."""
    loss: float
    """Mean loss of this step's global batch."""
    lr: float
    """Peak group's learning rate in this step."""
    grad_norm: float | None = None
    """Global gradient norm before clipping; null if not computed."""
    logit_scale: float | None = None
    """exp(logit_scale), if the model has one."""
    images_per_s: float
    """Training samples a second over all devices since the last logged step."""
    data_wait_share: float
    """Share of that time spent waiting for data, 0 to 1."""
    mfu: float | None = None
    """Model FLOP utilisation, 0 to 1: 3 x forward FLOPs against the GPU's dense peak; null on unknown devices."""
    eta_s: float
    """Seconds left, by the speed so far."""


class Evaluation(Event):
    """The result of evaluating one data set."""

    type: Literal["evaluation"] = "evaluation"
    step: int
    """Optimizer steps done."""
    dataset: str
    """`validation` or a name from data.evaluate."""
    task: Literal["zero_shot", "classification", "retrieval", "linear_probe", "knn"]
    """What was measured."""
    weights: Literal["raw", "ema", "wise_ft"]
    """Which weights: as trained, their moving average, or their blend with the starting weights."""
    num_samples: int
    """Images evaluated."""
    metrics: dict[str, float]
    """Such as top1, or image_to_text_r1 ... mean_recall: fractions, but for cross_entropy, which is in nats."""
    per_class: list[dict[str, Any]] = Field(default_factory=list)
    """For classification: `name, num_samples, accuracy` of each class."""
    per_domain: list[dict[str, Any]] = Field(default_factory=list)
    """For classification of data with domains: `name, num_samples, accuracy` of each domain."""


class CheckpointSaved(Event):
    """A checkpoint was published."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    """Optimizer steps done."""
    name: str
    """Its folder's name."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """`DATASET/METRIC` of the evaluation at this step, if there was one."""


class CheckpointRemoved(Event):
    """A checkpoint was removed by the policy."""

    type: Literal["checkpoint_removed"] = "checkpoint_removed"
    name: str
    """Its folder's name."""


class Exported(Event):
    """The finished model was written."""

    type: Literal["exported"] = "exported"
    checkpoint: str
    """Checkpoint it was made from."""
    weights: Literal["raw", "ema"]
    """Which weights."""
    task: Literal["clip", "classifier"]
    """What it can do: zero-shot and retrieval, or classification."""
    wise_ft_alpha: float | None = None
    """Where on the line from the starting weights (0) to the tuned ones (1), or None without `export.wise_ft`."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """`DATASET/METRIC` of these weights."""


class BadSample(Event):
    """An image that was fine when the data were checked can no longer be used; told once for each."""

    type: Literal["bad_sample"] = "bad_sample"
    dataset: str
    """`train`, `validation` or a name from data.evaluate."""
    key: str
    """What the sample is called: its path, or its name within a larger file."""
    reason: str
    """What is wrong with it."""
    action: Literal["skipped", "replaced"]
    """`replaced`: a sample of its class takes its place; `skipped`: in training the next sample does, in evaluation
    none."""
    num_bad: int
    """Samples of this data set found bad by this attempt so far."""


class Message(Event):
    """Something worth saying."""

    type: Literal["message"] = "message"
    level: Literal["info", "warn", "error"] = "info"
    """How bad."""
    message: str
    """A sentence."""


AnyEvent = Annotated[
    Stage
    | Started
    | Startup
    | Step
    | Evaluation
    | CheckpointSaved
    | CheckpointRemoved
    | Exported
    | BadSample
    | Message,
    Field(discriminator="type"),
]
_adapter: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)


class EventWriter:
    """Appends events to a file; each reaches the kernel before `write` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write(self, event: Event) -> None:
        """Append one event."""
        self._file.write(event.model_dump_json().encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def read_events(path: Path, offset: int = 0) -> tuple[list[AnyEvent], int]:
    """Events in the whole lines after byte `offset`, and the offset to go on from. A missing file holds none."""
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return [_adapter.validate_json(line) for line in data[:end].splitlines() if line], offset + end


def finite_or_none(value: float) -> float | None:
    """`value`, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None
