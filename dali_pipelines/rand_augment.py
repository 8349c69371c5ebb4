"""RandAugment as timm defines it, drawn into parameters that a graph can take. Imports neither DALI nor torch.

The operations, their strengths and their order are those of `rand-m{}-n{}-mstd{}-inc{}` in timm's
`timm/data/auto_augment.py` (https://github.com/huggingface/pytorch-image-models). Each operation becomes a kind of
pixel work (`Kind`) and its numbers; rotation, shears and translations are one kind, an affine warp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from dali_pipelines.transforms import Preprocess, RandAugment

DRAWS_PER_OP = 5
APPLY_PROBABILITY = 0.5
MAX_MAGNITUDE = 10.0
_UNIFORM_MAGNITUDE_STD = 100.0  # above it, timm draws the magnitude uniformly from 0 to `magnitude`


class Kind(IntEnum):
    """The pixel work behind an operation."""

    NONE = 0
    WARP = 1
    SOLARIZE = 2
    POSTERIZE = 3
    SOLARIZE_ADD = 4
    BRIGHTNESS = 5
    CONTRAST = 6
    COLOR = 7
    SHARPNESS = 8
    AUTO_CONTRAST = 9
    EQUALIZE = 10


@dataclass(frozen=True)
class Operation:
    """One of timm's operations.

    `amount` takes levels on 0..1, signs of -1 or 1, and whether severity grows with the level. For a warp,
    `matrix` maps output to input pixels: (N,) amounts and the image size -> (N, 2, 3).
    """

    name: str
    kind: Kind
    amount: Callable[[np.ndarray, np.ndarray, bool], np.ndarray]
    matrix: Callable[[np.ndarray, int], np.ndarray] | None = None


@dataclass(frozen=True)
class DrawnOps:
    """One operation for each image of a batch."""

    kind: np.ndarray  # (N,) int32
    amount: np.ndarray  # (N,) float32
    matrix: np.ndarray  # (N, 2, 3) float64, output to input pixels


def fill_color(preprocess: Preprocess) -> tuple[int, ...]:
    """The mean colour in whole steps of 0..255, which timm fills warped images with."""
    return tuple(min(255, round(255 * mean)) for mean in preprocess.mean)


def draw_ops(uniforms: np.ndarray, settings: RandAugment | tuple, *, image_size: int) -> list[DrawnOps]:
    """Draw the operations of a batch.

    Args:
        uniforms: (N, num_ops * DRAWS_PER_OP).
        image_size: side of the square images that the operations will work on.

    Returns:
        For each of the `num_ops` rounds, an operation an image.
    """
    settings = RandAugment(*settings)
    rounds = uniforms.reshape(len(uniforms), settings.num_ops, DRAWS_PER_OP).transpose(1, 2, 0)
    return [_draw_round(*draws, settings=settings, image_size=image_size) for draws in rounds]


def _draw_round(
    choice: np.ndarray,
    chance: np.ndarray,
    strength: np.ndarray,
    angle: np.ndarray,
    side: np.ndarray,
    *,
    settings: RandAugment,
    image_size: int,
) -> DrawnOps:
    number = np.floor(choice * len(OPERATIONS)).astype(np.int64)
    sign = np.where(side > 0.5, -1.0, 1.0)
    return apply_ops(
        np.where(chance <= APPLY_PROBABILITY, number, -1),
        _magnitudes(strength, angle, settings) / MAX_MAGNITUDE,
        sign,
        increasing=settings.increasing,
        image_size=image_size,
    )


def apply_ops(
    number: np.ndarray, level: np.ndarray, sign: np.ndarray, *, increasing: bool, image_size: int
) -> DrawnOps:
    """The parameters of chosen operations.

    Args:
        number: (N,) index into OPERATIONS, -1 for none.
        level: (N,) strength from 0 to 1.
        sign: (N,) direction, -1 or 1.
    """
    kind, amount = np.zeros(len(number), np.int32), np.zeros(len(number))
    matrix = np.tile(np.eye(2, 3), (len(number), 1, 1))
    for index, operation in enumerate(OPERATIONS):
        mine = number == index
        if not mine.any():
            continue
        kind[mine] = operation.kind
        amount[mine] = operation.amount(level[mine], sign[mine], increasing)
        if operation.matrix is not None:
            matrix[mine] = operation.matrix(amount[mine], image_size)
    return DrawnOps(kind, amount.astype(np.float32), matrix)


def _magnitudes(strength: np.ndarray, angle: np.ndarray, settings: RandAugment) -> np.ndarray:
    if settings.magnitude_std > _UNIFORM_MAGNITUDE_STD:
        drawn = settings.magnitude * strength
    else:
        normal = np.sqrt(-2 * np.log1p(-strength)) * np.cos(2 * np.pi * angle)
        drawn = settings.magnitude + settings.magnitude_std * normal
    return np.clip(drawn, 0.0, MAX_MAGNITUDE)


def _nothing(level: np.ndarray, sign: np.ndarray, increasing: bool) -> np.ndarray:
    return np.zeros_like(level)


def _signed(largest: float) -> Callable[[np.ndarray, np.ndarray, bool], np.ndarray]:
    return lambda level, sign, increasing: level * largest * sign


def _posterize_mask(level: np.ndarray, sign: np.ndarray, increasing: bool) -> np.ndarray:
    """Keeps the leading bits; at least one, where timm's table says none and Pillow refuses."""
    bits = np.floor(level * 4)
    return 256 - 2.0 ** (8 - np.maximum(1, 4 - bits if increasing else bits))


