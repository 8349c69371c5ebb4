"""What a job has left in its folder."""

from __future__ import annotations

from typing import Literal

from service.schemas.pages import Named


class Artifact(Named):
    """A file that a job left."""

    id: str
    """Its path below the job folder; what `after` takes, and what follows `/artifacts/`."""
    object: Literal["fine_tuning.job.artifact"] = "fine_tuning.job.artifact"
    """Always `fine_tuning.job.artifact`."""
    bytes: int
    """Its size."""
    modified_at: int
    """Unix seconds."""
    kind: Literal["model", "report", "log", "events", "checkpoint", "data", "other"]
    """What it is part of."""
