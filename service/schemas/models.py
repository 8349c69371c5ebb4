"""Models that can be asked, as OpenAI's `model` objects with a few fields of our own."""

from __future__ import annotations

from typing import Literal

from service.schemas.base import Answer
from service.store.records import ModelRecord


class Model(Answer):
    """A registered model."""

    id: str
    """Its name, such as `ft:ViT-B-32:flowers:1f0c9a3e`; what `model` takes everywhere."""
    object: Literal["model"] = "model"
    """Always `model`."""
    created: int
    """Unix seconds."""
    owned_by: str
    """Who made it."""
    task: Literal["clip", "classifier"]
    """`clip` answers zero-shot questions about any class names; `classifier` knows its own classes."""
    job: str | None
    """The fine-tuning job that it came from."""
    metrics: dict[str, float]
    """`DATASET/METRIC` of its weights."""
    class_names: list[str] | None
    """The classes that it was trained on, if there were any."""
    templates: list[str]
    """The prompt templates that it was trained with."""
    path: str
    """The export folder, which open_clip or timm load by itself."""

    @classmethod
    def from_record(cls, record: ModelRecord) -> Model:
        """The model as it is sent."""
        return cls(
            id=record.id,
            created=int(record.created_at),
            owned_by=record.owned_by,
            task=record.task,
            job=record.job_id,
            metrics=record.metrics,
            class_names=record.class_names,
            templates=record.templates,
            path=record.path,
        )


class DeletedModel(Answer):
    """The answer to a deletion."""

    id: str
    """The model that is no longer registered; its export folder stays where it is."""
    object: Literal["model"] = "model"
    """Always `model`."""
    deleted: Literal[True] = True
    """Always true."""
