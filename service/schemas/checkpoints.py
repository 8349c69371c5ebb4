"""Checkpoints of a job as OpenAI's `fine_tuning.job.checkpoint`."""

from __future__ import annotations

from typing import Literal

from service.schemas.base import Answer
from service.schemas.pages import Named
from service.store.records import CheckpointRecord


class Checkpoint(Named):
    """A published checkpoint that is still there."""

    id: str
    """`ftckpt-...`"""
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    """Always `fine_tuning.job.checkpoint`."""
    created_at: int
    """Unix seconds."""
    fine_tuned_model_checkpoint: str
    """The job and the step, as one name."""
    fine_tuning_job_id: str
    """The job."""
    metrics: dict[str, float]
    """`step`, and `DATASET/METRIC` of the evaluation at this step, if there was one."""
    step_number: int
    """Optimizer steps done."""
    name: str
    """Its folder below `checkpoints/` in the job folder."""

    @classmethod
    def from_record(cls, record: CheckpointRecord) -> Checkpoint:
        """The checkpoint as it is sent."""
        return cls(
            id=record.id,
            created_at=int(record.created_at),
            fine_tuned_model_checkpoint=record.fine_tuned_model_checkpoint,
            fine_tuning_job_id=record.job_id,
            metrics={"step": record.step_number, **record.metrics},
            step_number=record.step_number,
            name=record.name,
        )


class Promotion(Answer):
    """A checkpoint that becomes a model of its own."""

    object: Literal["fine_tuning.job.checkpoint.promotion"] = "fine_tuning.job.checkpoint.promotion"
    """Always `fine_tuning.job.checkpoint.promotion`."""
    checkpoint: str
    """The checkpoint's id."""
    fine_tuning_job_id: str
    """The job."""
    status: Literal["running", "succeeded", "failed"]
    """Where it stands."""
    model: str | None
    """Name of the registered model, once it has succeeded."""
    error: str | None
    """Why it failed, if it did."""
