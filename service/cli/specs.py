"""Specs from the command line: `--spec`, `--recipe` and `--set`, for jobs of the service and for `attune train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.resolve import read_spec_file, resolve, with_overrides
from trainer.spec import JobSpec

SpecOption = Annotated[
    Path | None, typer.Option("--spec", help="YAML or JSON file with a job spec, or part of one.", show_default=False)
]
RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="Recipe to start from; see `attune recipes list`.", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change a field, such as optim.lr=1e-5; can be repeated."),
]

_SOURCES = ("train", "validation")
_LOCAL_MODEL = "local-dir:"


def spec_from_options(spec: Path | None, recipe: str | None, overrides: list[str] | None) -> JobSpec:
    """The JobSpec that the three options make together.

    Raises:
        SpecError: with every problem found.
    """
    return resolve(recipe=recipe, spec=read_spec_file(spec) if spec else {}, overrides=overrides or ())


def spec_given(spec: Path | None, recipe: str | None, overrides: list[str] | None) -> JobSpec | None:
    """The JobSpec that the three options make together, which need not be runnable; None if none is given.

    Raises:
        SpecError: with every problem found.
    """
    if spec is None and recipe is None and not overrides:
        return None
    return resolve(recipe=recipe, spec=read_spec_file(spec) if spec else {}, overrides=overrides or (), runnable=False)


def partial_spec_for_service(spec: Path | None, recipe: str | None, overrides: list[str] | None) -> dict[str, Any]:
    """What the three options say, unresolved: the service knows its models, and resolves.

    Relative paths are taken from this folder, as the service runs in another one.

    Raises:
        SpecError: the file or an override cannot be read.
    """
    partial = with_overrides(read_spec_file(spec) if spec else {}, overrides or ())
    if recipe is not None:
        partial["recipe"] = recipe
    return _with_absolute_paths(partial)


def _with_absolute_paths(partial: dict[str, Any]) -> dict[str, Any]:
    data, parallel, model = (partial.get(name) for name in ("data", "parallel", "model"))
    made = dict(partial)
    if isinstance(data, dict):
        made["data"] = {name: _absolute_source(value) if name in _SOURCES else value for name, value in data.items()}
        if isinstance(data.get("evaluate"), dict):
            made["data"]["evaluate"] = {name: _absolute_source(value) for name, value in data["evaluate"].items()}
    if isinstance(parallel, dict):
        made["parallel"] = _absolute_fields(parallel, ("nvme_path", "deepspeed_config"))
    if isinstance(model, dict):
        made["model"] = {**model, "name": _absolute_model(model.get("name"))}
    elif model is not None:
        made["model"] = _absolute_model(model)
    return made


def _absolute_source(source: Any) -> Any:
    """A data source in its short form, a path, or in its long one. The service refuses what is neither."""
    if isinstance(source, dict):
        return _absolute_fields(source, ("path", "images_root"))
    return _absolute(source) if isinstance(source, str) else source


def _absolute_fields(section: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    paths = {name: _absolute(section[name]) for name in names if isinstance(section.get(name), str)}
    return {**section, **paths}


def _absolute_model(name: Any) -> Any:
    if isinstance(name, str) and name.startswith(_LOCAL_MODEL):
        return _LOCAL_MODEL + _absolute(name.removeprefix(_LOCAL_MODEL))
    return name


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
