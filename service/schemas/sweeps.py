"""Sweeps over REST: the search that somebody asks for, and where it stands."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from service.schemas.base import Answer, Body
from service.schemas.job_request import JobCreate
from service.schemas.pages import Named
from service.store.records import SweepRecord
from trainer.resolve import near
from trainer.spec_checks.metrics import METRICS

MAX_TRIALS = 1000
MAX_VALUES = 1000
SpecField = Annotated[str, Field(pattern=r"^[a-z][A-Za-z0-9_]*(\.[A-Za-z0-9_-]+)*$", max_length=255)]
Number = Annotated[int, Field(ge=-(2**53), le=2**53)] | Annotated[float, Field(allow_inf_nan=False)]
Method = Literal["grid", "random", "bayesian"]


class Parameter(Body):
    """What a setting may be: one of `values`, or a number from `min` to `max`."""

    values: Annotated[list[JsonValue], Field(min_length=1, max_length=MAX_VALUES)] | None = None
    """The values to choose from."""
    min: Number | None = None
    """Smallest number."""
    max: Number | None = None
    """Largest number."""
    log: bool = False
    """Spread the numbers evenly by their logarithm, as for learning rates."""
    step: Number | None = None
    """Only `min`, `min + step` and so on."""
    integer: bool | None = None
    """Only whole numbers; null: if all bounds are whole and the setting is no fraction in the job's own spec."""

    @model_validator(mode="after")
    def _is_a_space(self) -> Self:
        bounds = (self.min, self.max, self.step)
        if self.values is not None:
            if any(bound is not None for bound in bounds) or self.log or self.integer is not None:
                raise ValueError("give `values`, or `min` and `max` with `log`, `step` or `integer`, not both")
            _refuse_repetition(self.values)
            return self
        if self.min is None or self.max is None:
            raise ValueError("give `values`, or `min` and `max`")
        if not self.min < self.max:
            raise ValueError(f"min must be less than max, got {self.min!r} and {self.max!r}")
        self._check_spacing(self.min, self.max)
        return self

    def _check_spacing(self, low: float, high: float) -> None:
        if self.log and low <= 0:
            raise ValueError(f"with `log`, min must be more than 0, got {low!r}")
        if self.step is not None:
            if self.log:
                raise ValueError("`log` and `step` exclude each other; list the `values`")
            if not 0 < self.step <= high - low:
                raise ValueError(f"step must be more than 0 and at most max - min, {high - low:g}; got {self.step!r}")
            if (high - low) / self.step >= MAX_VALUES:
                raise ValueError(f"step {self.step!r} makes more than {MAX_VALUES} values")
        if self.integer and any(bound is not None and bound != int(bound) for bound in (low, high, self.step)):
            raise ValueError("with `integer`, min, max and step are whole numbers")

    @property
    def has_whole_bounds(self) -> bool:
        """Whether min, max and step are written as whole numbers."""
        return all(isinstance(bound, int) for bound in (self.min, self.max, self.step) if bound is not None)


class MedianStopping(Body):
    """Stop a trial whose best value so far is worse than the median of the other trials' best at the same point."""

    warmup_evaluations: Annotated[int, Field(ge=1, le=1000)] = 1
    """Evaluations that every trial may make before it is compared."""
    min_trials: Annotated[int, Field(ge=1, le=MAX_TRIALS)] = 3
    """Other trials that must have come as far."""


class SweepCreate(Body):
    """A search over settings; each trial is a job of its own."""

    name: Annotated[str, Field(max_length=255)] | None = None
    """For people."""
    job: JobCreate
    """The job that all trials are variations of."""
    parameters: Annotated[dict[SpecField, Parameter], Field(max_length=32)] = Field(default_factory=dict)
    """What varies, by field of the spec, such as `optim.lr`."""
    trials: Annotated[list[dict[SpecField, JsonValue]], Field(max_length=MAX_TRIALS)] | None = None
    """In place of `parameters`: the trials one by one, as values by field of the spec."""
    method: Method = "random"
    """How trials are chosen: every combination, by chance, or by what earlier ones came to (TPE, through Optuna)."""
    max_trials: Annotated[int, Field(ge=1, le=MAX_TRIALS)] | None = None
    """How many; needed unless the method is `grid`, which takes every combination."""
    max_parallel: Annotated[int, Field(ge=1, le=100)] = 4
    """Trials that wait or run at once."""
    metric: Annotated[str, Field(max_length=255)] = "validation/top1"
    """What is compared, as `DATASET/METRIC`. Whether more or less of it is better is the metric's own."""
    median_stopping: MedianStopping | None = None
    """Stop trials early that do badly; null: let all run to their end."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Of the choice of trials; the jobs' own seed is the spec's."""

    @field_validator("metric")
    @classmethod
    def _is_known(cls, value: str) -> str:
        dataset, _, name = value.rpartition("/")
        if not dataset or name not in METRICS:
            known = sorted(METRICS)
            raise ValueError(f"{value!r} is no DATASET/METRIC.{near(name, known)} Metrics: {', '.join(known)}")
        return value

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        if (self.trials is None) == (not self.parameters):
            raise ValueError("parameters: give `parameters` with something to vary, or `trials`")
        if self.trials is not None:
            self._check_trials(self.trials)
        elif self.method == "grid":
            self._check_grid()
        elif self.max_trials is None:
            raise ValueError(f"max_trials: the method {self.method!r} has no end of its own; say how many trials")
        for field in self.parameters:
            if nested := [other for other in self.parameters if other.startswith(f"{field}.")]:
                raise ValueError(f"parameters.{field}: {nested[0]} lies inside of it; vary one of the two")
        return self

    def _check_trials(self, trials: list[dict[str, Any]]) -> None:
        if not trials or not all(trials):
            raise ValueError("trials: each sets at least one field, and there is at least one")
        if "method" in self.model_fields_set and self.method != "grid":
            raise ValueError(f"method: trials that are listed are not chosen; leave out {self.method!r}")
        if self.max_trials is not None:
            raise ValueError("max_trials: trials that are listed are all run; leave it out")
        _refuse_repetition(trials)

    def _check_grid(self) -> None:
        for field, parameter in self.parameters.items():
            if parameter.values is None and parameter.step is None and not parameter.integer:
                raise ValueError(f"parameters.{field}: a grid needs `values` or `step`; a range has no end of points")
        if self.max_trials is not None:
            raise ValueError("max_trials: a grid takes every combination; leave it out, or use the method 'random'")


