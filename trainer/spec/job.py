"""The whole job."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from trainer import spec_checks
from trainer.spec.base import PositiveInt, Section
from trainer.spec.data import DataSpec
from trainer.spec.model import ModelSpec
from trainer.spec.objective import ContrastiveObjective, Objective
from trainer.spec.outcome import CheckpointSpec, EvaluationSpec, ExportSpec
from trainer.spec.scheduling import SchedulingSpec
from trainer.spec.training import BatchSpec, OptimSpec, ParallelSpec, ScheduleSpec

SCHEMA_VERSION: Literal[1] = 1


def _text_of_scalar(value: Any) -> Any:
    return str(value) if isinstance(value, (bool, int, float)) else value


Deviation = Literal["itra-layer-decay", "itra-weight-decay", "itra-prompt-pooling", "itra-episode-rows", "flyp-min-lr"]


class JobSpec(Section):
    """A fine-tuning job, whole."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this layout."""
    recipe: str | None = None
    """The recipe it started from, for the record."""
    model: ModelSpec
    """The model to start from."""
    objective: Objective = ContrastiveObjective()
    """What to train for, chosen by `objective.name`."""
    data: DataSpec = DataSpec()
    """The data."""
    batch: BatchSpec = BatchSpec()
    """Batch sizes."""
    optim: OptimSpec = OptimSpec()
    """The optimizer."""
    schedule: ScheduleSpec = ScheduleSpec()
    """Length and learning rate."""
    parallel: ParallelSpec = ParallelSpec()
    """Devices and precision."""
    scheduling: SchedulingSpec = SchedulingSpec()
    """The job's place among others."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """Checkpoints."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """Evaluation."""
    export: ExportSpec = ExportSpec()
    """Export."""
    compat: tuple[Deviation, ...] = ()
    """Faults of published code to repeat, for results that depend on them. `itra-layer-decay`: embeddings, patch
    convolution and first norm at the full rate. `itra-weight-decay`: position embeddings decayed.
    `itra-prompt-pooling`: learned prompts pooled at the end token's place before they moved it. `itra-episode-rows`:
    episodes drawn from the first episode_size samples only. `flyp-min-lr`: min_lr added to the cosine."""
    log_every_steps: PositiveInt = 10
    """Report loss and speed each time this many optimizer steps are done; the first and the last always."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of every random draw: weights, order, crops, augmentation, templates."""
    metadata: dict[
        Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512), BeforeValidator(_text_of_scalar)]
    ] = Field(default_factory=dict, max_length=16)
    """Up to 16 notes of your own (keys to 64, values to 512 characters)."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        spec_checks.refuse_impossible(self)
        return self
