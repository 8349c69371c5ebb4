"""Projects as they are asked for and sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from service.schemas.base import Answer, Body
from service.store.records import ProjectRecord

Limit = Annotated[int, Field(ge=0, lt=2**31)]
Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Priority = Annotated[int, Field(ge=0, le=100)]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(min_length=1, max_length=255)]


class ProjectCreate(Body):
    """A new project."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """Up to 63 small letters, digits and `-`."""
    name: Name | None = None
    """What people call it; None: its id."""
    weight: Weight = 1.0
    """Share of the devices, in proportion to other projects', when more is wanted than there is."""
    max_devices: Limit | None = None
    """Most devices at once; None: no limit."""
    max_running_jobs: Limit | None = None
    """Most jobs that run at once; None: no limit."""
    max_queued_jobs: Limit | None = None
    """Most jobs that wait at once; None: no limit."""
    max_priority: Priority = 100
    """Highest priority that its jobs may ask for."""
    max_disk_bytes: Bytes | None = None
    """Most bytes of files, checkpoints and models; None: no limit."""


class ProjectChange(Body):
    """What is to change of a project; what is left out stays, and null takes a limit away."""

    name: Name | None = None
    """What people call it."""
    weight: Weight | None = None
    """Share of the devices."""
    max_devices: Limit | None = None
    """Most devices at once."""
    max_running_jobs: Limit | None = None
    """Most jobs that run at once."""
    max_queued_jobs: Limit | None = None
    """Most jobs that wait at once."""
    max_priority: Priority | None = None
    """Highest priority that its jobs may ask for."""
    max_disk_bytes: Bytes | None = None
    """Most bytes of files, checkpoints and models."""

    def changes(self) -> dict[str, object]:
        """The fields that were sent; what has no "no limit" cannot be null."""
        sent = self.model_dump(exclude_unset=True)
        return {name: value for name, value in sent.items() if name.startswith("max_") or value is not None} | (
            {"max_priority": 100} if sent.get("max_priority", 0) is None else {}
        )


class Project(Answer):
    """A project: whose jobs, models and data belong together, and how much they may use."""

    id: str
    """Its name for programs."""
    object: Literal["project"] = "project"
    """Always `project`."""
    name: str
    """What people call it."""
    created_at: int
    """Unix seconds."""
    weight: float
    """Share of the devices, in proportion to other projects', when more is wanted than there is."""
    max_devices: int | None
    """Most devices at once."""
    max_running_jobs: int | None
    """Most jobs that run at once."""
    max_queued_jobs: int | None
    """Most jobs that wait at once."""
    max_priority: int
    """Highest priority that its jobs may ask for."""
    max_disk_bytes: int | None
    """Most bytes of files, checkpoints and models."""
    device_seconds: float
    """Recent use, decaying: what fair share goes by."""

    @classmethod
    def from_record(cls, record: ProjectRecord) -> Project:
        """The project as it is sent."""
        given = {name: getattr(record, name) for name in cls.model_fields if name not in ("object", "created_at")}
        return cls(**given, created_at=int(record.created_at))
