"""The points of a search: how many there are, the nth of a grid, one by chance, and the job that a point stands for."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from service.schemas.sweeps import Parameter, SweepCreate

Point = dict[str, Any]
"""Values by field of the spec."""
_TRIES = 200


def num_trials(request: SweepCreate) -> int:
    """How many trials a sweep comes to."""
    if request.trials is not None:
        return len(request.trials)
    if request.method == "grid":
        return math.prod(len(grid_values(parameter)) for parameter in request.parameters.values())
    points = [num_values(parameter) for parameter in request.parameters.values()]
    most = request.max_trials or 0
    return min(most, math.prod(number for number in points if number is not None)) if None not in points else most


def num_values(parameter: Parameter) -> int | None:
    """How many values a parameter can take; None: no end of them."""
    if parameter.values is None and parameter.step is None and not parameter.integer:
        return None
    if parameter.values is None and parameter.step is None:
        assert parameter.min is not None
        assert parameter.max is not None
        return int(parameter.max - parameter.min) + 1
    return len(grid_values(parameter))


def grid_values(parameter: Parameter) -> Sequence[Any]:
    """All values of a parameter that has `values`, a `step` or whole numbers."""
    if parameter.values is not None:
        return parameter.values
    assert parameter.min is not None
    assert parameter.max is not None
    step = parameter.step or 1
    count = math.floor((parameter.max - parameter.min) / step + 1e-9) + 1
    return [_number(parameter, parameter.min + i * step) for i in range(count)]


def grid_point(parameters: Mapping[str, Parameter], number: int) -> Point:
    """The combination of this number; the last parameter varies fastest."""
    point: Point = {}
    for field, parameter in reversed(list(parameters.items())):
        number, index = divmod(number, len(grid_values(parameter)))
        point[field] = grid_values(parameter)[index]
    return {field: point[field] for field in parameters}


def random_point(parameters: Mapping[str, Parameter], *, seed: int, number: int, known: Collection[str]) -> Point:
    """A point by chance, the same for the same seed and number; not one of `known` (`key_of`) where that can be."""
    chance = random.Random(f"{seed}/{number}")
    for _ in range(_TRIES):
        point = {field: _drawn(parameter, chance) for field, parameter in parameters.items()}
        if key_of(point) not in known:
            break
    return point


def key_of(point: Mapping[str, Any]) -> str:
    """A text that tells points apart."""
    return json.dumps(point, sort_keys=True)


def extremes(parameter: Parameter) -> Sequence[Any]:
    """The values that are checked before the first trial: all that are listed, or both ends."""
    if parameter.values is not None:
        return parameter.values
    assert parameter.min is not None
    assert parameter.max is not None
    return [_number(parameter, parameter.min), _number(parameter, parameter.max)]


def with_point(partial_spec: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """A partial spec with the values of a point in their places."""
    made = dict(partial_spec)
    for field, value in point.items():
        *parents, last = field.split(".")
        section = made
        for name in parents:
            below = section.get(name)
            if isinstance(below, str):  # what a plain string is short for
                below = {"name" if name == "model" else "path": below}
            section[name] = dict(below) if isinstance(below, Mapping) else {}
            section = section[name]
        section[last] = value
    return made


def value_at(spec: Mapping[str, Any], field: str) -> Any:
    """What a whole spec says at a dotted field, or None."""
    value: Any = spec
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _drawn(parameter: Parameter, chance: random.Random) -> Any:
    if parameter.values is not None:
        return chance.choice(parameter.values)
    assert parameter.min is not None
    assert parameter.max is not None
    if parameter.step is not None:
        return chance.choice(grid_values(parameter))
    low, high = float(parameter.min), float(parameter.max)
    if parameter.integer and not parameter.log:
        return chance.randint(int(low), int(high))
    value = math.exp(chance.uniform(math.log(low), math.log(high))) if parameter.log else chance.uniform(low, high)
    return _number(parameter, min(max(value, low), high))


def _number(parameter: Parameter, value: float) -> float | int:
    """A number as the spec takes it; the rounding hides what adding steps does to 0.1."""
    return round(value) if parameter.integer else float(f"{value:.12g}")
