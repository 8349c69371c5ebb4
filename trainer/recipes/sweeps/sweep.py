"""Sweep files: read one, and expand it to the job specs that it stands for. Imports no torch."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from trainer.recipes import RECIPES
from trainer.resolve import SpecError, SpecProblem, near, read_spec_file, resolve, told_once
from trainer.spec import JobSpec, Section

_FOLDER = Path(__file__).parent
_LONGEST_NAME = 80

FieldPath = Annotated[str, Field(pattern=r"^[a-z]\w*(\.[\w-]+)*$")]
Changes = dict[FieldPath, Any]
"""Values by dotted field of a spec, such as `optim.lr`."""


class Trial(Section):
    """One setting, run once for each seed."""

    name: Annotated[str, Field(pattern=r"^[\w.=+-]{1,80}$")] | None = None
    """What its folder and its row are called; None makes it from `set`."""
    set: Annotated[Changes, Field(min_length=1)]
    """What sets it apart."""
    published: float | None = None
    """The source's value of the metric, in percent."""
    note: str = ""
    """The source's own words for it, where they differ."""

    @property
    def folder_name(self) -> str:
        """`name`, or one made from the fields that are set."""
        return self.name or _name_from(self.set)


class Sweep(Section):
    """Trials over one recipe."""

    summary: str
    """One line."""
    source: str = ""
    """Where the published values stand."""
    recipe: str
    """The recipe that all trials start from."""
    metric: str = "validation/top1"
    """What is compared, as `DATASET/METRIC`."""
    set: Changes = Field(default_factory=dict)
    """Changes to the recipe for all trials."""
    trials: tuple[Trial, ...] = ()
    """The trials one by one, or none with a `grid`."""
    grid: dict[FieldPath, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Values by field; every combination is a trial."""

    def all_trials(self) -> tuple[Trial, ...]:
        """The trials listed, or every combination of the grid."""
        if self.trials or not self.grid:
            return self.trials
        return tuple(
            Trial(set=dict(zip(self.grid, values, strict=True))) for values in itertools.product(*self.grid.values())
        )

    def varied(self) -> tuple[str, ...]:
        """The fields that tell trials apart, in order of appearance."""
        return tuple(dict.fromkeys(field for trial in self.all_trials() for field in trial.set))


class UnknownSweep(SpecError):
    """There is no sweep of that name; the text lists those there are."""


@dataclass(frozen=True)
class PlannedRun:
    """One job of a sweep."""

    trial: Trial
    seed: int
    spec: JobSpec

    @property
    def folder(self) -> Path:
        """Its job folder, relative to the sweep's."""
        return Path("trials") / self.trial.folder_name / f"seed-{self.seed}"


def shipped_sweeps() -> dict[str, Sweep]:
    """The sweeps that come with the package, by name."""
    return {name: _read(_FOLDER / f"{name}.yaml") for name in _shipped_names()}


def find_sweep(name: str) -> Sweep:
    """A shipped sweep by name, or the one in a YAML or JSON file.

    Raises:
        UnknownSweep: there is none of that name.
        SpecError: the file is no sweep; with every problem found.
    """
    shipped = _FOLDER / f"{name}.yaml"
    if shipped.parent == _FOLDER and shipped.is_file():
        return _read(shipped)
    if Path(name).suffix in (".yaml", ".yml", ".json"):
        return _read(Path(name))
    names = _shipped_names()
    message = f"there is no sweep {name!r}.{near(name, names)} Give a YAML file, or one of: {', '.join(names)}"
    raise UnknownSweep([SpecProblem(field="", message=message, value=name)])


def expand(
    sweep: Sweep, *, overrides: Sequence[str] = (), repeats: int = 1, runnable: bool = True
) -> tuple[PlannedRun, ...]:
    """The jobs of a sweep, trial by trial; later ones win: recipe < sweep < trial < overrides.

    Args:
        sweep: what to expand.
        overrides: `dotted.path=VALUE` for all trials, such as the data.
        repeats: jobs a trial, with as many seeds from the spec's own on.
        runnable: whether the training data must be named.

    Raises:
        SpecError: a trial's spec cannot be made, or an override sets what the sweep varies.
    """
    if overridden := _overridden(overrides, sweep.varied()):
        raise SpecError(overridden)
    runs = []
    for trial in sweep.all_trials():
        spec = _resolve(sweep, trial, overrides, runnable=runnable)
        for seed in range(spec.seed, spec.seed + repeats):
            runs.append(PlannedRun(trial, seed, spec.model_copy(update={"seed": seed})))
    return tuple(runs)


def _resolve(sweep: Sweep, trial: Trial, overrides: Sequence[str], *, runnable: bool) -> JobSpec:
    changes = [*_as_overrides(sweep.set), *_as_overrides(trial.set), *overrides]
    try:
        return resolve(recipe=sweep.recipe, overrides=changes, runnable=runnable)
    except SpecError as error:
        raise SpecError(
            [p.model_copy(update={"message": f"{p.message} (trial {trial.folder_name})"}) for p in error.problems]
        ) from None


def _as_overrides(changes: Mapping[str, Any]) -> list[str]:
    return [f"{field}={json.dumps(value)}" for field, value in changes.items()]


def _overridden(overrides: Sequence[str], varied: Sequence[str]) -> list[SpecProblem]:
    problems = []
    for override in overrides:
        path = override.partition("=")[0]
        for field in varied:
            if f"{field}.".startswith(f"{path}.") or f"{path}.".startswith(f"{field}."):
                message = f"the sweep varies {field}; leave it out of --set, or write a sweep file of your own"
                problems.append(SpecProblem(field=path, message=message, value=override))
    return problems


def _shipped_names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def _read(path: Path) -> Sweep:
    try:
        sweep = Sweep.model_validate(read_spec_file(path))
    except ValidationError as error:
        problems = [_problem(path, e) for e in told_once(error)]
        raise SpecError(problems) from None
    if problems := _faults(sweep):
        raise SpecError([SpecProblem(field=p.field, message=f"{path}: {p.message}", value=p.value) for p in problems])
    return sweep


def _problem(path: Path, error: Mapping[str, Any]) -> SpecProblem:
    field = ".".join(str(part) for part in error["loc"])
    message = error["msg"]
    if error["type"] == "extra_forbidden":
        section = Trial if len(error["loc"]) > 1 else Sweep
        known = sorted(section.model_fields)
        message = f"there is no such field.{near(str(error['loc'][-1]), known)} Allowed: {', '.join(known)}"
    elif error["type"] != "missing":
        message = f"{message}, got {error['input']!r}"
    return SpecProblem(field=field, message=f"{path}: {message}", value=error.get("input"))


def _faults(sweep: Sweep) -> list[SpecProblem]:
    """What is wrong with a sweep as a whole."""
    problems = []
    if bool(sweep.trials) == bool(sweep.grid):
        both = "both" if sweep.grid else "neither"
        problems.append(SpecProblem(field="trials", message=f"give `trials` or `grid`; the file has {both}"))
    if sweep.recipe not in RECIPES:
        message = f"there is no recipe {sweep.recipe!r}.{near(sweep.recipe, list(RECIPES))}"
        problems.append(SpecProblem(field="recipe", message=message, value=sweep.recipe))
    dataset, slash, metric = sweep.metric.partition("/")
    if not (dataset and slash and metric):
        problems.append(SpecProblem(field="metric", message=f"{sweep.metric!r} is not DATASET/METRIC"))
    counts = Counter(trial.folder_name for trial in sweep.all_trials())
    for name in (name for name, count in counts.items() if count > 1):
        message = f"{counts[name]} trials are called {name!r}; give them a `name` each, or leave out the repetition"
        problems.append(SpecProblem(field="trials", message=message, value=name))
    return problems


def _name_from(changes: Mapping[str, Any]) -> str:
    parts = [f"{field.rpartition('.')[2]}={_short(value)}" for field, value in changes.items()]
    return ",".join(parts).replace(",", "+")[:_LONGEST_NAME]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^\w.+-]+", "_", text).strip("_") or "none"
