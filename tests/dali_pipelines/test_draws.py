"""Crop boxes, jitter and erasing, against slow references and against torchvision's and timm's own distributions."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import ColorJitter, RandomResizedCrop

from dali_pipelines import draws


def uniforms(num: int, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((num, count))


def slow_crop(numbers, width, height, scale, ratio):
    """torchvision's RandomResizedCrop.get_params, written out for one image."""
    for attempt in range(10):
        area = width * height * (scale[0] + (scale[1] - scale[0]) * numbers[2 * attempt])
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + (high - low) * numbers[2 * attempt + 1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(numbers[20] * (height - h + 1)), int(numbers[21] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0), (1.0, 1.0)])
def test_crops_equal_a_slow_reference(scale):
    sizes = np.random.default_rng(1).integers(1, 700, (300, 2))
    numbers = uniforms(300, draws.CROP_DRAWS)
    corners, shapes = draws.crop_boxes(numbers, sizes, scale=scale, ratio=(3 / 4, 4 / 3))
    expected = [slow_crop(n, *size, scale, (3 / 4, 4 / 3)) for n, size in zip(numbers, sizes.tolist(), strict=True)]
    np.testing.assert_array_equal(np.concatenate([corners, shapes], axis=1), expected)


def test_the_fallback_is_the_largest_centred_box_of_an_allowed_ratio():
    corners, shapes = draws.crop_boxes(
        uniforms(2, draws.CROP_DRAWS), np.array([(1000, 10), (10, 1000)]), scale=(1, 1), ratio=(3 / 4, 4 / 3)
    )
    assert shapes.tolist() == [[10, 13], [13, 10]]
    assert corners.tolist() == [[0, 493], [493, 0]]


def test_crops_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    image = torch.zeros(3, 300, 400)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    corners, shapes = draws.crop_boxes(
        uniforms(4000, draws.CROP_DRAWS), np.tile([400, 300], (4000, 1)), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)
    )
    ours = np.concatenate([corners, shapes], axis=1)
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=6)
    np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), atol=5)


def test_jitter_factors_span_torchvisions_ranges():
    settings = (0.4, 0.2, 1.5, 0.1)
    theirs = ColorJitter(*settings)
    factors = draws.jitter_factors(uniforms(5000, draws.JITTER_DRAWS), settings)
    ranges = np.array([theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue])
    np.testing.assert_allclose(factors.min(axis=0), ranges[:, 0], atol=0.01)
    np.testing.assert_allclose(factors.max(axis=0), ranges[:, 1], atol=0.01)
    np.testing.assert_allclose(factors.mean(axis=0), ranges.mean(axis=1), atol=0.03)


def timm_erased(num: int, image_size: int, probability: float) -> np.ndarray:
    erase = RandomErasing(probability, max_area=1 / 3, mode="pixel", device="cpu")
    torch.manual_seed(0)
    random.seed(0)  # timm draws the boxes from here
    boxes = np.zeros((num, 4))
    for box in boxes:
        changed = erase(torch.full((1, image_size, image_size), 100.0))[0] != 100
        if changed.any():
            rows, columns = np.nonzero(changed.any(1).numpy())[0], np.nonzero(changed.any(0).numpy())[0]
            box[:] = rows[0], columns[0], len(rows), len(columns)
    return boxes


def test_erasing_boxes_are_distributed_as_timms():
    ours = draws.erasing_boxes(uniforms(3000, draws.ERASING_DRAWS), image_size=64, probability=0.25)
    theirs = timm_erased(3000, 64, 0.25)
    assert (ours[:, 2] > 0).mean() == pytest.approx((theirs[:, 2] > 0).mean(), abs=0.03)
    ours, theirs = ours[ours[:, 2] > 0], theirs[theirs[:, 2] > 0]
    np.testing.assert_allclose(ours.mean(axis=0), theirs.mean(axis=0), atol=2)
    np.testing.assert_allclose(ours.std(axis=0), theirs.std(axis=0), atol=2)


def test_erasing_boxes_lie_inside_the_image():
    top, left, height, width = draws.erasing_boxes(
        uniforms(3000, draws.ERASING_DRAWS), image_size=32, probability=1.0
    ).T
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 32
    area = (height * width / 32**2)[height > 0]
    assert area.min() > 0.01
    assert area.max() < 0.36
    assert (height > 0).mean() > 0.99


def test_noise_is_normal_and_a_function_of_its_number():
    noise = draws.normal_noise(0.25, (3, 50, 60))
    np.testing.assert_array_equal(noise, draws.normal_noise(0.25, (3, 50, 60)))
    assert not np.array_equal(noise, draws.normal_noise(0.25000001, (3, 50, 60)))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.05
    assert noise.std() == pytest.approx(1, abs=0.03)
