"""Samples without the caption or the class that the objective needs."""

from __future__ import annotations

import pytest

from dali_pipelines.manifest import Manifest
from trainer.data_needs import unmet_needs
from trainer.spec import JobSpec


def manifest(**columns) -> Manifest:
    given = {"labels": [0, -1, 1], "captions": [["a"], [], ["b", "c"]], "class_names": ["x", "y"]} | columns
    keys = [f"a.tar/{row}" for row in range(3)]
    return Manifest.from_columns("/images", paths=["a.tar"] * 3, sizes=[(9, 9)] * 3, keys=keys, **given)


def problems(train, source, objective, **data) -> list[tuple[str, str]]:
    spec = JobSpec.model_validate(
        {"model": "ViT-B-32", "objective": objective, "data": {"train": source, **data}, "batch": {"global_size": 2}}
    )
    return [(problem.field, problem.message) for problem in unmet_needs(spec, train) if problem.fatal]


@pytest.mark.parametrize(
    ("source", "field"), [("d.tar", "caption_key"), ("d.parquet", "caption_column"), ("d.csv", "caption_column")]
)
def test_contrastive_training_needs_a_caption_for_each_image(source, field):
    ((found, message),) = problems(manifest(), source, {"name": "contrastive"})
    assert found == f"data.train.{field}"
    assert "`contrastive` needs a caption for each image, and 1 of 3 have none: a.tar/1" in message
    assert problems(manifest(captions=[["a"]] * 3), source, {"name": "contrastive"}) == []


@pytest.mark.parametrize("objective", [{"name": "class_prompts"}, {"name": "classification"}])
def test_training_on_classes_needs_a_class_for_each_image(objective):
    ((found, message),) = problems(manifest(), "d.tar", objective)
    assert found == "data.train.label_key"
    assert "1 of 3 have none: a.tar/1" in message
    assert problems(manifest(labels=[0, 1, 0]), "d.tar", objective) == []
    assert problems(manifest(), "d.tar", objective, class_balanced=True) == []


def test_the_member_of_a_mixture_is_named():
    whole = manifest(captions=[["a"]] * 3)
    together = Manifest.concatenate([whole, manifest(), whole])
    ((found, message),) = problems(together, ["a.tar", "b.parquet", "c.tar"], {"name": "contrastive"})
    assert found == "data.train.sources.1.caption_column"
    assert "1 of 3" in message
