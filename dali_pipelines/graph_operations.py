"""Augmentations as nodes of a DALI graph, which a GPU runs; `dali_pipelines.pillow_operations` holds the CPU's.

Pixels go in and out as uint8 (H, W, 3). Nothing is drawn here: each operation takes its numbers as inputs. With
`on_gpu=False` the same nodes run on the CPU, where they are compared with Pillow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import nvidia.dali.math as dmath
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

from dali_pipelines.rand_augment import Kind
from dali_pipelines.transforms import SIMPLE_CROP_BORDER, SOLARIZE_THRESHOLD, Augment, Variant

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's ImageFilter.SMOOTH
_ENLARGED = 3.0  # odd, so that pixels' centres stay pixels' centres
_IDENTITY = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)


def augmented(
    images: DataNode, inputs: Mapping[str, DataNode], augment: Augment, *, fill: Sequence[int], on_gpu: bool
) -> DataNode:
    """All that comes between the crop and the flip, by the inputs of `dali_pipelines.graphs.training_inputs`."""
    for number in range(augment.rand_augment[2] if augment.rand_augment else 0):
        drawn = [inputs[f"{field}_{number}"] for field in ("kind", "amount", "matrix")]
        images = rand_augment_op(images, *drawn, fill=fill, on_gpu=on_gpu)
    if augment.three_augment:
        images = three_augment(images, inputs["variant"], inputs["variant_sigma"])
    if augment.color_jitter is not None:
        images = color_jitter(images, inputs["jitter"], augment.color_jitter, on_gpu)
    if augment.grayscale:
        images = _grey_where(images, inputs["grey"])
    if augment.blur is not None:
        images = _blur_where(images, inputs["blur_sigma"])
    return images


def bordered_crop(images: DataNode, start: DataNode, *, side: int) -> DataNode:
    """Square images moved within a border of reflected pixels, by the corner (y, x) of the part to keep."""
    border = SIMPLE_CROP_BORDER
    above = fn.flip(images[1 : border + 1], horizontal=0, vertical=1)
    below = fn.flip(images[side - border - 1 : side - 1], horizontal=0, vertical=1)
    tall = fn.cat(above, images, below, axis=0)
    left = fn.flip(tall[:, 1 : border + 1], horizontal=1)
    right = fn.flip(tall[:, side - border - 1 : side - 1], horizontal=1)
    return fn.slice(fn.cat(left, tall, right, axis=1), start, [side, side], axes=[0, 1])


def three_augment(images: DataNode, variant: DataNode, sigma: DataNode) -> DataNode:
    """What DeiT III makes of an image; `sigma` is for the blurred variant."""
    if variant == int(Variant.GREY):
        chosen = _grey(images)
    elif variant == int(Variant.SOLARIZED):
        chosen = _solarize(images, types.Constant(SOLARIZE_THRESHOLD, dtype=types.INT16))
    else:
        chosen = fn.gaussian_blur(images, sigma=sigma)
    return chosen


def rand_augment_op(
    images: DataNode,
    kind: DataNode,
    amount: DataNode,
    matrix: DataNode,
    *,
    fill: Sequence[int],
    on_gpu: bool,
) -> DataNode:
    """Apply to each image the operation that `kind` names (see `dali_pipelines.rand_augment.Kind`).

    Warps, always bicubic, differ from Pillow's by what `_warp` says; the rest agrees to the rounding.
    """
    number = amount.gpu() if on_gpu else amount
    branches = {
        Kind.NONE: lambda: images,
        Kind.WARP: lambda: _warp(images, fn.cast(matrix, dtype=types.FLOAT), fill, on_gpu),
        Kind.SOLARIZE: lambda: _solarize(images, fn.cast(number, dtype=types.INT16)),
        Kind.POSTERIZE: lambda: images & fn.cast(number, dtype=types.UINT8),
        Kind.SOLARIZE_ADD: lambda: _solarize_add(images, fn.cast(number, dtype=types.UINT8)),
        Kind.BRIGHTNESS: lambda: fn.brightness(images, brightness=amount),
        Kind.CONTRAST: lambda: _contrast(images, number, on_gpu),
        Kind.COLOR: lambda: fn.saturation(images, saturation=amount),
        Kind.SHARPNESS: lambda: _sharpen(images, amount, on_gpu),
        Kind.AUTO_CONTRAST: lambda: _auto_contrast(images),
        Kind.EQUALIZE: lambda: _equalize(images),
    }
    return _branch(kind, sorted(branches.items()))


def _branch(kind: DataNode, branches: Sequence[tuple[Kind, Callable[[], DataNode]]]) -> DataNode:
    """Choose by bisection: each `if` on a DataNode splits the batch, so the tree is kept shallow."""
    if len(branches) == 1:
        return branches[0][1]()
    half = len(branches) // 2
    if kind < int(branches[half][0]):  # noqa: SIM108 (DALI converts statements, not expressions)
        chosen = _branch(kind, branches[:half])
    else:
        chosen = _branch(kind, branches[half:])
    return chosen


def color_jitter(images: DataNode, factors: DataNode, widths: Sequence[float], on_gpu: bool) -> DataNode:
    """torchvision's ColorJitter with its operations in the fixed order brightness, contrast, saturation, hue."""
    brightness, contrast, saturation, hue = widths
    numbers = factors.gpu() if on_gpu else factors
    if brightness:
        images = fn.brightness(images, brightness=factors[0])
    if contrast:
        images = _contrast(images, numbers[1], on_gpu)
    if saturation:
        images = fn.saturation(images, saturation=factors[2])
    if hue:
        images = _rotate_hue(images, numbers[3])
    return images


