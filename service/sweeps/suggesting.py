"""Which point comes next. The same request, number and earlier trials give the same point, also after a restart."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from service.schemas.sweeps import Parameter, SweepCreate
from service.sweeps.space import Point, grid_point, key_of, random_point
from trainer.spec_checks.metrics import metric_named

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_NUM_RANDOM_FIRST = 10


@dataclass(frozen=True)
class Tried:
    """An earlier trial."""

    parameters: Mapping[str, Any]
    outcome: Literal["running", "value", "stopped", "nothing"]
    value: float | None = None
    """The metric; of a stopped trial the best that it had."""


def has_optuna() -> bool:
    """Whether Bayesian search is installed."""
    return importlib.util.find_spec("optuna") is not None


def goal_of(metric: str) -> Literal["maximize", "minimize"]:
    """Whether more or less of a metric is better."""
    return "maximize" if metric_named(metric).higher_is_better else "minimize"


def next_point(request: SweepCreate, *, number: int, tried: Sequence[Tried]) -> Point:
    """The point of trial `number`, knowing the earlier ones."""
    if request.trials is not None:
        return dict(request.trials[number])
    if request.method == "grid":
        return grid_point(request.parameters, number)
    known = {key_of(trial.parameters) for trial in tried}
    by_chance = random_point(request.parameters, seed=request.seed, number=number, known=known)
    if request.method == "random" or number < _NUM_RANDOM_FIRST:
        return by_chance
    suggested = _suggested(request, number=number, tried=tried)
    return by_chance if key_of(suggested) in known else suggested


def _suggested(request: SweepCreate, *, number: int, tried: Sequence[Tried]) -> Point:
    """What the tree-structured Parzen estimator proposes, https://proceedings.neurips.cc/paper/2011/hash/86e8f7ab32cfd12577bc2619bc635690-Abstract.html."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Every trial has a sampler of its own, so that a restart changes nothing of what the next ones are.
    sampler = optuna.samplers.TPESampler(seed=request.seed + number, n_startup_trials=0, constant_liar=True)
    study: Study = optuna.create_study(sampler=sampler, direction=goal_of(request.metric))
    distributions = {field: _distribution(parameter) for field, parameter in request.parameters.items()}
    for trial in tried:
        study.add_trial(_frozen(trial, request.parameters, distributions))
    params = study.ask(fixed_distributions=distributions).params
    return {field: _value(request.parameters[field], params[field]) for field in request.parameters}


def _distribution(parameter: Parameter) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.values is not None:
        return CategoricalDistribution(range(len(parameter.values)))  # Optuna takes no lists as values
    assert parameter.min is not None
    assert parameter.max is not None
    if parameter.integer:
        step = int(parameter.step or 1)
        return IntDistribution(int(parameter.min), int(parameter.max), log=parameter.log, step=step)
    return FloatDistribution(parameter.min, parameter.max, log=parameter.log, step=parameter.step)


def _frozen(
    trial: Tried, parameters: Mapping[str, Parameter], distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    state = {
        "running": TrialState.RUNNING,
        "value": TrialState.COMPLETE,
        "stopped": TrialState.PRUNED,
        "nothing": TrialState.FAIL,
    }[trial.outcome]
    return create_trial(
        state=state,
        params={field: _param(parameters[field], value) for field, value in trial.parameters.items()},
        distributions=dict(distributions),
        value=trial.value if trial.outcome == "value" else None,
        intermediate_values={1: trial.value} if trial.outcome == "stopped" and trial.value is not None else None,
    )


def _param(parameter: Parameter, value: Any) -> Any:
    return value if parameter.values is None else parameter.values.index(value)


def _value(parameter: Parameter, param: Any) -> Any:
    if parameter.values is not None:
        return parameter.values[param]
    return int(param) if parameter.integer else float(f"{param:.12g}")
