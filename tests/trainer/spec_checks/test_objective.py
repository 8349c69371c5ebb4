"""Objectives that cannot be are refused where a spec is made, with the field."""

import json

import pytest
from pydantic import ValidationError

from trainer.catalogue import architectures
from trainer.resolve import SpecError, resolve
from trainer.spec import JobSpec, ModelSpec
from trainer.spec_checks.objective import embedding_size


def problems(**fields):
    """Messages by field."""
    try:
        JobSpec.model_validate({"model": "ViT-B-32", **fields})
    except ValidationError as error:
        return {".".join(str(part) for part in e["loc"]): e["msg"] for e in error.errors()}
    return {}


@pytest.mark.parametrize(("field", "value"), [("same_class", "positive"), ("feature_cache", True)])
def test_cross_entropy_over_classes_has_no_batch_to_contrast(field, value):
    objective = {"name": "class_prompts", "loss": "cross_entropy"}
    assert problems(objective=objective) == {}
    assert "all classes" in problems(objective={**objective, field: value})[f"objective.{field}"]
    assert problems(objective={"name": "class_prompts", field: value}) == {}


def test_a_scale_must_begin_below_its_limit():
    found = problems(objective={"name": "contrastive", "initial_logit_scale": 101})
    assert "above objective.max_logit_scale 100" in found["objective.initial_logit_scale"]
    assert problems(objective={"name": "class_prompts", "initial_logit_scale": 101}) == {}


def test_captions_with_class_cross_entropy_need_a_class_column():
    table = {"format": "csv", "path": "t.csv"}
    objective = {"name": "contrastive", "loss": "cross_entropy"}
    assert "data.train.label_column" in problems(objective=objective, data={"train": table})
    assert problems(objective=objective, data={"train": {**table, "label_column": "class"}}) == {}


def distillation(**objective):
    return {"name": "distillation", "teacher": "ViT-B-32", **objective}


@pytest.mark.parametrize("loss", ["simreg", "vicreg", "barlow_twins", "compress_1q", "seed", "dino", "proto_cpc"])
def test_a_teacher_of_another_size_is_refused_where_its_name_tells(loss):
    assert problems(objective=distillation(loss=loss)) == {}
    found = problems(objective=distillation(loss=loss, teacher="ViT-L-14/openai"))
    assert "teacher's embeddings have size 768, the student's 512" in found["objective.teacher.name"]
    assert "rkd and compress_2q do not" in found["objective.teacher.name"]


@pytest.mark.parametrize("loss", ["rkd", "compress_2q"])
def test_some_losses_take_a_teacher_of_any_size(loss):
    assert problems(objective=distillation(loss=loss, teacher="ViT-L-14")) == {}


def test_a_teacher_must_have_both_towers():
    assert "image-text" in problems(objective=distillation(teacher="timm/resnet50"))["objective.teacher.name"]


@pytest.mark.parametrize(
    ("loss", "field"),
    [
        ("simreg", "queue_size"),
        ("rkd", "temperature"),
        ("compress_1q", "student_temperature"),
        ("dino", "queue_size"),
    ],
)
def test_options_of_other_losses_are_refused(loss, field):
    found = problems(objective=distillation(loss=loss, **{field: 7}))
    assert f"not for the loss {loss!r}" in found[f"objective.{field}"]


def test_rkd_needs_one_of_its_weights():
    found = problems(objective=distillation(loss="rkd", rkd_distance_weight=0, rkd_angle_weight=0))
    assert "both 0" in found["objective.rkd_distance_weight"]


@pytest.mark.parametrize(
    ("loss", "batch", "parallel", "refused"),
    [
        ("rkd", {"global_size": 8, "micro_size": 1}, {}, "micro_size"),
        ("rkd", {"global_size": 4}, {"devices": 2, "nodes": 2}, "global_size"),
        ("rkd", {"global_size": 4}, {"devices": 2}, None),
        ("rkd", {"global_size": 4}, {}, None),
        ("vicreg", {"global_size": 1}, {}, "global_size"),
        ("vicreg", {"global_size": 8, "micro_size": 1}, {"devices": 1}, "micro_size"),
        ("vicreg", {"global_size": 8, "micro_size": 1}, {"devices": 2}, None),
        ("vicreg", {"global_size": 8, "micro_size": 1}, {}, None),
        ("simreg", {"global_size": 1}, {}, None),
    ],
)
def test_losses_that_compare_samples_need_two_in_a_forward_pass(loss, batch, parallel, refused):
    found = problems(objective=distillation(loss=loss), batch=batch, parallel=parallel)
    assert [field for field in found if field.startswith("batch.")] == ([f"batch.{refused}"] if refused else [])


def test_the_embedding_size_is_known_from_catalogue_head_and_folder(tmp_path):
    assert embedding_size(ModelSpec(name="RN50/openai")) == architectures()["RN50"].embed_dim == 1024
    assert embedding_size(ModelSpec.model_validate({"name": "RN50", "image": {"head": {"output_size": 64}}})) == 64
    assert embedding_size(ModelSpec(name="hf-hub:some/thing")) is None
    folder = f"local-dir:{tmp_path}"
    assert embedding_size(ModelSpec(name=folder)) is None
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 17}}))
    assert embedding_size(ModelSpec(name=folder)) == 17


def test_an_unknown_teacher_is_refused_like_an_unknown_model():
    with pytest.raises(SpecError) as raised:
        resolve(spec={"model": "ViT-B-32", "objective": distillation(teacher="ViT-B-23")})
    (problem,) = raised.value.problems
    assert problem.field == "objective.teacher.name"
    assert "ViT-B-32" in problem.message
