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


class Role(StrEnum):
    """What a key may do within its project; each may also do what those below it may."""

    ADMIN = "admin"
    """Manage keys, projects and quotas; across all projects if its project is `default`."""
    MEMBER = "member"
    """Submit, change and cancel; upload and download."""
    VIEWER = "viewer"
    """Read, and ask models."""


DEFAULT_PROJECT = "default"
LOCAL_NODE = "local"


class AttemptStatus(StrEnum):
    """Where one try at a job stands."""

    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


OPEN_ATTEMPT = (AttemptStatus.STARTING, AttemptStatus.RUNNING)
"""What an attempt is until it has ended: databases find these by index, but not what is unequal to something."""


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
    NODE_LOST = "node_lost"
    """The machine that it ran on is gone."""
    ENGINE_LOST = "engine_lost"
    """The engine does not know it any more, whatever became of its processes."""
    PREEMPTED = "preempted"
    """A job of higher priority took its devices."""
    STALLED = "stalled"
    """The watchdog saw no step for too long."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    MAX_RUNTIME_EXCEEDED = "max_runtime_exceeded"


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
    """Devices that its latest attempt was given, of all machines; None before the first."""
    estimated_finish: float | None = None
    num_attempts: int = 0
    project_id: str = DEFAULT_PROJECT
    created_by: str | None = None
    """Id of the API key that submitted it; None where none was asked for."""
    priority: int = 50
    """0 to 100; higher goes first. `scheduling.priority`, until an operator changes it."""
    queue_order: float = 0.0
    """Order among jobs of the same priority and project; smaller goes first. Its creation time until it is moved."""
    queued_at: float | None = None
    """When it last began to wait for devices."""
    not_before: float = 0.0
    """It waits at least until then: the backoff after a failed attempt."""
    room_made: bool = False
    """Whether runs were stopped for it since it last ran: it goes first among jobs of its priority."""
    nodes: int = 1
    """Machines that it wants: `parallel.nodes`."""
    devices_per_node: int | None = 1
    """Devices of each: `parallel.devices`; None for `auto`."""
    min_devices: int | None = None
    """Fewest devices in all that it may go on with: `scheduling.min_devices`."""
    preemptible: bool = True
    """Whether a job of higher priority may take its devices: `scheduling.preemptible`."""
    deadline_at: float | None = None
    """It ends as failed if it has not succeeded by then."""
    max_runtime_s: float | None = None
    """Seconds of running, over all attempts, after which it ends as failed."""
    runtime_s: float = 0.0
    """Seconds that ended attempts have run."""
    retries: dict[str, int] = field(default_factory=dict)
    """Attempts in a row that ended without progress, by the retry rule's name."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """What retries have changed for attempts to come (`AttemptRecord.overrides`)."""
    lease_owner: str | None = None
    """Replica that works on it."""
    lease_token: str | None = None
    lease_expires_at: float | None = None

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
    """Device numbers that it holds until it has ended, of all its machines one after another."""
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
    engine: str = "local"
    """`local`, `ray` or `slurm`."""
    placement: list[dict[str, Any]] = field(default_factory=list)
    """`{"node": name, "devices": [numbers]}` for each machine, in rank order."""
    engine_ref: dict[str, Any] | None = None
    """How the engine finds it again: actor names, a Slurm job id."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """What was decided for this attempt beside the spec: `micro_size`, `feature_cache`."""
    last_step_at: float | None = None
    """When its last step was logged."""
    last_sign_at: float | None = None
    """When it last told anything."""
    stage: str | None = None
    """What it does, by its own account: `loading`, `training`, `evaluating`, `exporting`."""
    stop_reason: EndReason | None = None
    """Why the service wants it to stop, where that is not a cancellation or a pause."""


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
    project_id: str = DEFAULT_PROJECT


@dataclass(frozen=True, kw_only=True)
class ProjectRecord:
    """Whose jobs, models and data belong together."""

    id: str
    name: str
    created_at: float
    weight: float = 1.0
    """Share of the devices, in proportion to other projects', when more is wanted than there is."""
    max_devices: int | None = None
    """Most devices at once; None: no limit of its own."""
    max_running_jobs: int | None = None
    max_queued_jobs: int | None = None
    max_priority: int = 100
    """Highest priority that its jobs may ask for."""
    max_disk_bytes: int | None = None
    """Most bytes of files, checkpoints and models."""
    disk_bytes: int | None = None
    """Bytes of its files and jobs when they were last measured; None: not yet."""
    device_seconds: float = 0.0
    """Recent use, decaying: what fair share goes by."""
    usage_at: float = 0.0
    """When `device_seconds` was last brought up to date."""


