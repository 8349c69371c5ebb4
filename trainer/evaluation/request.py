"""What an evaluation is asked for: the command line, a job's spec and what the model's export remembers, joined."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from dali_pipelines.storage import is_url
from trainer.catalogue import check_model_name, weights_dir
from trainer.data_sources import own_words
from trainer.errors import UnusableSpecError
from trainer.evaluation.protocol import Protocol
from trainer.models import read_export
from trainer.named_sources import named_sources, source_from_text
from trainer.prompts import expand_templates
from trainer.resolve import read_spec_file, resolve
from trainer.spec import AnySource, DataSource, DataSpec, ImageFolderSource, JobSpec, MixtureSource, ModelSpec
from trainer.spec.sources import own_templates
from trainer.spec_checks.metrics import Task

_LEARNING: tuple[Task, ...] = ("linear_probe", "knn")
_TOP_K = 5


@dataclass(frozen=True)
class Request:
    """An evaluation, settled."""

    model: ModelSpec
    data: Mapping[str, AnySource]
    train: AnySource | None
    """What linear probe and k-NN learn from."""
    templates: tuple[str, ...]
    """Prompt templates of the data sets that name none of their own."""
    own_templates: Mapping[str, tuple[str, ...]]
    """By data set."""
    exif: Literal["ignore", "apply"]
    class_names: tuple[str, ...] | None
    """Names by label, in place of the data's own."""
    protocol: Protocol
    in_distribution: str | None
    """The data set that the others are shifted from."""

    def templates_of(self, dataset: str) -> tuple[str, ...]:
        """The prompt templates of one data set."""
        return self.own_templates.get(dataset, self.templates)

    def common_templates(self) -> tuple[str, ...]:
        """The prompt templates of all data sets.

        Raises:
            UnusableSpecError: they have different ones.
        """
        found = {self.templates_of(name) for name in self.data}
        if len(found) > 1:
            raise UnusableSpecError("the data sets have different templates; name those to use with --templates")
        return found.pop()


def settle(arguments: argparse.Namespace) -> Request:
    """Join the command line with the job's spec and what the model's export remembers; the former come first.

    Raises:
        UnusableSpecError: no model or no data is named, there is no such model, or an option cannot be read.
        SpecError: the job's spec is wrong.
    """
    spec = None if arguments.spec is None else resolve(spec=read_spec_file(arguments.spec), runnable=False)
    model = _model(arguments, spec)
    stored = read_export(Path(model.name.removeprefix("local-dir:"))) if model.name.startswith("local-dir:") else {}
    by_word, by_label = _class_names(arguments.class_names)
    found = {
        **named_sources(arguments.data, option="--data"),
        **_domains(arguments.domains, taken=arguments.data),
    } or _data_of(spec)
    if not found:
        raise UnusableSpecError("name data with --data, or a job with validation or evaluation data with --spec")
    data = {name: _completed(source, by_word, stored, arguments) for name, source in found.items()}
    train = _train_source(arguments, spec)
    if arguments.in_distribution is not None and (arguments.in_distribution not in data or len(data) < 2):
        raise UnusableSpecError(
            f"--in-distribution is {arguments.in_distribution!r}; name one of two or more data sets: {', '.join(data)}"
        )
    return Request(
        model=model,
        data=data,
        train=None if train is None else _completed(train, by_word, stored, arguments),
        templates=_templates(arguments.templates, stored, spec),
        own_templates=_own_templates(data, arguments),
        exif=arguments.exif or (spec.data.exif if spec else stored.get("preprocess", {}).get("exif", "ignore")),
        class_names=by_label,
        protocol=_protocol(arguments, train=train),
        in_distribution=arguments.in_distribution,
    )


def _model(arguments: argparse.Namespace, spec: JobSpec | None) -> ModelSpec:
    if arguments.model is None and spec is None:
        raise UnusableSpecError("name a model with --model, or a job with --spec")
    model = ModelSpec(name=arguments.model) if arguments.model else cast(JobSpec, spec).model
    if problem := check_model_name(model.name, weights_dir=weights_dir()):
        raise UnusableSpecError(problem)
    return model if arguments.image_size is None else model.model_copy(update={"image_size": arguments.image_size})


def _protocol(arguments: argparse.Namespace, *, train: AnySource | None) -> Protocol:
    tasks = _tasks(arguments.tasks)
    if train is None and (learning := [task for task in tasks or () if task in _LEARNING]):
        raise UnusableSpecError(f"--tasks {','.join(learning)} learns from data; name them with --train-data")
    _refuse_what_nothing_uses(arguments, tasks or ())
    subset = arguments.class_subset
    given = {
        "predict_over": arguments.predict_over,
        "probe_c": arguments.probe_c,
        "neighbours": arguments.knn_k,
        "temperature": arguments.knn_temperature,
    }
    return Protocol(
        tasks=tasks,
        views=arguments.tta,
        classes=None if arguments.classes is None else _names_in(arguments.classes, option="--classes"),
        class_subset=subset if subset in (None, "data") else _listed_or_filed(subset),
        top_k=(arguments.top_k or _TOP_K) if arguments.predictions is not None else 0,
        **{name: value for name, value in given.items() if value is not None},
    )


def _refuse_what_nothing_uses(arguments: argparse.Namespace, tasks: Sequence[Task]) -> None:
    needs = {
        "train_data": (bool(set(tasks) & set(_LEARNING)), "--tasks with linear_probe or knn"),
        "probe_c": ("linear_probe" in tasks, "--tasks with linear_probe"),
        "knn_k": ("knn" in tasks, "--tasks with knn"),
        "knn_temperature": ("knn" in tasks, "--tasks with knn"),
        "predict_over": (arguments.class_subset is not None, "--class-subset"),
        "top_k": (arguments.predictions is not None, "--predictions"),
    }
    for name, (used, partner) in needs.items():
        if getattr(arguments, name) is not None and not used:
            raise UnusableSpecError(f"--{name.replace('_', '-')} says something only together with {partner}")


