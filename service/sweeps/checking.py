"""Looks at a search before it begins: whether its first trial and the ends of every parameter make jobs that run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from service.schemas.sweeps import MAX_TRIALS, Parameter, SweepCreate
from service.store.records import JobRecord
from service.sweeps.space import Point, extremes, num_trials, value_at
from service.sweeps.suggesting import has_optuna
from trainer.resolve import SpecError, SpecProblem

Draft = Callable[[SweepCreate, Mapping[str, Any]], JobRecord]
_MOST_CHECKS = 100
"""Drafts of one parameter; what lies between is checked when its turn comes."""


def checked(request: SweepCreate, *, draft: Draft) -> SweepCreate:
    """The request with `integer` settled for every parameter.

    Args:
        draft: makes the job of a point, or raises SpecError.

    Raises:
        SpecError: naming the parameters or the fields of the job at fault.
    """
    if request.method == "bayesian" and not has_optuna():
        message = "Bayesian search needs Optuna on the service's machine: pip install 'attune-clip[sweeps]'"
        raise SpecError([SpecProblem(field="method", message=message, value="bayesian")])
    request = _with_integers(request, draft)
    count = num_trials(request)
    if count > MAX_TRIALS:
        raise SpecError(
            [SpecProblem(field="parameters", message=f"{count} combinations; at most {MAX_TRIALS} are run")]
        )
    first = dict(request.trials[0]) if request.trials else {f: extremes(p)[0] for f, p in request.parameters.items()}
    try:
        job = draft(request, first)
    except SpecError as error:
        raise SpecError([_blamed(problem, request) for problem in error.problems]) from None
    problems = [*_unmeasured(request, job.spec), *_bad_values(request, first, draft), *_bad_trials(request, draft)]
    if problems:
        raise SpecError(problems)
    return request


def _with_integers(request: SweepCreate, draft: Draft) -> SweepCreate:
    """A range is of whole numbers if it is written so and the job's own setting is no fraction."""
    try:
        own: Mapping[str, Any] = draft(request, {}).spec
    except SpecError:
        own = {}  # what is missing may be what varies
    settled: dict[str, Parameter] = {}
    for field, parameter in request.parameters.items():
        if parameter.values is None and parameter.integer is None:
            whole = parameter.has_whole_bounds and not isinstance(value_at(own, field), float)
            parameter = parameter.model_copy(update={"integer": whole})
        settled[field] = parameter
    listed = {} if request.trials is None else {"method": "grid"}
    return request.model_copy(update={"parameters": settled, **listed})


def _bad_values(request: SweepCreate, first: Point, draft: Draft) -> Iterator[SpecProblem]:
    for field, parameter in request.parameters.items():
        for value in extremes(parameter)[:_MOST_CHECKS]:
            try:
                draft(request, {**first, field: value})
            except SpecError as error:
                for problem in error.problems:
                    where = "" if problem.field == field else f"{problem.field}: "
                    message = f"with {value!r}, the job cannot be run: {where}{problem.message}"
                    yield SpecProblem(field=f"parameters.{field}", message=message, value=value)


def _bad_trials(request: SweepCreate, draft: Draft) -> Iterator[SpecProblem]:
    for number, point in enumerate((request.trials or [])[:_MOST_CHECKS]):
        try:
            draft(request, point)
        except SpecError as error:
            for problem in error.problems:
                yield problem.model_copy(update={"field": f"trials.{number}.{problem.field}"})


def _blamed(problem: SpecProblem, request: SweepCreate) -> SpecProblem:
    """A problem of the first trial, said of the parameter that makes it or of the job."""
    for field in request.parameters:
        if f"{problem.field}.".startswith(f"{field}.") or f"{field}.".startswith(f"{problem.field}."):
            return problem.model_copy(update={"field": f"parameters.{field}"})
    if any(problem.field in point for point in request.trials or []):
        return problem.model_copy(update={"field": f"trials.0.{problem.field}"})
    return problem.model_copy(update={"field": f"job.spec.{problem.field}" if problem.field else "job"})


def _unmeasured(request: SweepCreate, spec: Mapping[str, Any]) -> Iterator[SpecProblem]:
    dataset = request.metric.rpartition("/")[0]
    data = spec["data"]
    if dataset not in data["evaluate"] and (dataset != "validation" or data["validation"] is None):
        name = "data.validation" if dataset == "validation" else f"data.evaluate.{dataset}"
        message = f"the sweep compares {request.metric}, and the job has no such data; name {name}, or another metric"
        yield SpecProblem(field="metric", message=message, value=request.metric)
