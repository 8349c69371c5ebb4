"""When a service runs a job, for how long, and what it may do to it. `attune train` runs at once."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainer.spec.base import NonNegativeInt, PositiveFloat, PositiveInt, Section


class SchedulingSpec(Section):
    """The job's place among others."""

    priority: Annotated[int, Field(ge=0, le=100)] = 50
    """Jobs of higher priority start first, and may take the devices of preemptible ones of lower priority."""
    preemptible: bool = True
    """Whether a job of higher priority may stop this one after a checkpoint; it then waits and goes on."""
    min_devices: PositiveInt | None = None
    """Fewest devices in all to go on with where some are lost; the global batch stays. None: as many as it asks for."""
    max_runtime_s: PositiveFloat | None = None
    """Seconds of running, over all attempts, after which it ends as failed, with a last checkpoint; None: no limit."""
    deadline: PositiveFloat | None = None
    """Unix time by which it must have succeeded; after it, it ends as failed, with a last checkpoint."""
    stall_timeout_s: PositiveFloat | None = None
    """Seconds without a logged step or other sign of life after which an attempt is killed and tried again; None: what
    the service sets."""
    max_retries: NonNegativeInt | None = None
    """Attempts after the first that may fail without progress, whatever the reason; None: by the service's rules."""
