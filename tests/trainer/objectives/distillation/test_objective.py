"""The distillation objective with real, small towers."""

import functools

import numpy as np
import pytest
import torch

from dali_pipelines.loader import Batch
from dali_pipelines.manifest import Manifest
from trainer.errors import UnusableDataError, UnusableSpecError
from trainer.models import load_clip
from trainer.objectives import build_objective
from trainer.objectives.distillation.teacher import Teacher
from trainer.spec import JobSpec, ModelSpec

LOSSES = ("simreg", "simreg_l1", "simreg_smooth_l1", "vicreg", "barlow_twins", "rkd", "compress_1q", "compress_2q")
LOSSES += ("seed", "dino", "proto_cpc")


def job(**objective):
    return JobSpec.model_validate(
        {
            "model": "attune-tiny-32",
            "objective": {"name": "distillation", "teacher": "attune-tiny-32", **objective},
            "parallel": {"precision": "fp32"},
            "seed": 3,
        }
    )


def manifest(**columns):
    size = 6
    paths = [f"{n}.png" for n in range(size)]
    return Manifest.from_columns("/nowhere", paths=paths, sizes=[(32, 32)] * size, **columns)


CLASSES = manifest(labels=[0, 1, 2, 0, 1, 2], class_names=("cat", "dog", "emu"))
CAPTIONS = manifest(captions=[[f"caption number {n}"] for n in range(6)])


def batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    return Batch(torch.randn(6, 3, 32, 32, generator=generator), np.arange(6), labels, np.zeros(6, np.uint32))


@functools.cache
def student():
    torch.manual_seed(1)
    return load_clip(job().model)


def built(spec, *, model, data=CLASSES):
    return build_objective(spec, model=model, manifest=data, device=torch.device("cpu"))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_reach_the_compared_tower_only(loss):
    model, spec = student(), job(loss=loss)
    model.module.zero_grad()
    built(spec, model=model).loss(model.module, batch()).backward()
    with_gradient = {name for name, p in model.module.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient
    assert all(name.startswith("visual.") for name in with_gradient)


@pytest.mark.parametrize("data", [CLASSES, CAPTIONS], ids=["classes", "captions"])
def test_both_towers_weigh_the_same_and_contrast_is_added(data):
    model = student()

    def value(**objective):
        return built(job(**objective), model=model, data=data).loss(model.module, batch()).item()

    image, text, both = (value(towers=towers) for towers in ("image", "text", "both"))
    assert both == pytest.approx((image + text) / 2, rel=1e-5)
    assert value(weight=3.0) == pytest.approx(3 * image, rel=1e-5)
    one, two = value(contrastive_weight=1.0), value(contrastive_weight=2.0)
    assert two - one == pytest.approx(one - image, rel=1e-4)
    assert one - image > 1


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    torch.manual_seed(3)
    model = load_clip(job().model)
    model.module.eval()
    assert built(job(towers="both"), model=model).loss(model.module, batch()).item() == pytest.approx(0, abs=1e-10)
    assert built(job(), model=student()).loss(student().module, batch()).item() > 1e-3


def test_the_teacher_stays_frozen_and_draws_nothing():
    model = student()
    state = torch.get_rng_state()
    objective = built(job(), model=model)
    assert torch.equal(state, torch.get_rng_state())
    teacher = objective._teacher.model.module
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_of_another_size_sees_the_same_picture():
    """Images for a student of 32 pixels and its own mean reach a teacher of 64 pixels in the teacher's terms."""
    spec = JobSpec.model_validate({**job(loss="rkd").model_dump(), "model": "attune-small-64"})
    model = load_clip(spec.model)
    teacher = Teacher(job().model, spec=spec, student_preprocess=model.preprocess, device=torch.device("cpu"))
    flat = torch.full((1, 3, 64, 64), 0.25)
    assert teacher.encode_images(flat).shape == (1, teacher.model.config["embed_dim"])
    torch.testing.assert_close(teacher.encode_images(flat).norm(dim=1), torch.ones(1))


def test_what_is_remembered_can_be_put_back():
    model, spec = student(), job(loss="seed", queue_size=20, towers="both")
    one, other = built(spec, model=model), built(spec, model=model)
    one.loss(model.module, batch())
    assert set(one.state) == {"image.anchors", "image.next", "text.anchors", "text.next"}
    other.state = {name: value.clone() for name, value in one.state.items()}
    values = [objective.loss(model.module, batch()).item() for objective in (one, other)]
    assert values[0] == values[1]
    fresh = built(spec, model=model)
    assert fresh.loss(model.module, batch()).item() != values[0]


def test_a_teacher_with_another_embedding_size_is_refused_by_what_it_gives():
    larger = load_clip(ModelSpec(name="attune-small-64"))
    objective = built(job(), model=larger)
    small = batch()
    images = torch.nn.functional.interpolate(small.images, size=(64, 64))
    with pytest.raises(UnusableSpecError, match="teacher 'attune-tiny-32' has embeddings of size"):
        objective.loss(larger.module, Batch(images, small.rows, small.labels, small.text_draws))


def test_texts_are_needed_where_text_is_compared():
    with pytest.raises(UnusableDataError, match="needs a class for each image"):
        built(job(towers="text"), model=student(), data=manifest())
