"""Data, templates and mixing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer import prompts
from trainer.spec.sources import lacks_labels, members
from trainer.spec_checks.problem import Problem

WITHOUT_SPLITS = ("Caltech101", "EuroSAT", "SUN397")
"""Data sets of torchvision that are one whole."""

if TYPE_CHECKING:
    from trainer.spec import AnySource, JobSpec


def _data(spec: JobSpec) -> Iterator[Problem]:
    try:
        prompts.expand_templates(spec.data.templates)
    except ValueError as error:
        yield Problem("data.templates", list(spec.data.templates), str(error))
    for name in spec.data.evaluate:
        if name in ("train", "validation") or "/" in name or not name:
            yield Problem(f"data.evaluate.{name}", name, "use another name: no slash, not `train` or `validation`")


def _long_texts(spec: JobSpec) -> Iterator[Problem]:
    if spec.data.long_texts == "refuse" and spec.objective.name == "classification":
        message = "`classification` trains on no texts, and the prompts that its head may begin with are not counted"
        yield Problem("data.long_texts", "refuse", f"{message}; leave it at `truncate`")


def _mixing(spec: JobSpec) -> Iterator[Problem]:
    augmentation = spec.data.augmentation
    is_on = {name: getattr(augmentation, name) > 0 for name in ("mixup", "cutmix")}
    for name, wanted in is_on.items():
        if wanted and spec.objective.name != "classification":
            message = f"images are mixed with their targets for `classification` only, not for `{spec.objective.name}`"
            yield Problem(f"data.augmentation.{name}", getattr(augmentation, name), message)
    needed = {"mix_probability": any(is_on.values()), "mix_switch_probability": all(is_on.values())}
    for name, has_effect in needed.items():
        value = getattr(augmentation, name)
        if not has_effect and value != type(augmentation).model_fields[name].default:
            wanted = "mixup or cutmix is" if name == "mix_probability" else "mixup and cutmix both are"
            yield Problem(f"data.augmentation.{name}", value, f"has no effect unless {wanted} above 0")


def check_pairs(spec: JobSpec, world_size: int) -> Problem | None:
    """Whether the images of a micro-batch can be mixed in pairs, where they are mixed at all."""
    batch, augmentation = spec.batch, spec.data.augmentation
    micro_size = batch.global_size // world_size if batch.micro_size == "auto" else batch.micro_size
    if micro_size % 2 == 0 or augmentation.mixup == augmentation.cutmix == 0:
        return None
    message = "mixup and cutmix mix pairs of images, and a micro-batch of"
    if batch.micro_size != "auto":
        message = f"{message} {micro_size} leaves one alone; use an even number"
        return Problem("batch.micro_size", micro_size, message)
    message = f"{message} {micro_size} (batch.global_size {batch.global_size} / {world_size} devices) leaves one alone"
    return Problem("batch.global_size", batch.global_size, f"{message}; use a multiple of {2 * world_size}")


def _pairs(spec: JobSpec) -> Iterator[Problem]:
    devices = spec.parallel.devices  # an odd global batch is odd on any number of devices
    if problem := check_pairs(spec, 1 if devices == "auto" else devices * spec.parallel.nodes):
        yield problem


def _shots(spec: JobSpec) -> Iterator[Problem]:
    shots, train = spec.data.shots, spec.data.train
    if shots is None or train is None:
        return
    if lacks_labels(train):
        field = "label_column" if train.format == "csv" else "format"
        message = "few-shot training counts images by class; name the column that holds it, or take data with classes"
        yield Problem(f"data.train.{field}", getattr(train, field), message)
    if train.format != "mixture" and train.limit_per_class is not None and train.limit_per_class < shots:
        message = f"data.shots {shots} is more than the {train.limit_per_class} images a class of limit_per_class"
        yield Problem("data.shots", shots, message)


def _episodes(spec: JobSpec) -> Iterator[Problem]:
    size, global_size = spec.data.episode_size, spec.batch.global_size
    if size is None:
        if "itra-episode-rows" in spec.compat:
            message = "`itra-episode-rows` concerns episodes only; set data.episode_size"
            yield Problem("compat", list(spec.compat), message)
        return
    if not spec.data.shuffle:
        message = "an episode is drawn at random, and data.shuffle is off; leave one of both out"
        yield Problem("data.episode_size", size, message)
    if size < global_size:
        message = f"data.episode_size {size} does not fill one batch of {global_size} (batch.global_size)"
        yield Problem("data.episode_size", size, message)


def _shares(spec: JobSpec) -> Iterator[Problem]:
    """Class balance and a mixture's weights draw from groups of samples by shares, in new orders."""
    data, weights = spec.data, _weights(spec)
    asked: dict[str, object] = {"data.class_balanced": True} if data.class_balanced else {}
    if weights is not None:
        asked["data.train.weights"] = list(weights)
    for field, value in asked.items():
        if not data.shuffle:
            message = "shares are drawn in new orders, and data.shuffle is off; leave one of both out"
            yield Problem(field, value, message)
        if "itra-episode-rows" in spec.compat:
            message = "`itra-episode-rows` draws from the first samples of the data, whatever they are; leave one out"
            yield Problem(field, value, message)