def _grey(images: DataNode) -> DataNode:
    luma = fn.color_space_conversion(images, image_type=types.RGB, output_type=types.GRAY)
    return fn.color_space_conversion(luma, image_type=types.GRAY, output_type=types.RGB)


def _grey_where(images: DataNode, chosen: DataNode) -> DataNode:
    if chosen > 0:  # noqa: SIM108 (DALI converts statements, not expressions)
        result = _grey(images)
    else:
        result = images
    return result


def _blur_where(images: DataNode, sigma: DataNode) -> DataNode:
    if sigma > 0.0:  # noqa: SIM108 (DALI converts statements, not expressions)
        result = fn.gaussian_blur(images, sigma=sigma)
    else:
        result = images
    return result


def _warp(images: DataNode, matrix: DataNode, fill: Sequence[int], on_gpu: bool) -> DataNode:
    """Pillow's bicubic warp, nearly: the operator interpolates linearly, and here does so in an enlarged image.

    Pillow's curve for warps is sharper than the one for its resizes; Lanczos' comes nearest of those that a resize
    has. The fill colour begins, as with Pillow, where a pixel's centre comes from outside.
    """
    size = fn.cast(images.shape()[0:2], dtype=types.FLOAT)
    large = fn.resize(images, size=_ENLARGED * size, interp_type=types.INTERP_LANCZOS3)
    warped = fn.warp_affine(large, matrix=_ENLARGED * matrix, size=size)
    everywhere = images[:, :, 0:1] >= types.Constant(0, dtype=types.UINT8)
    inside = fn.warp_affine(
        fn.cast(everywhere, dtype=types.UINT8), matrix=matrix, fill_value=0, interp_type=types.INTERP_NN
    )
    return warped * inside + _color(np.array(fill, np.uint8), on_gpu) * (inside ^ types.Constant(1, dtype=types.UINT8))


def _color(values: np.ndarray, on_gpu: bool) -> DataNode:
    """A number for each channel, on the images' device."""
    return types.Constant(values.reshape(1, 1, 3), device="gpu" if on_gpu else "cpu")


def _solarize(images: DataNode, threshold: DataNode) -> DataNode:
    below = images < threshold
    return below * images + (below ^ True) * (types.Constant(255, dtype=types.UINT8) - images)


def _solarize_add(images: DataNode, addend: DataNode) -> DataNode:
    return images + (images < types.Constant(128, dtype=types.UINT8)) * addend


def _sharpen(images: DataNode, factor: DataNode, on_gpu: bool) -> DataNode:
    """Blend with the smoothed image; the outermost pixels stay, as with Pillow."""
    kernel = factor * types.Constant(_IDENTITY - _SMOOTH, device="cpu") + types.Constant(_SMOOTH, device="cpu")
    inner = fn.filter(images, kernel.gpu() if on_gpu else kernel)[1:-1, 1:-1]
    rows = fn.cat(images[1:-1, 0:1], inner, images[1:-1, -1:], axis=1)
    return fn.cat(images[0:1], rows, images[-1:], axis=0)


def _contrast(images: DataNode, factor: DataNode, on_gpu: bool) -> DataNode:
    """Blend with the mean grey, which Pillow rounds to a whole step."""
    mean_rgb = fn.reductions.mean(images, axis_names="HW", keep_dims=True)
    grey = dmath.floor(fn.reductions.sum(mean_rgb * _color(_LUMA, on_gpu), axis_names="C", keep_dims=True) + 0.5)
    return fn.cast_like(grey + (images - grey) * factor, images)


def _auto_contrast(images: DataNode) -> DataNode:
    """Stretch each channel to 0..255; a channel of one value stays as it is."""
    low = fn.reductions.min(images, axis_names="HW", keep_dims=True)
    high = fn.reductions.max(images, axis_names="HW", keep_dims=True)
    flat = high == low
    scale = 255.0 / (fn.cast(high - low, dtype=types.FLOAT) + fn.cast(flat, dtype=types.FLOAT) * 255.0)
    return fn.cast_like((images - low * (flat ^ True)) * scale, images)


def _equalize(images: DataNode) -> DataNode:
    """Pillow's equalisation: OpenCV's formula, which the operator has, counted from the bright end."""
    white = types.Constant(255, dtype=types.UINT8)
    return white - fn.equalize(white - images)


def _rotate_hue(images: DataNode, turns: DataNode) -> DataNode:
    """Shift the hue in the HSV cone, keeping value and chroma, as torchvision does on tensors."""
    red, green, blue = (fn.cast(images[:, :, c : c + 1], dtype=types.FLOAT) for c in range(3))
    value = dmath.max(dmath.max(red, green), blue)
    chroma = value - dmath.min(dmath.min(red, green), blue)
    divisor = dmath.max(chroma, 1e-6)
    red_leads = value == red
    green_leads = (red_leads ^ True) & (value == green)
    blue_leads = (red_leads ^ True) & (value != green)
    sixth = (
        red_leads * ((green - blue) / divisor)
        + green_leads * ((blue - red) / divisor + 2.0)
        + blue_leads * ((red - green) / divisor + 4.0)
    )
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = sixth + turns * 6.0 + offset
        place = place - 6.0 * dmath.floor(place / 6.0)
        ramp = dmath.clamp(dmath.min(place, 4.0 - place), 0.0, 1.0)
        channels.append(value - chroma * ramp)
    return fn.cast_like(fn.cat(*channels, axis=2), images)
