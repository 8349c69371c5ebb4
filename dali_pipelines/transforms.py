"""What happens to an image on its way to the model, as plain frozen values. Imports neither DALI nor torch.

`Preprocess` belongs to the model (size, normalisation), `Augment` to the training run. `resized_size` and
`resize_regions` hold the geometry of CLIP's evaluation transform, and of timm's, which may crop a larger image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIMPLE_CROP_BORDER = 4
SOLARIZE_THRESHOLD = 128


@dataclass(frozen=True)
class Preprocess:
    """How a model wants its images; the defaults are CLIP's (https://github.com/openai/CLIP, clip/clip.py)."""

    image_size: int = 224
    """Height and width of the model's input in pixels."""
    mean: tuple[float, float, float] = CLIP_MEAN
    """Subtracted from each channel, on the scale of 0 to 1."""
    std: tuple[float, float, float] = CLIP_STD
    """Each channel is divided by it, after the mean."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Filter of every resize, always with antialiasing."""
    resize_mode: Literal["shortest", "squash"] = "shortest"
    """`shortest` resizes the shorter side and crops the centre; `squash` resizes both sides, losing the aspect."""
    exif: Literal["ignore", "apply"] = "ignore"
    """Whether the orientation in an image's EXIF data is applied."""
    crop_pct: float = 1.0
    """Share of the resized image's side that evaluation's centre crop keeps, timm's `crop_pct`; CLIP keeps all."""

    def __post_init__(self) -> None:
        _one_of("interpolation", self.interpolation, ("bicubic", "bilinear"))
        _one_of("resize_mode", self.resize_mode, ("shortest", "squash"))
        _one_of("exif", self.exif, ("ignore", "apply"))
        if self.image_size < 1:
            raise ValueError(f"image_size is {self.image_size}; give at least 1 pixel")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is {self.crop_pct}; give more than 0 and at most 1")

    @property
    def resize_size(self) -> int:
        """Pixels of the side that evaluation resizes to before it crops the centre, rounded down as timm does."""
        return math.floor(self.image_size / self.crop_pct)


class ColorJitter(NamedTuple):
    """Half-widths of the factors' ranges around 1, and of the hue shift around 0 (a fraction of the circle)."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0


class RandAugment(NamedTuple):
    """timm's `rand-m{magnitude}-n{num_ops}-mstd{magnitude_std}-inc{increasing}`."""

    magnitude: float = 9.0
    magnitude_std: float = 0.5
    num_ops: int = 2
    increasing: bool = True


class GaussianBlur(NamedTuple):
    """Probability of a blur, and its standard deviation in pixels, smallest and largest."""

    probability: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)


class Variant(IntEnum):
    """What 3-Augment makes of an image."""

    GREY = 0
    SOLARIZED = 1
    BLURRED = 2


@dataclass(frozen=True)
class Augment:
    """What training images go through, in order: crop, RandAugment or 3-Augment, colour jitter, greying, blur, flip,
    normalisation, erasing. The order is timm's, but for the flip, which commutes with most of the rest."""

    crop: Literal["resized", "simple"] = "resized"
    """`simple` resizes the shorter side and cuts a square out; `SIMPLE_CROP_BORDER` reflected pixels lie around it."""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Share of the image's area that the crop takes, smallest and largest."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width by height of the crop, smallest and largest."""
    horizontal_flip: float = 0.0
    """Probability of a left-right flip."""
    color_jitter: ColorJitter | None = None
    """Brightness, contrast, saturation and hue, applied in this order, or None."""
    color_jitter_probability: float = 1.0
    """Probability that an image is jittered at all."""
    rand_augment: RandAugment | None = None
    """RandAugment, or None."""
    three_augment: bool = False
    """DeiT III's choice of one: grey, solarised or blurred."""
    grayscale: float = 0.0
    """Probability of turning an image grey."""
    blur: GaussianBlur | None = None
    """Gaussian blur, or None."""
    random_erasing: float = 0.0
    """Probability of replacing a rectangle with normal noise."""


def resized_size(sizes: np.ndarray, image_size: int) -> np.ndarray:
    """Sizes after the shorter side is resized to `image_size`; the longer one is rounded down, as torchvision does.

    Args:
        sizes: (N, 2) widths and heights.

    Returns:
        (N, 2) int64 widths and heights.
    """
    sizes = np.asarray(sizes, np.int64)
    shorter = sizes.min(axis=1, keepdims=True)
    return np.where(sizes == shorter, image_size, (image_size * sizes / shorter).astype(np.int64))


def resize_regions(sizes: np.ndarray, preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """The part of each image that the evaluation transform keeps, so that one resize does both resize and crop.

    Args:
        sizes: (N, 2) widths and heights.

    Returns:
        Top-left and bottom-right corners in source pixels, both (N, 2) float32 as (y, x).
    """
    if preprocess.resize_mode == "squash":
        resized = np.full_like(np.asarray(sizes, np.int64), preprocess.resize_size)
    else:
        resized = resized_size(sizes, preprocess.resize_size)
    corner = np.rint((resized - preprocess.image_size) / 2)
    return _source_regions(corner, sizes, resized, preprocess.image_size)


def resize_regions_at(corner: np.ndarray, sizes: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """As `resize_regions`, for squares whose (N, 2) corners (y, x) in the resized image are given."""
    return _source_regions(corner[:, ::-1], sizes, resized_size(sizes, image_size), image_size)


def _source_regions(
    corner: np.ndarray, sizes: np.ndarray, resized: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    source_pixels = np.asarray(sizes, np.float64) / resized
    start, end = corner * source_pixels, (corner + side) * source_pixels
    return start[:, ::-1].astype(np.float32), end[:, ::-1].astype(np.float32)


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{field} is {value!r}; allowed: {', '.join(allowed)}")