def _tasks(text: str | None) -> tuple[Task, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip().replace("-", "_") for name in text.split(","))
    if unknown := [name for name in names if name not in get_args(Task)]:
        raise UnusableSpecError(f"--tasks names {', '.join(unknown)}; there are {', '.join(get_args(Task))}")
    return cast(tuple[Task, ...], names)


def _train_source(arguments: argparse.Namespace, spec: JobSpec | None) -> AnySource | None:
    if arguments.train_data is not None:
        return source_from_text(arguments.train_data, option="--train-data")
    return spec.data.train if spec is not None else None


def _domains(root: Path | None, *, taken: Sequence[str]) -> dict[str, AnySource]:
    """Every folder below `root` as an image folder: `root/DOMAIN/CLASS/IMAGE`."""
    if root is None:
        return {}
    if taken:
        raise UnusableSpecError("name data with --data or with --domains, not with both")
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not folders:
        raise UnusableSpecError(f"--domains {str(root)!r} must be a folder with a folder a domain in it")
    return {folder.name: ImageFolderSource(path=str(folder)) for folder in folders}


def _data_of(spec: JobSpec | None) -> dict[str, AnySource]:
    if spec is None:
        return {}
    validation_data = {} if spec.data.validation is None else {"validation": spec.data.validation}
    return {**validation_data, **spec.data.evaluate}


def _own_templates(data: Mapping[str, AnySource], arguments: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """Templates by data set; those of a job's data sets give way to --templates, those beside it contradict it."""
    found = {name: templates for name, source in data.items() if (templates := own_templates(source))}
    if found and arguments.templates:
        if arguments.data:
            raise UnusableSpecError(f"--templates and --data {next(iter(found))} both name templates; leave one out")
        return {}
    try:
        return {name: expand_templates(templates) for name, templates in found.items()}
    except ValueError as error:
        raise UnusableSpecError(f"templates of a data set: {error}") from None


def _completed(
    source: AnySource, by_word: Mapping[str, str], stored: Mapping[str, Any], arguments: argparse.Namespace
) -> AnySource:
    """The source with names for its classes: given ones, or those of the model's training for the classes that are
    here too; and with the limit of each class."""
    if isinstance(source, MixtureSource):
        parts = tuple(_completed(member, by_word, stored, arguments) for member in source.sources)
        return source.model_copy(update={"sources": parts})
    update: dict[str, Any] = {}
    if isinstance(source.class_names, dict):
        trained = _trained_names(stored)
        there = _words(source) if trained else set()
        known = {word: name for word, name in trained.items() if word in there}
        update["class_names"] = {**known, **source.class_names, **by_word}
    if arguments.limit_per_class is not None:
        update["limit_per_class"] = arguments.limit_per_class
    return source.model_copy(update=update)


def _trained_names(stored: Mapping[str, Any]) -> dict[str, str]:
    """Names by word that the sources of the model's training give."""
    trained = (stored.get("spec") or {}).get("data", {}).get("train") or {}
    parts = trained.get("sources", [trained])
    renamed = [part["class_names"] for part in parts if isinstance(part.get("class_names"), dict)]
    return {word: name for names in renamed for word, name in names.items()}


def _words(source: DataSource) -> set[str]:
    """The classes that will be taken, by the data's own words."""
    if isinstance(source, ImageFolderSource) and not is_url(source.path):
        there = {path.name for path in Path(source.path).expanduser().glob("*/")}  # without a look at the images
    else:
        there = set(own_words(source))
    return there if source.classes is None else there & set(source.classes)


def _class_names(path: Path | None) -> tuple[dict[str, str], tuple[str, ...] | None]:
    """Names by folder, and names by label: what a file says, of one kind or the other."""
    if path is None:
        return {}, None
    content = _content(path, option="--class-names")
    if isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
        return content, None
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return {}, tuple(content)
    raise UnusableSpecError(f"--class-names {str(path)!r} must hold a list of names, or a mapping of folder to name")


def _names_in(path: Path, *, option: str) -> tuple[str, ...]:
    content = _content(path, option=option)
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise UnusableSpecError(f"{option} {str(path)!r} must hold a list of names: a JSON list, or a name a line")
    if len(set(content)) < len(content):
        twice = sorted({name for name in content if content.count(name) > 1})
        raise UnusableSpecError(f"{option} {str(path)!r} names {', '.join(twice[:5])} more than once")
    return tuple(content)


def _listed_or_filed(text: str) -> tuple[str, ...]:
    """Names from a file if there is one of this name, or else separated by commas."""
    if Path(text).is_file():
        return _names_in(Path(text), option="--class-subset")
    return tuple(name.strip() for name in text.split(","))


def _content(path: Path, *, option: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else [line for line in text.splitlines() if line]
    except (OSError, ValueError) as error:
        raise UnusableSpecError(f"{option} {str(path)!r} cannot be read: {error}") from None


def _templates(given: Sequence[str], stored: Mapping[str, Any], spec: JobSpec | None) -> tuple[str, ...]:
    default = spec.data.templates if spec else stored.get("templates") or DataSpec().templates
    try:
        return expand_templates(given or default)
    except ValueError as error:
        raise UnusableSpecError(f"--templates: {error}") from None
