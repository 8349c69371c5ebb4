"""From uniform numbers to a training graph's inputs and to rectangles. Pure functions on arrays; no DALI, no torch.

The uniform numbers come from `dali_pipelines.sampler`; each function states how many it uses for an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dali_pipelines.rand_augment import DRAWS_PER_OP, draw_ops
from dali_pipelines.transforms import (
    SIMPLE_CROP_BORDER,
    Augment,
    ColorJitter,
    GaussianBlur,
    resize_regions_at,
    resized_size,
)

NUM_TRIES = 10
CROP_DRAWS = 2 * NUM_TRIES + 2
JITTER_DRAWS = 4
ERASING_DRAWS = 2 * NUM_TRIES + 4
THREE_AUGMENT_SIGMA = (0.1, 2.0)
NEUTRAL_JITTER = (1.0, 1.0, 1.0, 0.0)

Uniforms = Callable[[str, int], np.ndarray]


def training_parameters(
    augment: Augment, uniforms: Uniforms, sizes: np.ndarray, *, image_size: int
) -> dict[str, np.ndarray]:
    """All that a training graph takes beside the files: see `dali_pipelines.graphs.training_inputs`.

    Args:
        uniforms: gives (N, count) numbers for the name of a stream and a count; each kind of draw has its own stream.
        sizes: (N, 2) widths and heights of the images.
        image_size: side of the square images that the augmentations will work on.
    """
    parameters = _crops(augment, uniforms, sizes, image_size)
    parameters["flip"] = _happens(uniforms("flip", 1), augment.horizontal_flip)
    if augment.rand_augment is not None:
        op_uniforms = uniforms("rand_augment", augment.rand_augment[2] * DRAWS_PER_OP)
        for number, drawn in enumerate(draw_ops(op_uniforms, augment.rand_augment, image_size=image_size)):
            parameters |= {f"{name}_{number}": values for name, values in vars(drawn).items()}
    if augment.three_augment:
        parameters["variant"], parameters["variant_sigma"] = three_augment(uniforms("three_augment", 2))
    if augment.color_jitter is not None:
        factors = jitter_factors(uniforms("color_jitter", JITTER_DRAWS), augment.color_jitter)
        jittered = _happens(uniforms("color_jitter_chance", 1), augment.color_jitter_probability)
        parameters["jitter"] = np.where(jittered[:, None], factors, np.array(NEUTRAL_JITTER, np.float32))
    if augment.grayscale:
        parameters["grey"] = _happens(uniforms("grayscale", 1), augment.grayscale)
    if augment.blur is not None:
        parameters["blur_sigma"] = blur_sigmas(uniforms("blur", 2), augment.blur)
    return parameters


def _crops(augment: Augment, uniforms: Uniforms, sizes: np.ndarray, image_size: int) -> dict[str, np.ndarray]:
    if augment.crop == "simple":
        return simple_crops(uniforms("crop", 2), sizes, image_size=image_size)
    crop = uniforms("crop", CROP_DRAWS)
    corners, shapes = crop_boxes(crop, sizes, scale=augment.crop_scale, ratio=augment.crop_ratio)
    return {"crop_start": corners, "crop_shape": shapes}


def crop_boxes(
    uniforms: np.ndarray, sizes: np.ndarray, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Random resized crop, drawn as torchvision does: ten tries, then the largest centred box of an allowed ratio.

    Args:
        uniforms: (N, CROP_DRAWS).
        sizes: (N, 2) widths and heights of the images.
        scale: share of the area, smallest and largest.
        ratio: width by height, smallest and largest.

    Returns:
        Corners (y, x) and shapes (height, width), both (N, 2) int32.
    """
    width, height = np.asarray(sizes, np.int64).T
    area = (width * height)[:, None] * _between(uniforms[:, 0 : 2 * NUM_TRIES : 2], *scale)
    aspect = _log_between(uniforms[:, 1 : 2 * NUM_TRIES : 2], *ratio)
    widths, heights = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))  # (N, NUM_TRIES)
    fits = (widths > 0) & (widths <= width[:, None]) & (heights > 0) & (heights <= height[:, None])
    first, found = fits.argmax(axis=1), fits.any(axis=1)
    each = np.arange(len(first))
    centre_width, centre_height = _centre_box(width, height, ratio)
    crop_width = np.where(found, widths[each, first], centre_width).astype(np.int64)
    crop_height = np.where(found, heights[each, first], centre_height).astype(np.int64)
    slack_y, slack_x = height - crop_height, width - crop_width
    top = np.where(found, _integer_up_to(uniforms[:, -2], slack_y), slack_y // 2)
    left = np.where(found, _integer_up_to(uniforms[:, -1], slack_x), slack_x // 2)
    corners, shapes = np.stack([top, left], axis=1), np.stack([crop_height, crop_width], axis=1)
    return corners.astype(np.int32), shapes.astype(np.int32)


def simple_crops(uniforms: np.ndarray, sizes: np.ndarray, *, image_size: int) -> dict[str, np.ndarray]:
    """Squares drawn from the image whose shorter side was resized, with a border of reflected pixels around it.

    A square that reaches into the border is moved inside first, and the border is put around it afterwards: the pixels
    are the same, and one resize of a region does for all.

    Args:
        uniforms: (N, 2).
        sizes: (N, 2) widths and heights of the images.

    Returns:
        `region_start` and `region_end` in source pixels, (N, 2) float32 as (y, x), and `border_start`, (N, 2) int32 as
        (y, x): the corner of the square in the resized region with its border.
    """
    slack = resized_size(sizes, image_size)[:, ::-1] - image_size
    corner = _integer_up_to(uniforms, slack + 2 * SIMPLE_CROP_BORDER) - SIMPLE_CROP_BORDER
    inside = np.clip(corner, 0, slack)
    start, end = resize_regions_at(inside, sizes, image_size)
    border_start = (corner - inside + SIMPLE_CROP_BORDER).astype(np.int32)
    return {"region_start": start, "region_end": end, "border_start": border_start}


def three_augment(uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeiT III's choice: (N,) int32 that are 0 (grey), 1 (solarised) or 2 (blurred), and (N,) float32 sigmas of the
    blur in pixels, from (N, 2). https://arxiv.org/abs/2204.07118
    """
    choice = np.floor(3 * uniforms[:, 0]).astype(np.int32)
    return choice, _between(uniforms[:, 1], *THREE_AUGMENT_SIGMA).astype(np.float32)


def blur_sigmas(uniforms: np.ndarray, blur: GaussianBlur) -> np.ndarray:
    """Standard deviations in pixels, 0 for no blur: (N,) float32 from (N, 2)."""
    sigmas = _between(uniforms[:, 1], *blur.sigma)
    return np.where(uniforms[:, 0] < blur.probability, sigmas, 0.0).astype(np.float32)


def jitter_factors(uniforms: np.ndarray, jitter: ColorJitter | tuple[float, float, float, float]) -> np.ndarray:
    """Brightness, contrast and saturation factors and the hue shift in turns: (N, 4) float32 from (N, 4)."""
    brightness, contrast, saturation, hue = jitter
    lows = [max(0.0, 1 - brightness), max(0.0, 1 - contrast), max(0.0, 1 - saturation), -hue]
    highs = [1 + brightness, 1 + contrast, 1 + saturation, hue]
    return _between(uniforms, np.array(lows), np.array(highs)).astype(np.float32)


def erasing_boxes(uniforms: np.ndarray, *, image_size: int, probability: float) -> np.ndarray:
    """Rectangles to erase, drawn as timm does: 2 to 33 % of the area, sides in a ratio of 0.3 to 3.3, ten tries.

    Args:
        uniforms: (N, ERASING_DRAWS).

    Returns:
        (N, 4) int64 top, left, height, width; height and width are 0 where nothing is erased.
    """
    area = image_size**2 * _between(uniforms[:, 0 : 2 * NUM_TRIES : 2], 0.02, 1 / 3)
    aspect = _log_between(uniforms[:, 1 : 2 * NUM_TRIES : 2], 0.3, 1 / 0.3)
    heights, widths = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (heights < image_size) & (widths < image_size)
    first, each = fits.argmax(axis=1), np.arange(len(area))
    chosen = (uniforms[:, -1] < probability) & fits.any(axis=1)
    height = np.where(chosen, heights[each, first], 0).astype(np.int64)
    width = np.where(chosen, widths[each, first], 0).astype(np.int64)
    top = _integer_up_to(uniforms[:, -4], image_size - height)
    left = _integer_up_to(uniforms[:, -3], image_size - width)
    return np.stack([top, left, height, width], axis=1)


def normal_noise(uniform: float, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 noise that is a function of one uniform number."""
    seed = int(uniform * 2**53)
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape, dtype=np.float32)


def _centre_box(width: np.ndarray, height: np.ndarray, ratio: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    aspect = width / height
    box_width = np.where(aspect > ratio[1], np.rint(height * ratio[1]), width)
    box_height = np.where(aspect < ratio[0], np.rint(width / ratio[0]), height)
    return box_width, box_height


def _happens(uniforms: np.ndarray, probability: float) -> np.ndarray:
    return (uniforms[:, 0] < probability).astype(np.int32)


def _between(uniforms: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    return low + (high - low) * uniforms


def _log_between(uniforms: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.exp(_between(uniforms, math.log(low), math.log(high)))


def _integer_up_to(uniforms: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """An integer from 0 to `largest`, both included."""
    return np.floor(uniforms * (largest + 1)).astype(np.int64)
