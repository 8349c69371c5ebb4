"""The queue: places of waiting jobs, and what can be changed of them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.jobs.scheduling.state import Place, Reason
from service.schemas.base import Answer, Body


class QueuePlace(Answer):
    """Where a job stands in the queue, and why it waits."""

    object: Literal["queue.place"] = "queue.place"
    """Always `queue.place`."""
    id: str
    """The job's id."""
    project_id: str
    """Whose it is."""
    priority: int
    """0 to 100; higher goes first."""
    position: int
    """1 for the job that is looked at first, over all projects."""
    devices: int | None
    """Devices that it wants in all; null: not settled yet."""
    reason: Reason
    """Why it waits, as a word."""
    message: str
    """The same as a sentence."""
    estimated_start: int | None
    """Unix seconds; null where nobody knows."""

    @classmethod
    def of(cls, place: Place) -> Self:
        """The place as it is sent."""
        start = place.estimated_start
        return cls(
            id=place.job_id,
            project_id=place.project_id,
            priority=place.priority,
            position=place.position,
            devices=place.devices,
            reason=place.reason,
            message=place.message,
            estimated_start=None if start is None else int(start),
        )


class QueueMove(Body):
    """Another place for a waiting job among those of its project and priority: say `to` or `before`."""

    job_id: str
    """The job to move."""
    to: Literal["front", "back"] | None = None
    """Before or behind all of them."""
    before: str | None = None
    """Id of the job that it goes before."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.to is None) == (self.before is None):
            raise ValueError("give either `to` or `before`")
        return self


class JobChange(Body):
    """What can be changed of a job that has not ended; what is left out stays. The spec stays as it was submitted."""

    priority: Annotated[int, Field(ge=0, le=100)] | None = None
    """Higher goes first."""
    preemptible: bool | None = None
    """Whether a job of higher priority may stop it after a checkpoint."""
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Unix time by which it must have succeeded; null: none."""
    max_runtime_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds of running, over all attempts, after which it ends as failed; null: no limit."""