def _refuse_repetition(values: list[Any]) -> None:
    seen = [json.dumps(value, sort_keys=True) for value in values]
    for index, text in enumerate(seen):
        if text in seen[:index]:
            raise ValueError(f"{text} is given twice")
    if any(isinstance(value, float) and not math.isfinite(value) for value in values):
        raise ValueError("values are finite")


class SweepCounts(Answer):
    """How many trials are where."""

    total: int
    """Trials that there will be."""
    waiting: int = 0
    """Chosen, and not yet submitted."""
    running: int = 0
    """Submitted as jobs that have not ended."""
    succeeded: int = 0
    """With a value."""
    failed: int = 0
    """Without one."""
    stopped: int = 0
    """Ended early, because they did badly or somebody cancelled them."""


class SweepError(Answer):
    """Why a sweep failed."""

    message: str
    """A sentence."""


class BestTrial(Answer):
    """The trial that has done best."""

    number: int
    """0 for the first."""
    job_id: str | None
    """Its job."""
    value: float
    """Of the sweep's metric."""
    parameters: dict[str, Any]
    """What it set."""


class Sweep(Named):
    """A search over settings."""

    id: str
    """`sweep-...`"""
    object: Literal["fine_tuning.sweep"] = "fine_tuning.sweep"
    """Always `fine_tuning.sweep`."""
    name: str | None
    """For people."""
    status: Literal["running", "succeeded", "failed", "cancelled"]
    """Where it stands."""
    error: SweepError | None
    """Why it failed, if it did."""
    created_at: int
    """Unix seconds."""
    finished_at: int | None
    """Unix seconds."""
    metric: str
    """What is compared."""
    goal: Literal["maximize", "minimize"]
    """Whether more or less of it is better."""
    trial_counts: SweepCounts
    """How many trials are where."""
    best: BestTrial | None
    """The best trial so far; null in lists of sweeps."""
    request: dict[str, Any]
    """What was asked for."""

    @classmethod
    def from_record(cls, record: SweepRecord, *, counts: SweepCounts, goal: Any, best: BestTrial | None) -> Sweep:
        """The sweep as it is sent."""
        message = record.error_message
        return cls(
            id=record.id,
            name=record.name,
            status=record.status,
            error=None if message is None else SweepError(message=message),
            created_at=int(record.created_at),
            finished_at=None if record.finished_at is None else int(record.finished_at),
            metric=record.request["metric"],
            goal=goal,
            trial_counts=counts,
            best=best,
            request=record.request,
        )


class SweepResult(Answer):
    """A row of the results: one trial."""

    trial: int
    """0 for the first."""
    status: Literal["waiting", "running", "succeeded", "failed", "stopped"]
    """Where it stands."""
    job_id: str | None
    """Its job."""
    value: float | None
    """Of the sweep's metric: the finished model's, or the best so far."""
    rank: int | None
    """1 for the best value."""
    step: int | None
    """Optimizer steps until the value was reached; null for that of the finished model."""
    runtime_s: float | None
    """Seconds that its ended attempts have run."""
    fine_tuned_model: str | None
    """The model, once there is one."""
    note: str | None
    """Why it failed or was stopped."""
    parameters: dict[str, Any]
    """What it set, by field of the spec."""


class SweepResults(Answer):
    """The results as a table of a row a trial."""

    object: Literal["list"] = "list"
    """Always `list`."""
    sweep_id: str
    """The sweep."""
    metric: str
    """What is compared."""
    goal: Literal["maximize", "minimize"]
    """Whether more or less of it is better."""
    data: list[SweepResult]
    """The rows, by number."""
    has_more: bool = False
    """Always false: all rows are here."""
