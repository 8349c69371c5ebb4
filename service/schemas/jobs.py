"""Jobs as OpenAI's `fine_tuning.job`, with a few fields of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import Field

from service.files.ids import file_id_of
from service.schemas.base import Answer
from service.store.records import AttemptRecord, AttemptStatus, EndReason, JobRecord, JobStatus

Path_ = TypeVar("Path_", str, str | None)


class JobError(Answer):
    """Why a job failed."""

    code: str
    """A word for programs, such as `bad_data`."""
    message: str
    """A sentence that names what was wrong."""
    param: str | None
    """The spec field at fault, such as `data.train.path`."""


class JobHyperparameters(Answer):
    """The spec's settings that OpenAI has words for; `spec` has them all."""

    n_epochs: int | None
    """`schedule.epochs`; null where that is no whole number."""
    batch_size: int | None
    """`batch.global_size`."""
    learning_rate_multiplier: float | None = None
    """Always null: a multiplier that was given is already in `spec.optim.lr`."""


class MachineShare(Answer):
    """Devices of one machine."""

    node: str
    """The machine, as the engine calls it; `local` for the service's own. Slurm places jobs itself, and this is the
    plan's."""
    devices: list[int]
    """Their numbers."""


class AttemptSummary(Answer):
    """One try at running the job."""

    number: int
    """1 for the first."""
    status: AttemptStatus
    """Where it stands."""
    end_reason: EndReason | None
    """Why it ended."""
    end_message: str | None
    """The same as a sentence."""
    devices: list[int]
    """Device numbers, of all machines one after another."""
    engine: str
    """What ran it: `local`, `ray` or `slurm`."""
    placement: list[MachineShare]
    """Where, in the order of ranks."""
    resume: bool
    """Whether it went on from a checkpoint."""
    overrides: dict[str, Any]
    """What was decided for it beside the spec, such as a smaller `micro_size` after one ran out of memory."""
    start_step: int
    """Optimizer steps done before it."""
    last_step: int
    """Last logged optimizer step."""
    created_at: int
    """Unix seconds."""
    ended_at: int | None
    """Unix seconds."""

    @classmethod
    def from_record(cls, record: AttemptRecord) -> AttemptSummary:
        """The attempt as it is sent."""
        return cls(
            number=record.number,
            status=record.status,
            end_reason=record.end_reason,
            end_message=record.end_message,
            devices=record.devices,
            engine=record.engine,
            placement=[MachineShare.model_validate(share) for share in record.placement],
            resume=record.resume,
            overrides=record.overrides,
            start_step=record.start_step,
            last_step=record.last_step,
            created_at=int(record.created_at),
            ended_at=_seconds(record.ended_at),
        )


class Job(Answer):
    """A fine-tuning job."""

    id: str
    """`ftjob-...`"""
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    """Always `fine_tuning.job`."""
    created_at: int
    """Unix seconds."""
    error: JobError | None
    """Why it failed, if it did."""
    fine_tuned_model: str | None
    """Name of the model, once the job has succeeded."""
    finished_at: int | None
    """Unix seconds."""
    hyperparameters: JobHyperparameters
    """The settings that OpenAI has words for."""
    model: str
    """The model it starts from."""
    organization_id: str = "attune"
    """Always `attune`."""
    result_files: list[str] = Field(default_factory=list)
    """Always empty: results are events and the model's metrics."""
    seed: int
    """Seed of every random draw."""
    status: JobStatus
    """Where it stands."""
    trained_tokens: int | None = None
    """Always null: images are not counted in tokens."""
    training_file: str
    """The training data: a path, or the id of an uploaded file."""
    validation_file: str | None
    """The held-out data, likewise."""
    estimated_finish: int | None
    """Unix seconds, by the speed so far; null while it is not running."""
    integrations: list[Any] = Field(default_factory=list)
    """Always empty."""
    metadata: dict[str, str]
    """Notes of the caller's own."""
    method: None = None
    """Always null; `spec.objective` says how it trains."""
    suffix: str | None
    """What the caller wants in the model's name."""
    recipe: str | None
    """The recipe it started from."""
    spec: dict[str, Any]
    """The whole JobSpec."""
    started_at: int | None
    """When the first attempt began, in Unix seconds."""
    num_attempts: int
    """How many attempts there have been."""
    attempts: list[AttemptSummary] | None
    """The attempts, oldest first; null in lists of jobs."""
    job_dir: str
    """The job folder on the service's machine."""

    @classmethod
    def from_record(cls, record: JobRecord, *, attempts: Sequence[AttemptRecord] | None = None) -> Job:
        """The job as it is sent."""
        return cls(
            id=record.id,
            created_at=int(record.created_at),
            error=_error(record),
            fine_tuned_model=record.fine_tuned_model,
            finished_at=_seconds(record.finished_at),
            hyperparameters=_hyperparameters(record.spec),
            model=record.model,
            seed=record.seed,
            status=record.visible_status,
            training_file=_as_named(record.training_file),
            validation_file=_as_named(source_path(record.spec, "validation")),
            estimated_finish=_seconds(record.estimated_finish),
            metadata=record.metadata,
            suffix=record.suffix,
            recipe=record.recipe,
            spec=record.spec,
            started_at=_seconds(record.started_at),
            num_attempts=record.num_attempts,
            attempts=None if attempts is None else [AttemptSummary.from_record(a) for a in attempts],
            job_dir=record.job_dir,
        )


def source_path(spec: Mapping[str, Any], name: Literal["train", "validation"]) -> str | None:
    """Where a spec's training or validation data is, or None."""
    source = spec.get("data", {}).get(name)
    return source.get("path") if source else None


def _as_named(path: Path_) -> Path_:
    """The id of the uploaded file that a path belongs to, or else the path."""
    return path if path is None else file_id_of(path) or path


def _error(record: JobRecord) -> JobError | None:
    if record.error_code is None and record.error_message is None:
        return None
    message = record.error_message or "the job failed without a message"
    return JobError(code=record.error_code or "error", message=message, param=record.error_param)


def _hyperparameters(spec: Mapping[str, Any]) -> JobHyperparameters:
    epochs = spec.get("schedule", {}).get("epochs")
    whole = int(epochs) if epochs is not None and float(epochs).is_integer() else None
    return JobHyperparameters(n_epochs=whole, batch_size=spec.get("batch", {}).get("global_size"))


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)
