"""What `trainer/evaluate.py` does: settle model, data and templates, measure, and report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import yaml
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table as RichTable

from dali_pipelines.manifest import Manifest
from dali_pipelines.sources import DataError
from trainer import distributed, preflight
from trainer.catalogue import check_model_name, weights_dir
from trainer.errors import TrainingError, UnusableDataError, UnusableSpecError
from trainer.evaluation.datasets import evaluate_dataset
from trainer.evaluation.report import Result, Table, metrics_table, per_class_table
from trainer.job_dir import write_json_atomically
from trainer.models import ClassifierModel, ClipModel, ModelError, load_clip, read_export
from trainer.prompts import expand_templates
from trainer.resolve import SpecError, read_spec_file, resolve
from trainer.spec import AnySource, DataSource, DataSpec, ImageFolderSource, JobSpec, ModelSpec
from trainer.timm_layout import read_classifier

_BAD_INPUT = (DataError, ModelError, SpecError, TrainingError)


@dataclass(frozen=True)
class Request:
    """An evaluation, settled."""

    model: ModelSpec
    data: Mapping[str, DataSource]
    templates: tuple[str, ...]
    exif: Literal["ignore", "apply"]
    class_names: tuple[str, ...] | None
    """Names by label, in place of the data's own."""


def evaluate(arguments: argparse.Namespace) -> int:
    """Run the command on this rank; 0 done, 2 for a model or data that cannot be used."""
    device = distributed.join()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    try:
        request = settle(arguments)
        results = _measure(request, arguments, device=device, rank=rank, world_size=world_size)
    except _BAD_INPUT as error:
        if rank == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        distributed.leave()
    if rank == 0:
        _report(results, request, arguments)
    return 0


def settle(arguments: argparse.Namespace) -> Request:
    """Join the command line with the job's spec and what the model's export remembers; the former come first.

    Raises:
        UnusableSpecError: no model or no data is named, there is no such model, or an option cannot be read.
        SpecError: the job's spec is wrong.
    """
    spec = None if arguments.spec is None else resolve(spec=read_spec_file(arguments.spec), runnable=False)
    if arguments.model is None and spec is None:
        raise UnusableSpecError("name a model with --model, or a job with --spec")
    model = ModelSpec(name=arguments.model) if arguments.model else spec.model
    if problem := check_model_name(model.name, weights_dir=weights_dir()):
        raise UnusableSpecError(problem)
    if arguments.image_size is not None:
        model = model.model_copy(update={"image_size": arguments.image_size})
    stored = read_export(Path(model.name.removeprefix("local-dir:"))) if model.name.startswith("local-dir:") else {}
    data = _named_data(arguments.data) if arguments.data else _data_of(spec)
    if not data:
        raise UnusableSpecError("name data with --data, or a job with validation or evaluation data with --spec")
    by_folder, by_label = _class_names(arguments.class_names)
    return Request(
        model=model,
        data={name: _with_class_names(source, by_folder, stored) for name, source in data.items()},
        templates=_templates(arguments.templates, stored, spec),
        exif=arguments.exif or (spec.data.exif if spec else stored.get("preprocess", {}).get("exif", "ignore")),
        class_names=by_label,
    )


def _measure(
    request: Request, arguments: argparse.Namespace, *, device: torch.device, rank: int, world_size: int
) -> list[Result]:
    manifests = _agreed_manifests(request, arguments, rank=rank)
    model = _load(request)
    model.module.to(device)
    results: list[Result] = []
    for name, manifest in manifests.items():
        results += evaluate_dataset(
            model,
            manifest,
            dataset=name,
            templates=request.templates,
            device=device,
            rank=rank,
            world_size=world_size,
            batch_size=arguments.batch_size,
            num_threads=arguments.num_threads,
            on_bad_sample=arguments.on_bad_sample,
            precision=arguments.precision,
        )
    return results


def _load(request: Request) -> ClipModel | ClassifierModel:
    name = request.model.name
    folder = Path(name.removeprefix("local-dir:"))
    if not name.startswith("local-dir:") or (folder / "open_clip_config.json").exists():
        return load_clip(request.model, exif=request.exif)
    if request.model.image_size is not None:
        raise UnusableSpecError("a classifier keeps the input size it was exported with; leave out --image-size")
    model = read_classifier(folder)
    return replace(model, preprocess=replace(model.preprocess, exif=request.exif))


