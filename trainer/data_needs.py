"""What an objective needs of every training sample, and which samples lack it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow.compute as pc

from dali_pipelines.manifest import Manifest
from trainer.job_dir import DataProblem
from trainer.spec import AnySource, JobSpec, MixtureSource
from trainer.spec.sources import members

_NUM_NAMED = 5
Need = Literal["caption", "label"]


def unmet_needs(spec: JobSpec, train: Manifest) -> list[DataProblem]:
    """A problem for each source of the training data in which samples have no caption, or no class, and need one."""
    source = spec.data.train
    assert source is not None
    problems = []
    for need in _needs(spec, train):
        lacking = train.labels < 0 if need == "label" else caption_counts(train) == 0
        for number in range(len(members(source))):
            rows = np.flatnonzero(lacking & (train.sources == number))
            if len(rows):
                field = f"data.train.{_field(source, number, need)}"
                count = int((train.sources == number).sum())
                message = f"{field}: {_complaint(train, rows, need, count=count, objective=spec.objective.name)}"
                problems.append(DataProblem(field=field, message=message))
    return problems


def tells_classes_apart(spec: JobSpec) -> bool:
    """Whether a job's objective is about classes and not about captions."""
    by_class = spec.objective.name in ("classification", "class_prompts")
    return by_class or getattr(spec.objective, "loss", None) == "cross_entropy"


def caption_counts(manifest: Manifest) -> np.ndarray:
    """(N,) captions of each sample."""
    counts: np.ndarray = pc.list_value_length(manifest.table["captions"]).to_numpy()
    return counts


def _needs(spec: JobSpec, train: Manifest) -> Iterator[Need]:
    objective = spec.objective
    if tells_classes_apart(spec):
        if not spec.data.class_balanced:  # which leaves out what has no class
            yield "label"
    elif objective.name == "contrastive":
        yield "caption"
    elif objective.name == "distillation" and (objective.towers != "image" or objective.contrastive_weight > 0):
        yield "caption" if train.num_captions else "label"


def _field(source: AnySource, number: int, need: Need) -> str:
    """The field that says where captions or labels are, or the format if nothing does."""
    member = members(source)[number]
    named = [name for name in (f"{need}_column", f"{need}_key") if name in type(member).model_fields]
    place = f"sources.{number}." if isinstance(source, MixtureSource) else ""
    return place + (named[0] if named else "format")


def _complaint(train: Manifest, rows: np.ndarray, need: Need, *, count: int, objective: str) -> str:
    what = "caption" if need == "caption" else "class"
    named = ", ".join(train.key(row) for row in rows[:_NUM_NAMED])
    more = f" and {len(rows) - _NUM_NAMED} more" if len(rows) > _NUM_NAMED else ""
    return f"`{objective}` needs a {what} for each image, and {len(rows)} of {count} have none: {named}{more}"
