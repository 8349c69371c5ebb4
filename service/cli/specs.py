"""Specs from the command line: `--spec`, `--recipe` and `--set`, for jobs of the service and for `attune train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.resolve import read_spec_file, resolve
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


def spec_from_options(spec: Path | None, recipe: str | None, overrides: list[str] | None) -> JobSpec:
    """The JobSpec that the three options make together.

    Raises:
        SpecError: with every problem found.
    """
    return resolve(recipe=recipe, spec=read_spec_file(spec) if spec else {}, overrides=overrides or ())


def with_absolute_paths(spec: JobSpec) -> dict[str, Any]:
    """The spec as JSON, its relative paths taken from this folder: the service runs in another one."""
    fields = spec.model_dump(mode="json")
    data, parallel = fields["data"], fields["parallel"]
    for source in (data["train"], data["validation"], *data["evaluate"].values()):
        for name in ("path", "images_root"):
            _make_absolute(source or {}, name)
    for name in ("nvme_path", "deepspeed_config"):
        _make_absolute(parallel, name)
    scheme, colon, folder = fields["model"]["name"].partition(":")
    if scheme == "local-dir" and colon:
        fields["model"]["name"] = f"local-dir:{Path(folder).expanduser().absolute()}"
    return fields


def _make_absolute(fields: dict[str, Any], name: str) -> None:
    if fields.get(name):
        fields[name] = str(Path(fields[name]).expanduser().absolute())
