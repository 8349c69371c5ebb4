"""RandAugment's parameters against timm's own tables, and each operation's pixels against timm on Pillow images.

A CPU's operations give timm's pixels. A GPU's, which are graph nodes that run here on the CPU, come near them.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def
from PIL import Image
from timm.data import auto_augment

from dali_pipelines import graph_operations, pillow_operations
from dali_pipelines.rand_augment import DRAWS_PER_OP, OPERATIONS, DrawnOps, Kind, apply_ops, draw_ops, fill_color
from dali_pipelines.transforms import Preprocess, RandAugment

NAMES = [operation.name for operation in OPERATIONS]
FILL = fill_color(Preprocess())
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
    resample: Image.Resampling = Image.Resampling.BICUBIC,
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
    images, *drawn = fn.external_source(source=lambda: inputs, num_outputs=4, batch=True)
    images = fn.reshape(images, layout="HWC")
    return graph_operations.rand_augment_op(images, *drawn, fill=FILL, on_gpu=False)


def node_images(images: list[Image.Image], drawn: DrawnOps) -> list[np.ndarray]:
    """What a GPU's operations make of the images."""
    inputs = [[np.array(image) for image in images], drawn.kind, drawn.amount, drawn.matrix]
    pipeline = operations_pipeline(inputs)
    pipeline.build()
    (output,) = pipeline.run()
    return [np.array(output.at(number)).astype(int) for number in range(len(images))]


def cpu_images(
    images: list[Image.Image], drawn: DrawnOps, resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> list[np.ndarray]:
    """What a CPU's operations make of the images."""
    each = zip(images, drawn.kind, drawn.amount, drawn.matrix, strict=True)
    return [
        pillow_operations.rand_augment_op(
            np.array(image), Kind(kind), amount.item(), matrix, fill=FILL, resampling=resampling
        ).astype(int)
        for image, kind, amount, matrix in each
    ]


LEVELS = [(magnitude, sign) for magnitude in (0.0, 3.3, 9.0, 10.0) for sign in (-1.0, 1.0)]


def levels_of(name: str, photos: list[Image.Image], increasing: bool) -> tuple[list[Image.Image], DrawnOps]:
    """A photograph for each of LEVELS, and the operation at that level."""
    images = [photos[number % 2].resize((SIDE, SIDE)) for number in range(len(LEVELS))]
    magnitudes, signs = np.array(LEVELS).T
    index = np.full(len(LEVELS), NAMES.index(name))
    return images, apply_ops(index, magnitudes / 10, signs, increasing=increasing, image_size=SIDE)


@pytest.mark.parametrize("resampling", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_cpus_pixels_are_timms(name, increasing, resampling, photos, monkeypatch):
    images, drawn = levels_of(name, photos, increasing)
    for (magnitude, sign), image, ours in zip(LEVELS, images, cpu_images(images, drawn, resampling), strict=True):
        theirs = np.array(timm_image(name, magnitude, sign, increasing, image, monkeypatch, resampling)).astype(int)
        difference = np.abs(ours - theirs)
        # Numbers are float32 here and float64 there: a rounding may fall to the other side, once in some thousands.
        assert difference.max() <= 1, (magnitude, sign)
        assert (difference > 0).mean() < 1e-3, (magnitude, sign)


# Mean and 99th percentile of the difference in steps of 0..255, inside a border of two pixels. DALI rounds where Pillow
# truncates, which is half a step on average; of warps, `graph_operations` says how they differ.
TOLERANCE = {"warp": (4, 40), "pixel": (0.6, 2)}


@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_gpus_pixels_are_timms_within_the_tolerance(name, increasing, photos, monkeypatch):
    images, drawn = levels_of(name, photos, increasing)
    mean, percentile = TOLERANCE["warp" if drawn.kind[0] == Kind.WARP else "pixel"]
    for (magnitude, sign), image, ours in zip(LEVELS, images, node_images(images, drawn), strict=True):
        theirs = np.array(timm_image(name, magnitude, sign, increasing, image, monkeypatch)).astype(int)
        difference = np.abs(ours - theirs)[2:-2, 2:-2]
        assert difference.mean() < mean, (magnitude, sign)
        assert np.percentile(difference, 99) <= percentile, (magnitude, sign)


@pytest.mark.parametrize("made_by", [node_images, cpu_images])
def test_a_flat_image_survives_every_operation(made_by):
    flat = [Image.new("RGB", (SIDE, SIDE), FILL)] * len(NAMES)
    drawn = apply_ops(
        np.arange(len(NAMES)), np.zeros(len(NAMES)), np.ones(len(NAMES)), increasing=True, image_size=SIDE
    )
    for name, image in zip(NAMES, made_by(flat, drawn), strict=True):
        if name not in ("Invert", "Posterize", "Equalize"):
            np.testing.assert_array_equal(image, np.broadcast_to(FILL, image.shape), err_msg=name)


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
