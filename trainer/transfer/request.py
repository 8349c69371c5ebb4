"""What a transfer table is asked for, and what that comes to: models by the name of their row, domains by column."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from trainer.catalogue import check_model_name, openai_models, resolve_alias, weights_dir
from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.prompts import expand_templates
from trainer.spec import ImageFolderSource, PositiveInt, Section
from trainer.transfer.benchmarks import BENCHMARKS

Mode = Literal["zero-shot", "features", "fine-tune"]
_EXPORT = "export"  # the last part of an export's path, which names no model


class Request(Section):
    """A transfer table, as asked for."""

    root: str
    """Folder of domains: ROOT/DOMAIN/CLASS/IMAGE."""
    output: str
    """Folder for the table and what leads to it."""
    mode: Mode = "zero-shot"
    step: Literal["measure", "prepare"] = "measure"
    """Fine-tuning has two: `prepare` writes the jobs, `measure` scores what they left."""
    models: tuple[str, ...] = ()
    """Models, each as `MODEL` or `ROW=MODEL`; none: OpenAI's nine, whose names mean OpenAI's weights here."""
    dataset: str | None = None
    """A benchmark that names the domains and their order."""
    domains: tuple[str, ...] = ()
    """Domains in order; none: the benchmark's, or all folders of `root` by name."""
    templates: tuple[str, ...] = ("a picture of a {}",)
    """Prompt templates, or the name of a published set."""
    class_names: str | None = None
    """JSON file with the name to use in prompts, by class folder."""
    keep_underscores: bool = False
    """Take folder names into prompts as they are, as the demo does."""
    batch_size: PositiveInt = 64
    precision: Literal["fp32", "amp_bf16"] = "fp32"
    leave_one_out: bool = False
    """Fine-tune on the other domains and test on the whole of this one, in place of a part of the same domain."""
    held_out: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    """Fine-tuning: share of each class for validation, and once more for testing."""
    seed: int = 0
    """Fine-tuning: draws the split, and is the jobs' seed."""
    overrides: tuple[str, ...] = ()
    """Fine-tuning: changes of the jobs' spec, `dotted.path=VALUE`."""


@dataclass(frozen=True)
class Settled:
    """A request that can be carried out."""

    models: dict[str, str]
    """Model name by row."""
    domains: dict[str, ImageFolderSource]
    """Data by column."""
    templates: tuple[str, ...]


def settle(request: Request) -> Settled:
    """Find the models and domains.

    Raises:
        UnusableSpecError: a name, a template or the benchmark is wrong.
        UnusableDataError: there is no such folder, or it lacks a domain.
    """
    try:
        templates = expand_templates(request.templates)
    except ValueError as error:
        raise UnusableSpecError(f"--templates: {error}") from None
    names = _class_names(request.class_names)
    folders = _folders(request)
    domains = {domain: _source(folder, names, request.keep_underscores) for domain, folder in folders.items()}
    return Settled(_models(request.models or tuple(openai_models())), domains, templates)


def _models(given: tuple[str, ...]) -> dict[str, str]:
    models: dict[str, str] = {}
    for text in given:
        row, name = _row_and_name(text)
        name = _resolved(name)
        if problem := check_model_name(name, weights_dir=weights_dir()):
            raise UnusableSpecError(f"--models {text}: {problem}")
        if file_name(row) in map(file_name, models):
            raise UnusableSpecError(f"--models: two rows are called {row!r}; name them as in {row}-2={name}")
        models[row] = name
    return models


def file_name(row: str) -> str:
    """A row's name where it is part of a file's, as the demo writes it: `ViT-B_32`."""
    return row.replace("/", "_")


def _row_and_name(text: str) -> tuple[str, str]:
    row, equals, name = text.partition("=")
    names_a_row = bool(equals) and not row.startswith(("local-dir:", "hf-hub:", "timm/"))
    return (row, name) if names_a_row else (_row_of(text), text)


def _resolved(name: str) -> str:
    if name.startswith("local-dir:"):
        return f"local-dir:{Path(name.removeprefix('local-dir:')).expanduser().absolute()}"
    return openai_models().get(name) or resolve_alias(name)


def _row_of(name: str) -> str:
    """A model's own name; a folder goes by its last part, the export of a job by the job's."""
    if not name.startswith("local-dir:"):
        return name
    folder = Path(name.removeprefix("local-dir:")).absolute()
    return folder.parent.name if folder.name == _EXPORT else folder.name


def _folders(request: Request) -> dict[str, Path]:
    root = Path(request.root)
    if not root.is_dir():
        raise UnusableDataError(f"there is no folder {str(root)!r}; it should hold a folder a domain")
    present = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    known = _benchmark(request.dataset) if request.dataset is not None else {name: name for name in present}
    folder_names = {known.get(domain, domain): domain for domain in request.domains or known}
    missing = [folder for folder in folder_names if folder not in present]
    if missing or not folder_names:
        wanted = f"has no domain folder {', '.join(missing)}" if missing else "holds no domain folders"
        choose = " Name those to use with --domains" if request.dataset and not request.domains else ""
        raise UnusableDataError(f"{str(root)!r} {wanted}; there are: {', '.join(present) or 'none'}.{choose}")
    return {domain: root.absolute() / folder for folder, domain in folder_names.items()}


def _benchmark(name: str) -> dict[str, str]:
    by_lower = {known.lower(): known for known in BENCHMARKS}
    if name.lower() not in by_lower:
        near = difflib.get_close_matches(name.lower(), by_lower, n=1)
        hint = f" Did you mean {by_lower[near[0]]}?" if near else ""
        raise UnusableSpecError(f"there is no benchmark {name!r}.{hint} Known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[by_lower[name.lower()]]


def _class_names(path: str | None) -> Mapping[str, str]:
    if path is None:
        return {}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableSpecError(f"--class-names {path!r} cannot be read: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise UnusableSpecError(f"--class-names {path!r} must hold a JSON mapping of class folder to name")
    return content


def _source(folder: Path, names: Mapping[str, str], keep_underscores: bool) -> ImageFolderSource:
    classes = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    own = {name: name for name in classes} if keep_underscores else {}
    return ImageFolderSource(path=str(folder), class_names=own | {k: v for k, v in names.items() if k in classes})