@dataclass(frozen=True, kw_only=True)
class ApiKeyRecord:
    """A key, without the key: only a hash of it is kept."""

    id: str
    """`key-...`"""
    project_id: str
    name: str
    role: Role
    hash: str
    hint: str
    """Its first and last characters, for people."""
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """Something that somebody did or tried to do."""

    at: float
    actor: str
    """A key's id, `operator` for the command line, `anonymous`, or a replica."""
    action: str
    """Such as `job.create`."""
    outcome: Literal["ok", "refused", "failed"]
    project_id: str | None = None
    target: str | None = None
    request_id: str | None = None
    detail: dict[str, Any] | None = None
    id: str = field(default_factory=lambda: new_id("audit"))


@dataclass(frozen=True, kw_only=True)
class ReplicaRecord:
    """A control plane that works on this database."""

    id: str
    host: str
    pid: int
    started_at: float
    seen_at: float


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """An uploaded file."""

    id: str
    """`file-...`"""
    project_id: str
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    num_bytes: int
    sha256: str | None
    path: str
    """Where its bytes are."""
    created_at: float
    expires_at: float | None = None
    status_details: str | None = None
    unpacked_bytes: int = 0
    """Of the files that an archive held."""


@dataclass(frozen=True, kw_only=True)
class UploadRecord:
    """A file that arrives in parts."""

    id: str
    """`upload_...`"""
    project_id: str
    filename: str
    purpose: str
    mime_type: str
    num_bytes: int
    """Of the whole file, as announced."""
    status: Literal["pending", "completed", "cancelled", "expired"]
    created_at: float
    expires_at: float
    file_lifetime_s: float | None = None
    """Seconds that the file will be kept; None: until it is deleted."""
    file_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class UploadPartRecord:
    """One part of an upload."""

    id: str
    """`part_...`"""
    upload_id: str
    num_bytes: int
    sha256: str
    path: str
    created_at: float


@dataclass(frozen=True, kw_only=True)
class WebhookRecord:
    """Whom to tell of what, after https://www.standardwebhooks.com."""

    id: str
    """`wh_...`"""
    project_id: str
    url: str
    event_types: list[str]
    """Empty: all."""
    secrets: list[dict[str, Any]]
    """`{"secret": "whsec_...", "expires_at": time or None}`, the newest first; all that have not expired sign, so that
    one can be rotated out."""
    created_at: float
    failing_since: float | None = None
    """When the first of the tries was made that have failed since the last that did not."""
    disabled_at: float | None = None
    disabled_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class WebhookDeliveryRecord:
    """One message to one webhook."""

    id: str
    """`msg_...`: the `webhook-id` header."""
    webhook_id: str
    event_type: str
    payload: str
    """The exact body, since it is what is signed."""
    status: Literal["waiting", "delivered", "failed"]
    created_at: float
    num_tries: int = 0
    next_try_at: float | None = None
    last_status: int | None = None
    last_error: str | None = None
    delivered_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """A search over settings; each trial is a job."""

    id: str
    """`sweep-...`"""
    project_id: str
    status: Literal["running", "succeeded", "failed", "cancelled"]
    request: dict[str, Any]
    """The body that made it."""
    created_at: float
    name: str | None = None
    created_by: str | None = None
    finished_at: float | None = None
    error_message: str | None = None


@dataclass(frozen=True, kw_only=True)
class SweepTrialRecord:
    """One point of a sweep."""

    sweep_id: str
    number: int
    """0 for the first."""
    parameters: dict[str, Any]
    """Values by the spec's field."""
    status: Literal["waiting", "running", "succeeded", "failed", "stopped"]
    job_id: str | None = None
    value: float | None = None
    """The metric that is searched for."""
    detail: dict[str, Any] | None = None


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
    last_step_at: float | None = None
    last_sign_at: float | None = None
    stage: str | None = None
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


class QuotaExceeded(StoreError):
    """A project may have no more of something."""

    def __init__(self, project: str, what: str, limit: int) -> None:
        self.project, self.what, self.limit = project, what, limit
        super().__init__(f"project {project} has {limit} {what}, which is as many as it may have")


class DevicesTaken(StoreError):
    """Another attempt holds one of the devices."""

    def __init__(self, placement: list[dict[str, Any]]) -> None:
        self.placement = placement
        named = "; ".join(f"{share['node']}: {share['devices']}" for share in placement)
        super().__init__(f"devices are not all free ({named})")


class LeaseLost(StoreError):
    """The job has gone to another replica, which must not be interfered with."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} is worked on by another replica now")


class TransitionRefused(StoreError):
    """The job's present status does not allow the change."""

    def __init__(self, job_id: str, current: JobStatus, to: str, *, why: str = "") -> None:
        self.job_id, self.current, self.to = job_id, current, to
        super().__init__(f"job {job_id} is {current} and cannot become {to}{why and f': {why}'}")


def new_id(prefix: str) -> str:
    """A fresh id, `PREFIX-` and 24 random hexadecimal digits."""
    return f"{prefix}-{secrets.token_hex(12)}"
