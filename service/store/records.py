"""What the store hands out: frozen records of plain values, and the errors that it raises.

All times are Unix seconds. A record is a snapshot: nothing in it changes, and nobody gets a database row.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

EventLevel = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]


class JobStatus(StrEnum):
    """Where a job stands; `service.jobs.lifecycle` holds what may follow what."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether a job in this state never changes again."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


TERMINAL = tuple(status for status in JobStatus if status.is_terminal)


class AttemptStatus(StrEnum):
    """Where one try at a job stands."""

    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class EndReason(StrEnum):
    """Why an attempt ended. Those from `bad_spec` to `error` are what the worker itself wrote."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"
    BAD_SPEC = "bad_spec"
    BAD_DATA = "bad_data"
    NON_FINITE_LOSS = "non_finite_loss"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    ERROR = "error"
    LAUNCH_FAILED = "launch_failed"


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A fine-tuning job."""

    id: str
    """`ftjob-...`, from `new_id("ftjob")`."""
    spec: dict[str, Any]
    """The whole JobSpec as JSON values."""
    model: str
    """The model as it was asked for."""
    job_dir: str
    """The job folder (`trainer.job_dir`)."""
    created_at: float
    status: JobStatus = JobStatus.VALIDATING_FILES
    suffix: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    training_file: str = ""
    recipe: str | None = None
    started_at: float | None = None
    """When the first attempt began."""
    finished_at: float | None = None
    cancel_requested: bool = False
    """Somebody cancelled it; the row turns `cancelled` when its processes are gone."""
    error_code: str | None = None
    error_message: str | None = None
    error_param: str | None = None
    """The spec field at fault, such as `data.train.path`."""
    fine_tuned_model: str | None = None
    """Name of the registered model, once the job has succeeded."""
    devices_wanted: int | None = None
    """Devices it runs on; None until the scheduler has settled `parallel.devices: auto`."""
    estimated_finish: float | None = None
    num_attempts: int = 0

    @property
    def visible_status(self) -> JobStatus:
        """The status to show: a cancelled job reads `cancelled` at once, though its processes may still be saving."""
        return JobStatus.CANCELLED if self.cancel_requested else self.status


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One try at running a job."""

    job_id: str
    number: int
    """1 for the first."""
    status: AttemptStatus
    devices: list[int]
    """Device numbers that it holds until it has ended."""
    resume: bool
    """Whether it goes on from the latest checkpoint."""
    created_at: float
    end_reason: EndReason | None = None
    end_message: str | None = None
    pid: int | None = None
    """The launcher process, leader of the attempt's session."""
    pid_created_at: float | None = None
    worker_pids: list[int] = field(default_factory=list)
    """The ranks, by the worker's own account."""
    workers_seen_at: float | None = None
    """When that account was given: a process started later only reuses a number."""
    events_offset: int = 0
    """Bytes of events.jsonl that are stored as rows."""
    start_step: int = 0
    total_steps: int | None = None
    """Optimizer steps of the whole job, once the worker has said so."""
    last_step: int = 0
    """Last logged optimizer step."""
    made_progress: bool = False
    """Whether it got further than all before it; set when it ends."""
    stop_requested_at: float | None = None
    """When it was first asked to stop."""
    ended_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class NewEvent:
    """An event to store; the store gives it its id and number."""

    message: str
    created_at: float
    level: EventLevel = "info"
    type: EventType = "message"
    data: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """Something that happened to a job."""

    id: str
    """`ftevent-...`"""
    job_id: str
    seq: int
    """1, 2, 3 ... within the job, without gaps."""
    created_at: float
    level: EventLevel
    message: str
    type: EventType
    data: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """A published checkpoint that is still there."""

    id: str
    """`ftckpt-...`"""
    job_id: str
    step_number: int
    name: str
    """Its folder below JOB/checkpoints."""
    metrics: dict[str, float]
    created_at: float
    fine_tuned_model_checkpoint: str
    """The job's id and the folder, such as `ftjob-...:ckpt-step-40-attempt-1`."""


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A model that can be asked."""

    id: str
    """Its name, such as `ft:ViT-B-32:flowers:1f0c9a3e`."""
    path: str
    """The export folder."""
    task: Literal["clip", "classifier"]
    created_at: float
    job_id: str | None = None
    owned_by: str = "attune"
    metrics: dict[str, float] = field(default_factory=dict)
    class_names: list[str] | None = None
    """The classes it was trained on, if there were any."""
    templates: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class AttemptProgress:
    """What was read from an attempt's events.jsonl between two offsets; stored whole or not at all."""

    offset_before: int
    offset_after: int
    events: list[NewEvent]
    checkpoints_saved: list[CheckpointRecord] = field(default_factory=list)
    checkpoints_removed: list[str] = field(default_factory=list)
    """Folder names."""
    start_step: int | None = None
    total_steps: int | None = None
    last_step: int | None = None
    worker_pids: list[int] | None = None
    workers_seen_at: float | None = None
    estimated_finish: float | None = None


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    """How an attempt ended, and what to tell people about it."""

    reason: EndReason
    message: str
    made_progress: bool = False
    level: EventLevel = "info"


class StoreError(Exception):
    """Base of what the store refuses."""


class UnknownId(StoreError):
    """There is no record with this id; for a list, no such `after`."""

    def __init__(self, kind: str, id: str) -> None:
        self.kind, self.id = kind, id
        super().__init__(f"there is no {kind} {id!r}")


class AlreadyExists(StoreError):
    """A record with this id is there already."""

    def __init__(self, kind: str, id: str) -> None:
        self.kind, self.id = kind, id
        super().__init__(f"there is a {kind} {id!r} already")


class DevicesTaken(StoreError):
    """Another attempt holds one of the devices."""

    def __init__(self, devices: list[int]) -> None:
        self.devices = devices
        super().__init__(f"devices {devices} are not all free")


class TransitionRefused(StoreError):
    """The job's present status does not allow the change."""

    def __init__(self, job_id: str, current: JobStatus, to: str, *, why: str = "") -> None:
        self.job_id, self.current, self.to = job_id, current, to
        super().__init__(f"job {job_id} is {current} and cannot become {to}{why and f': {why}'}")


def new_id(prefix: str) -> str:
    """A fresh id, `PREFIX-` and 24 random hexadecimal digits."""
    return f"{prefix}-{secrets.token_hex(12)}"
