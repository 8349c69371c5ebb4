"""What a job spec's fields must satisfy together. Each problem names the field, its value and what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from trainer.spec_checks import augmentation, data, model, objective, outcome, scheduling, training
from trainer.spec_checks.data import check_pairs
from trainer.spec_checks.metrics import METRICS
from trainer.spec_checks.objective import problem_without_text_tower
from trainer.spec_checks.problem import Problem
from trainer.spec_checks.training import check_divides

if TYPE_CHECKING:
    from trainer.spec import JobSpec

__all__ = [
    "CHECKS",
    "METRICS",
    "Problem",
    "check_divides",
    "check_pairs",
    "problem_without_text_tower",
    "refuse_impossible",
]

CHECKS = (
    *training.CHECKS,
    *model.CHECKS,
    *objective.CHECKS,
    *data.CHECKS,
    *augmentation.CHECKS,
    *outcome.CHECKS,
    *scheduling.CHECKS,
)
"""Functions from a spec to the problems they find in it."""


def refuse_impossible(spec: JobSpec) -> None:
    """Raise one ValidationError that lists every impossible combination in `spec`."""
    problems = [problem for check in CHECKS for problem in check(spec)]
    if problems:
        raise ValidationError.from_exception_data(
            type(spec).__name__,
            [
                InitErrorDetails(
                    type=PydanticCustomError("impossible", "{message}", {"message": p.message}),
                    loc=tuple(p.field.split(".")),
                    input=p.value,
                )
                for p in problems
            ],
        )