def _solarize_threshold(level: np.ndarray, sign: np.ndarray, increasing: bool) -> np.ndarray:
    threshold = np.minimum(256, np.floor(level * 256))
    return 256 - threshold if increasing else threshold


def _solarize_addend(level: np.ndarray, sign: np.ndarray, increasing: bool) -> np.ndarray:
    return np.floor(level * 110)


def _enhancement(level: np.ndarray, sign: np.ndarray, increasing: bool) -> np.ndarray:
    return np.maximum(0.1, 1.0 + sign * level * 0.9) if increasing else level * 1.8 + 0.1


def _affine(x_from_y: float = 0, y_from_x: float = 0, x: float = 0, y: float = 0):
    """Matrices that are the identity plus the amount times the given entries; offsets count in image sizes."""
    entries = np.array([[0.0, x_from_y, x], [y_from_x, 0.0, y]])

    def matrix(amount: np.ndarray, image_size: int) -> np.ndarray:
        return np.eye(2, 3) + amount[:, None, None] * entries * [1, 1, image_size]

    return matrix


def _rotation(degrees: np.ndarray, image_size: int) -> np.ndarray:
    """Counter-clockwise about the centre."""
    cosine, sine, centre = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), image_size / 2
    offset_x, offset_y = centre * (1 - cosine + sine), centre * (1 - cosine - sine)
    rows = np.array([[cosine, -sine, offset_x], [sine, cosine, offset_y]])
    return rows.transpose(2, 0, 1)


OPERATIONS = (
    Operation("AutoContrast", Kind.AUTO_CONTRAST, _nothing),
    Operation("Equalize", Kind.EQUALIZE, _nothing),
    Operation("Invert", Kind.SOLARIZE, _nothing),
    Operation("Rotate", Kind.WARP, _signed(30.0), _rotation),
    Operation("Posterize", Kind.POSTERIZE, _posterize_mask),
    Operation("Solarize", Kind.SOLARIZE, _solarize_threshold),
    Operation("SolarizeAdd", Kind.SOLARIZE_ADD, _solarize_addend),
    Operation("Color", Kind.COLOR, _enhancement),
    Operation("Contrast", Kind.CONTRAST, _enhancement),
    Operation("Brightness", Kind.BRIGHTNESS, _enhancement),
    Operation("Sharpness", Kind.SHARPNESS, _enhancement),
    Operation("ShearX", Kind.WARP, _signed(0.3), _affine(x_from_y=1)),
    Operation("ShearY", Kind.WARP, _signed(0.3), _affine(y_from_x=1)),
    Operation("TranslateX", Kind.WARP, _signed(0.45), _affine(x=1)),
    Operation("TranslateY", Kind.WARP, _signed(0.45), _affine(y=1)),
)