def _class_balance(spec: JobSpec) -> Iterator[Problem]:
    data, weights = spec.data, _weights(spec)
    if not data.class_balanced:
        return
    if data.shots is not None and weights is None:
        message = f"data.shots {data.shots} already takes as many images of each class; leave one of both out"
        yield Problem("data.class_balanced", True, message)
    if data.train is None:
        return
    lacking = [lacks_labels(member) for member in members(data.train)]
    if all(lacking) or (weights is not None and any(lacking)):
        message = "classes can be drawn equally often only where samples have one"
        mixed = data.train.format == "mixture"
        where = f"sources.{lacking.index(True)} of the mixture has" if mixed else "data.train has"
        yield Problem("data.class_balanced", True, f"{message}, and {where} captions only; name a label column")


def _weights(spec: JobSpec) -> tuple[float, ...] | None:
    train = spec.data.train
    return train.weights if train is not None and train.format == "mixture" else None


def _mixture(spec: JobSpec) -> Iterator[Problem]:
    for field, source in (
        ("data.train", spec.data.train),
        ("data.validation", spec.data.validation),
        *_evaluated(spec),
    ):
        if source is None or source.format != "mixture" or source.weights is None:
            continue
        if len(source.weights) != len(source.sources):
            message = f"there are {len(source.weights)} weights for {len(source.sources)} sources; give one for each"
            yield Problem(f"{field}.weights", list(source.weights), message)
        if field != "data.train":
            message = "weights say how often training draws from a source; evaluation takes every sample once"
            yield Problem(f"{field}.weights", list(source.weights), f"{message}; leave them out")


def _sources(spec: JobSpec) -> Iterator[tuple[str, AnySource]]:
    for field, source in (("data.train", spec.data.train), ("data.validation", spec.data.validation)):
        if source is not None:
            yield field, source
    yield from _evaluated(spec)


def _own_templates(spec: JobSpec) -> Iterator[Problem]:
    """Templates of one source, which zero-shot evaluation takes in place of the job's."""
    for field, source in _sources(spec):
        given = [member.templates for member in members(source)]
        first = f"{field}.sources.0.templates" if source.format == "mixture" else f"{field}.templates"
        if any(given) and field == "data.train":
            message = "a source's templates are for evaluating it; training reads data.templates"
            yield Problem(first, list(given[0] or ()), f"{message}; leave them out")
        elif any(templates != given[0] for templates in given):
            message = "a mixture is evaluated as one data set; give all of its sources the same templates, or none"
            yield Problem(first, list(given[0] or ()), message)
        elif given[0] is not None:
            try:
                prompts.expand_templates(given[0])
            except ValueError as error:
                yield Problem(first, list(given[0]), str(error))
            if spec.objective.name == "classification":
                message = "templates are for zero-shot evaluation, and a classifier has no text tower; leave them out"
                yield Problem(first, list(given[0]), message)


def _splits(spec: JobSpec) -> Iterator[Problem]:
    """A split of a table, and the column that names it."""
    for field, source in _sources(spec):
        for number, member in enumerate(members(source)):
            place = f"{field}.sources.{number}" if source.format == "mixture" else field
            if member.format in ("csv", "parquet") and (member.split is None) != (member.split_column is None):
                name, other = ("split", "split_column") if member.split_column is None else ("split_column", "split")
                message = f"says something only together with {other}; give both or neither"
                yield Problem(f"{place}.{name}", getattr(member, name), message)
            if member.format == "torchvision" and member.split and member.name in WITHOUT_SPLITS:
                message = f"{member.name} has no splits; leave it out, and choose with limit_per_class or fraction"
                yield Problem(f"{place}.split", member.split, message)


def _evaluated(spec: JobSpec) -> Iterator[tuple[str, AnySource]]:
    return ((f"data.evaluate.{name}", source) for name, source in spec.data.evaluate.items())


CHECKS = (
    _data,
    _long_texts,
    _mixing,
    _pairs,
    _shots,
    _episodes,
    _shares,
    _class_balance,
    _mixture,
    _own_templates,
    _splits,
)
