"""How much data a job would train on, without opening an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dali_pipelines.sampler import draw_shots, steps_per_epoch
from dali_pipelines.sources import DataError, Samples
from trainer.data_sources import list_members, open_cache
from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.prompts import expand_templates
from trainer.recipes import RECIPES, PublishedData
from trainer.spec import JobSpec
from trainer.spec.sources import members


@dataclass(frozen=True)
class TrainingData:
    """The size of the training data, and where it is known from."""

    num_train: int | None
    """Images, before `data.shots` or `data.episode_size` choose among them; `data.class_balanced` leaves out those on
    disk that have no class."""
    num_classes: int | None
    devices: int | None
    """Ranks of the published run, for a recipe whose job names no data of its own."""
    origin: str | None
    """A sentence's end: the option, the folder or the published data set."""

    def samples_per_epoch(self, spec: JobSpec) -> int | None:
        """Images that make an epoch: an episode, a few of each class, or all.

        Raises:
            UnusableSpecError: there are fewer images than the shots need.
        """
        if spec.data.episode_size is not None:
            return spec.data.episode_size
        if spec.data.shots is None:
            return self.num_train
        if self.num_classes is None:
            return None
        chosen = spec.data.shots * self.num_classes
        if self.num_train is not None and chosen > self.num_train:
            raise UnusableSpecError(
                f"data.shots {spec.data.shots} of {self.num_classes} classes are {chosen} images, more than the "
                f"{self.num_train} that there are"
            )
        return chosen

    def steps_per_epoch(self, spec: JobSpec) -> int | None:
        """Optimizer steps an epoch; None if the data's size is unknown.

        Raises:
            UnusableSpecError: one batch is larger than an epoch.
        """
        samples = self.samples_per_epoch(spec)
        if samples is None:
            return None
        try:
            return steps_per_epoch(samples, global_size=spec.batch.global_size, epoch_end=spec.data.epoch_end)
        except ValueError as error:
            raise UnusableSpecError(f"batch.global_size {spec.batch.global_size}: {error}") from None

    def prompt_rows(self, spec: JobSpec) -> int | None:
        """Images times templates: the rows of the table that FLYP's code trains on."""
        if self.num_train is None or spec.objective.name != "class_prompts":
            return None
        return self.num_train * len(expand_templates(spec.data.templates))


def training_data(spec: JobSpec, *, num_train: int | None, num_classes: int | None) -> TrainingData:
    """What is known of the training data: from the arguments, else the data on disk, else the recipe's source.

    Data that are not on this machine are unknown; a plan needs none.

    Raises:
        UnusableDataError: the data are there and cannot be listed; the text names the field.
    """
    listed = _list(spec)
    published = _published(spec)
    known: tuple[int | None, int | None, str | None] = None, None, None
    if listed is not None:
        classes = {name for samples in listed for name in samples.class_names}
        roots = ", ".join(str(samples.root) for samples in listed)
        known = _num_drawn(listed, class_balanced=spec.data.class_balanced), len(classes) or None, roots
    elif published is not None:
        known = published.num_train, published.num_classes, f"{published.name}, as published"
    return TrainingData(
        num_train=known[0] if num_train is None else num_train,
        num_classes=known[1] if num_classes is None else num_classes,
        devices=published.devices if published else None,
        origin=known[2] if num_train is None else "--num-train",
    )


def _list(spec: JobSpec) -> list[Samples] | None:
    source = spec.data.train
    if source is None or not all(Path(member.path).exists() for member in members(source)):
        return None
    try:
        listed = list_members(source, cache=open_cache(spec.data.cache), seed=spec.seed)
    except DataError as error:
        raise UnusableDataError(f"data.train.{error.field}: {error}") from error
    if spec.data.shots is not None and len(listed) == 1 and listed[0].labels is not None:
        _refuse_small_classes(listed[0], shots=spec.data.shots)
    return listed


def _num_drawn(listed: list[Samples], *, class_balanced: bool) -> int:
    """All samples, or those with a class."""
    if not class_balanced:
        return sum(map(len, listed))
    num_labelled = sum(
        int(np.count_nonzero(np.asarray(samples.labels) >= 0)) for samples in listed if samples.labels is not None
    )
    if not num_labelled:
        raise UnusableDataError("data.class_balanced: there are no samples with a class in the training data")
    return num_labelled


def _refuse_small_classes(samples: Samples, *, shots: int) -> None:
    try:
        draw_shots(np.asarray(samples.labels), class_names=samples.class_names, shots=shots, seed=0)
    except ValueError as error:
        raise UnusableDataError(f"data.shots: {error}") from None


def _published(spec: JobSpec) -> PublishedData | None:
    """What the recipe's source trained on, as long as the job names no data of its own."""
    recipe = RECIPES.get(spec.recipe or "")
    return recipe.dataset if recipe and spec.data.train is None else None
