"""Events of a job as OpenAI's `fine_tuning.job.event`."""

from __future__ import annotations

from typing import Any, Literal

from service.schemas.base import Answer
from service.store.records import EventRecord


class JobEvent(Answer):
    """Something that happened to a job."""

    id: str
    """`ftevent-...`; what `after` and `Last-Event-ID` take."""
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    """Always `fine_tuning.job.event`."""
    created_at: int
    """Unix seconds."""
    level: Literal["info", "warn", "error"]
    """How bad."""
    message: str
    """A sentence."""
    type: Literal["message", "metrics"]
    """`metrics` for a training step, `message` for everything else."""
    data: dict[str, Any] | None = None
    """The worker's own event, if it comes from one: its `type` says which fields it has."""

    @classmethod
    def from_record(cls, record: EventRecord) -> JobEvent:
        """The event as it is sent."""
        return cls(
            id=record.id,
            created_at=int(record.created_at),
            level=record.level,
            message=record.message,
            type=record.type,
            data=record.data,
        )
