from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.jobs.registration import NothingExported, base_name, describe_model
from service.store.records import ModelRecord
from trainer import events
from trainer.job_dir import JobDir


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ("ViT-L-14/openai", "ViT-L-14"),
        ("ViT-B-32", "ViT-B-32"),
        ("timm/vit_base_patch16_224.augreg", "vit_base_patch16_224.augreg"),
        ("hf-hub:laion/CLIP-ViT-B", "CLIP-ViT-B"),
        ("local-dir:/models/my clip/", "my-clip"),
        ("ft:ViT-B-32:flowers:1f0c9a3e", "ViT-B-32"),
        ("///", "model"),
    ],
)
def test_base_names_are_short_and_safe(model: str, base: str) -> None:
    assert base_name(model) == base


def exporting(job: Any) -> Any:
    paths = JobDir(Path(job.job_dir))
    attempt = paths.attempt(1)
    with events.EventWriter(attempt.events) as writer:
        writer.write(events.Message(message='the word "exported" alone means nothing'))
        writer.write(events.Exported(checkpoint="a", weights="raw", task="clip", metrics={"validation/top1": 0.1}))
        writer.write(events.Exported(checkpoint="b", weights="ema", task="classifier", metrics={}))
    paths.export.mkdir()
    return attempt


def test_the_last_export_counts(world: Any) -> None:
    job = world.submit()
    model = describe_model(job, exporting(job), world.store.models)
    assert (model.task, model.metrics, model.class_names, model.templates) == ("classifier", {}, None, [])


def test_a_name_that_is_taken_grows(world: Any) -> None:
    job = world.submit()
    first = describe_model(job, exporting(job), world.store.models)
    world.store.models.add(ModelRecord(id=first.id, path="/p", task="clip", created_at=1.0))
    attempt = JobDir(Path(job.job_dir)).attempt(1)
    second = describe_model(job, attempt, world.store.models)
    assert second.id == f"ft:ViT-B-32:flyp:{job.id.removeprefix('ftjob-')}"


def test_nothing_exported_is_said(world: Any) -> None:
    job = world.submit()
    attempt = JobDir(Path(job.job_dir)).attempt(1)
    with pytest.raises(NothingExported, match="no `exported` event"):
        describe_model(job, attempt, world.store.models)
    exporting(job)
    JobDir(Path(job.job_dir)).export.rmdir()
    with pytest.raises(NothingExported, match="no folder"):
        describe_model(job, attempt, world.store.models)
