"""Augmentation that cannot be is refused where a spec is made, with the field."""

import pytest
from pydantic import ValidationError

from trainer.spec import JobSpec


def problems(**augmentation):
    """Messages by field of the augmentation."""
    try:
        JobSpec.model_validate({"model": "ViT-B-32", "data": {"augmentation": augmentation}})
    except ValidationError as error:
        return {".".join(str(part) for part in e["loc"][2:]): e["msg"] for e in error.errors()}
    return {}


def test_two_policies_for_one_place_are_refused():
    assert problems(three_augment=True) == {}
    assert "choose one" in problems(three_augment=True, rand_augment={})["three_augment"]


def test_the_simple_crop_has_no_scale_or_ratio():
    assert problems(crop="simple") == {}
    found = problems(crop="simple", crop_scale=[0.08, 1.0], crop_ratio=[1.0, 1.0])
    assert set(found) == {"crop_scale", "crop_ratio"}
    assert "keeps the image's scale" in found["crop_scale"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("crop_scale", [1.0, 0.5]), ("crop_ratio", [2.0, 1.0]), ("crop_scale", [0.0, 1.0])],
)
def test_ranges_go_upwards_from_above_zero(field, value):
    assert "smallest first" in problems(**{field: value})[field]


def test_a_blur_has_a_chance_and_a_size():
    assert problems(blur={"probability": 0.2, "sigma": [0.5, 0.5]}) == {}
    assert "smallest first" in problems(blur={"sigma": [2.0, 0.1]})["blur.sigma"]
    assert "blur.sigma.0" in problems(blur={"sigma": [0.0, 1.0]})
    assert "blur.sigma.1" in problems(blur={"sigma": [1.0, 1000.0]})
    assert "blur.probability" in problems(blur={"probability": 0.0})
    assert "color_jitter.probability" in problems(color_jitter={"probability": 0.0})
