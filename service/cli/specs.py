"""Specs from the command line: `--spec`, `--recipe` and `--set`, for jobs of the service and for `attune train`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from service.files.ids import FILE_ID
from trainer.prompts import published_class_names
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

_PATH_FIELDS = frozenset({"path", "images_root", "nvme_path", "deepspeed_config"})
_SOURCE = re.compile(r"data\.(train|validation|evaluate\.[^.]+)(\.\d+|\.sources\.\d+)?")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*(?:::|://)")
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
    placed: dict[str, Any] = _with_absolute_paths(partial)
    return placed


def _with_absolute_paths(value: Any, field: str = "") -> Any:
    """The same values with the paths among them taken from this folder; ids of uploaded files and URLs stay."""
    last = field.rpartition(".")[2]
    if isinstance(value, dict):
        return {
            name: _with_absolute_paths(inner, f"{field}.{name}" if field else str(name))
            for name, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_with_absolute_paths(inner, f"{field}.{index}") for index, inner in enumerate(value)]
    if not isinstance(value, str) or field.startswith("metadata."):
        return value
    if field in ("model", "model.name"):
        local = value.startswith(_LOCAL_MODEL)
        return _LOCAL_MODEL + _absolute(value.removeprefix(_LOCAL_MODEL)) if local else value
    names_classes = last == "class_names" and value not in published_class_names()
    return _absolute(value) if last in _PATH_FIELDS or _SOURCE.fullmatch(field) or names_classes else value


def _absolute(path: str) -> str:
    if FILE_ID.fullmatch(path) or _URL.match(path):
        return path
    return str(Path(path).expanduser().absolute())
