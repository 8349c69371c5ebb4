"""RandAugment's parameters against timm's own tables, and each operation's pixels against timm on Pillow images."""

from __future__ import annotations

import random

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def
from PIL import Image
from timm.data import auto_augment

from dali_pipelines import graphs
from dali_pipelines.rand_augment import DRAWS_PER_OP, OPERATIONS, Kind, apply_ops, draw_ops
from dali_pipelines.transforms import Preprocess, RandAugment

NAMES = [operation.name for operation in OPERATIONS]
FILL = tuple(graphs.fill_color(Preprocess()))
SIDE = 160


def timm_name(name: str, increasing: bool) -> str:
    if name.startswith("Translate"):
        return f"{name}Rel"
    graded = name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
    return f"{name}Increasing" if graded and increasing else name


@pytest.mark.parametrize("increasing", [False, True])
def test_the_operations_are_timms_in_timms_order(increasing):
    theirs = auto_augment.rand_augment_choices("", increasing=increasing)
    assert [timm_name(name, increasing) for name in NAMES] == theirs


def timm_image(
    name: str,
    magnitude: float,
    sign: float,
    increasing: bool,
    image: Image.Image,
    monkeypatch,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    monkeypatch.setattr(random, "random", lambda: 0.9 if sign < 0 else 0.1)  # timm negates above 0.5
    name = timm_name(name, increasing)
    level_to_argument = auto_augment.LEVEL_TO_ARG[name]
    arguments = () if level_to_argument is None else level_to_argument(magnitude, {})
    if name.startswith("Posterize"):
        arguments = (max(1, *arguments),)  # Pillow 13 refuses 0 bits
    operation = auto_augment.NAME_TO_OP[name]
    return operation(image, *arguments, fillcolor=FILL, resample=resample)


@pipeline_def(batch_size=64, num_threads=1, device_id=None, prefetch_queue_depth=1, enable_conditionals=True)
def operations_pipeline(inputs):
    images, kind, amount, matrix, kernel = fn.external_source(source=lambda: inputs, num_outputs=5, batch=True)
    images = fn.reshape(images, layout="HWC")
    return graphs.rand_augment_op(images, kind, amount, matrix, kernel, fill=FILL, on_gpu=False)


def dali_images(images: list[Image.Image], drawn) -> list[np.ndarray]:
    inputs = [[np.array(image) for image in images], drawn.kind, drawn.amount, drawn.matrix, drawn.kernel]
    pipeline = operations_pipeline(inputs)
    pipeline.build()
    (output,) = pipeline.run()
    return [np.array(output.at(number)).astype(int) for number in range(len(images))]


# Mean and 99th percentile of the difference in steps of 0..255, inside a border of two pixels. DALI rounds where Pillow
# truncates, which is half a step on average; the edges of warped images, where DALI blends, are in the last percent.
TOLERANCE = {"warp": (0.8, 1), "pixel": (0.6, 2)}


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_timms_within_the_tolerance(name, increasing, photos, monkeypatch):
    levels = [(magnitude, sign) for magnitude in (0.0, 3.3, 9.0, 10.0) for sign in (-1.0, 1.0)]
    images = [photos[number % 2].resize((SIDE, SIDE)) for number in range(len(levels))]
    magnitudes, signs = np.array(levels).T
    index = np.full(len(levels), NAMES.index(name))
    drawn = apply_ops(index, magnitudes / 10, signs, increasing=increasing, image_size=SIDE)
    mean, percentile = TOLERANCE["warp" if drawn.kind[0] == Kind.WARP else "pixel"]
    for (magnitude, sign), image, ours in zip(levels, images, dali_images(images, drawn), strict=True):
        theirs = np.array(timm_image(name, magnitude, sign, increasing, image, monkeypatch)).astype(int)
        difference = np.abs(ours - theirs)[2:-2, 2:-2]
        assert difference.mean() < mean, (magnitude, sign)
        assert np.percentile(difference, 99) <= percentile, (magnitude, sign)


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY"])
def test_linear_warps_stay_near_timms_bicubic_ones(name, photos, monkeypatch):
    image = photos[0].resize((SIDE, SIDE))
    drawn = apply_ops(np.array([NAMES.index(name)]), np.array([0.9]), np.ones(1), increasing=True, image_size=SIDE)
    (ours,) = dali_images([image], drawn)
    theirs = np.array(timm_image(name, 9.0, 1.0, True, image, monkeypatch, Image.Resampling.BICUBIC)).astype(int)
    assert 0.5 < np.abs(ours - theirs).mean() < 4


def test_a_flat_image_survives_every_operation():
    flat = [Image.new("RGB", (SIDE, SIDE), (90, 90, 90))] * len(NAMES)
    drawn = apply_ops(
        np.arange(len(NAMES)), np.zeros(len(NAMES)), np.ones(len(NAMES)), increasing=True, image_size=SIDE
    )
    for name, image in zip(NAMES, dali_images(flat, drawn), strict=True):
        if name not in ("Invert", "Posterize", "Equalize"):
            np.testing.assert_array_equal(image, 90, err_msg=name)


def uniforms(num: int, num_ops: int = 2) -> np.ndarray:
    return np.random.default_rng(0).random((num, num_ops * DRAWS_PER_OP))


def test_half_of_the_operations_are_applied_and_all_kinds_come_equally_often():
    first, second = draw_ops(uniforms(60000), RandAugment(), image_size=224)
    for drawn in (first, second):
        assert (drawn.kind == Kind.NONE).mean() == pytest.approx(0.5, abs=0.01)
        assert (drawn.kind == Kind.WARP).mean() == pytest.approx(5 / 15 / 2, abs=0.01)
        assert (drawn.kind == Kind.SOLARIZE).mean() == pytest.approx(2 / 15 / 2, abs=0.01)
    assert np.corrcoef(first.kind, second.kind)[0, 1] == pytest.approx(0, abs=0.02)


def test_magnitudes_are_normal_and_clipped():
    (drawn,) = draw_ops(uniforms(80000, 1), RandAugment(9.0, 0.5, 1, True), image_size=224)
    rotations = (drawn.kind == Kind.WARP) & (drawn.matrix[:, 0, 0] < 0.999)
    degrees = np.degrees(np.arctan2(drawn.matrix[rotations, 1, 0], drawn.matrix[rotations, 0, 0]))
    assert np.abs(degrees).max() == pytest.approx(30, abs=1e-3)
    assert np.median(np.abs(degrees)) == pytest.approx(27, abs=0.2)
    assert np.abs(degrees)[np.abs(degrees) < 29.9].std() == pytest.approx(1.45, abs=0.15)
    assert (degrees > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_a_huge_deviation_draws_magnitudes_uniformly_as_in_timm():
    (drawn,) = draw_ops(uniforms(80000, 1), RandAugment(10.0, 1000.0, 1, True), image_size=224)
    rotations = (drawn.kind == Kind.WARP) & (drawn.matrix[:, 0, 0] != 1) & (drawn.matrix[:, 1, 0] != 0)
    degrees = np.degrees(np.arcsin(np.abs(drawn.matrix[rotations, 1, 0])))
    assert degrees.mean() == pytest.approx(15, abs=0.5)
    assert degrees.std() == pytest.approx(30 / 12**0.5, abs=0.5)
