"""Checkpoints of a job as OpenAI's `fine_tuning.job.checkpoint`."""

from __future__ import annotations

from typing import Literal

from service.schemas.base import Answer, Page
from service.store.records import CheckpointRecord


class Checkpoint(Answer):
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


class CheckpointPage(Page[Checkpoint]):
    """Part of the list of checkpoints, newest first."""

    first_id: str | None = None
    """Id of the first item."""
    last_id: str | None = None
    """Id of the last item; what `after` takes for the next page."""

    @classmethod
    def of(cls, checkpoints: list[Checkpoint], *, has_more: bool) -> CheckpointPage:
        """A page with its first and last id filled in."""
        first, last = (checkpoints[0].id, checkpoints[-1].id) if checkpoints else (None, None)
        return cls(data=checkpoints, has_more=has_more, first_id=first, last_id=last)
