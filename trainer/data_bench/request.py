"""What `attune data bench` is asked for. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainer.data_tools.request import DataRequest
from trainer.resolve import resolve
from trainer.spec import JobSpec, PositiveInt

_DEFAULT_MODEL = "ViT-B-32"


class Bench(DataRequest):
    """Time the stages of reading data, and what a model takes."""

    model: str | None = None
    """Model to feed, in place of the job's."""
    num_samples: PositiveInt = 48
    """Images to time."""
    measure_model: bool = False
    """Run forward and backward passes on this machine, in place of an estimate from FLOPs; always where there is no GPU
    and none is named."""
    batch_size: PositiveInt = 32
    """Images a forward pass, where the model is run."""
    devices: PositiveInt | None = None
    """Devices that share the machine's cores; None: the job's, or all GPUs, or one process."""
    device_name: str | None = None
    """GPU to estimate for, such as `H200`; None: this machine's."""
    mfu: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of the device's peak that training is taken to reach."""

    def job(self) -> JobSpec:
        """The job whose model and preprocessing are meant; a contrastive one if only data are named."""
        if self.spec is None:
            return resolve(
                spec={"model": self.model or _DEFAULT_MODEL, "objective": {"name": "contrastive"}}, runnable=False
            )
        if self.model is None:
            return self.spec
        return JobSpec.model_validate(
            self.spec.model_dump() | {"model": {**self.spec.model_dump()["model"], "name": self.model}}
        )