def _agreed_manifests(request: Request, arguments: argparse.Namespace, *, rank: int) -> dict[str, Manifest]:
    """Rank 0 reads and checks the data; the others take its word, or its complaint."""
    found: dict[str, Manifest] | str = {}
    if rank == 0:
        try:
            found = {name: _read(name, source, request, arguments) for name, source in request.data.items()}
        except _BAD_INPUT as error:
            found = str(error)
    found = distributed.agree(found)
    if isinstance(found, str):
        raise UnusableDataError(found)
    return found


def _read(name: str, source: DataSource, request: Request, arguments: argparse.Namespace) -> Manifest:
    try:
        manifest, report = preflight.read_source(
            source, on_bad_sample=arguments.on_bad_sample, exif=request.exif, num_threads=arguments.num_threads
        )
    except DataError as error:
        raise UnusableDataError(f"data set {name!r}: {error}") from None
    for path, why in report.bad:
        print(f"warning: {name}: left out {path}: {why}", file=sys.stderr)
    if request.class_names is None:
        return manifest
    if len(request.class_names) != len(manifest.class_names):
        raise UnusableDataError(
            f"--class-names lists {len(request.class_names)} names, but data set {name!r} has"
            f" {len(manifest.class_names)} classes: {', '.join(manifest.class_names[:10])}"
        )
    return replace(manifest, class_names=request.class_names)


def _named_data(arguments: Sequence[str]) -> dict[str, DataSource]:
    """Data sets by name from `[NAME=]PATH` or `[NAME=]{yaml mapping}`; a path without a name goes by its last part."""
    data: dict[str, DataSource] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name.replace("-", "_").isidentifier():
            name, text = "", argument
        try:
            value = yaml.safe_load(text) if text.startswith("{") else text
            source = TypeAdapter(AnySource).validate_python(value)
        except ValidationError as error:
            told = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
            raise UnusableSpecError(f"--data {argument!r} describes no source: {told}") from None
        except yaml.YAMLError as error:
            raise UnusableSpecError(f"--data {argument!r} is not valid YAML: {error}") from None
        name = name or Path(source.path).resolve().stem
        if name in data:
            raise UnusableSpecError(f"two data sets are called {name!r}; name them with --data NAME=PATH")
        data[name] = source
    return data


def _data_of(spec: JobSpec | None) -> dict[str, DataSource]:
    if spec is None:
        return {}
    validation_data = {} if spec.data.validation is None else {"validation": spec.data.validation}
    return {**validation_data, **spec.data.evaluate}


def _class_names(path: Path | None) -> tuple[dict[str, str], tuple[str, ...] | None]:
    """Names by folder, and names by label: what a file says, of one kind or the other."""
    if path is None:
        return {}, None
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = json.loads(text) if path.suffix == ".json" else [line for line in text.splitlines() if line]
    except (OSError, ValueError) as error:
        raise UnusableSpecError(f"--class-names {str(path)!r} cannot be read: {error}") from None
    if isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
        return content, None
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return {}, tuple(content)
    raise UnusableSpecError(f"--class-names {str(path)!r} must hold a list of names, or a mapping of folder to name")


def _with_class_names(source: DataSource, by_folder: Mapping[str, str], stored: Mapping[str, Any]) -> DataSource:
    """An image folder's names: given ones, or those of the model's training for the folders that are here too."""
    if not isinstance(source, ImageFolderSource):
        return source
    trained = ((stored.get("spec") or {}).get("data", {}).get("train") or {}).get("class_names") or {}
    known = {folder: name for folder, name in trained.items() if (Path(source.path) / folder).is_dir()}
    return source.model_copy(update={"class_names": {**known, **source.class_names, **by_folder}})


def _templates(given: Sequence[str], stored: Mapping[str, Any], spec: JobSpec | None) -> tuple[str, ...]:
    default = spec.data.templates if spec else stored.get("templates") or DataSpec().templates
    try:
        return expand_templates(given or default)
    except ValueError as error:
        raise UnusableSpecError(f"--templates: {error}") from None


def _report(results: Sequence[Result], request: Request, arguments: argparse.Namespace) -> None:
    document = {
        "model": request.model.name,
        "templates": list(request.templates),
        "precision": arguments.precision,
        "results": [result.to_dict() for result in results],
    }
    if arguments.output is not None:
        write_json_atomically(arguments.output / "results.json", document)
    if arguments.json:
        print(json.dumps(document, indent=1))
        return
    _show(metrics_table(results), title=request.model.name)
    for result in results:
        if arguments.per_class and result.per_class:
            _show(per_class_table(result), title=result.dataset)


def _show(table: Table, *, title: str) -> None:
    shown = RichTable(title=title)
    for index, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if index and column in ("%", "images", "top-1 %") else "left")
    for row in table.rows:
        shown.add_row(*row)
    Console().print(shown)
