"""What a CPU does to decoded images: a resize that is Pillow's to the rounding, and Pillow's own operations after it.

DALI's operators for the CPU resize and warp several times slower than torch and Pillow do, and not to the same
pixels; `dali_pipelines.graph_operations` holds those that a GPU runs. A graph calls a `Transform` as one of its nodes.
Pixels are uint8 (H, W, 3) arrays; nothing is drawn here, each operation takes its numbers as inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from nvidia.dali.pipeline import do_not_convert
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch.nn import functional

from dali_pipelines.rand_augment import Kind, fill_color
from dali_pipelines.transforms import SIMPLE_CROP_BORDER, SOLARIZE_THRESHOLD, Augment, Preprocess, Variant

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_LONGEST = 32  # sides of the input that an image may be resized to; of a longer one only the region is made
_LEVELS = np.arange(256)
_SOLARIZE_ADD_BELOW = 128

Inputs = Mapping[str, np.ndarray]
OneImage = Callable[[np.ndarray, Inputs], np.ndarray]


class Transform:
    """A function of one image and its inputs, run over batches by `num_threads` threads.

    Called with a list for each of `names`, the first being the images; returns the list of results.
    """

    def __init__(self, one: OneImage, names: Sequence[str], *, num_threads: int) -> None:
        self._one, self._names = one, names
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="pixels") if num_threads > 1 else None

    def __call__(self, images: list[np.ndarray], *columns: list[np.ndarray]) -> list[np.ndarray]:
        inputs = [dict(zip(self._names, values, strict=True)) for values in zip(*columns, strict=True)]
        results = map(self._one, images, inputs) if self._pool is None else self._pool.map(self._one, images, inputs)
        return list(results)


@do_not_convert
def training(preprocess: Preprocess, augment: Augment) -> OneImage:
    """The function that crops whole rows to columns, resizes, and augments by the graph's inputs."""
    side = preprocess.image_size

    def one(pixels: np.ndarray, inputs: Inputs) -> np.ndarray:
        if augment.crop == "simple":
            pixels = bordered_crop(region(pixels, inputs, preprocess), inputs["border_start"].tolist())
        else:
            left, width = int(inputs["crop_start"][1]), int(inputs["crop_shape"][1])
            pixels = resize(pixels[:, left : left + width], (side, side), interpolation=preprocess.interpolation)
        return augmented(pixels, inputs, augment, preprocess)

    return one


def augmented(pixels: np.ndarray, inputs: Inputs, augment: Augment, preprocess: Preprocess) -> np.ndarray:
    """All that comes between the crop and the flip, by one image's inputs of the graph."""
    fill, resampling = fill_color(preprocess), _RESAMPLING[preprocess.interpolation]
    for number in range(augment.rand_augment[2] if augment.rand_augment else 0):
        kind = Kind(int(inputs[f"kind_{number}"]))
        amount, matrix = inputs[f"amount_{number}"].item(), inputs[f"matrix_{number}"]
        pixels = rand_augment_op(pixels, kind, amount, matrix, fill=fill, resampling=resampling)
    if augment.three_augment:
        pixels = three_augment(pixels, Variant(int(inputs["variant"])), inputs["variant_sigma"].item())
    if augment.color_jitter is not None:
        pixels = color_jitter(pixels, inputs["jitter"].tolist(), augment.color_jitter)
    if augment.grayscale and inputs["grey"]:
        pixels = grey(pixels)
    return pixels if augment.blur is None else blur(pixels, inputs["blur_sigma"].item())


@do_not_convert
def evaluation(preprocess: Preprocess) -> OneImage:
    """The function that resizes and keeps the part between `region_start` and `region_end`, (y, x) in pixels."""
    return lambda pixels, inputs: region(pixels, inputs, preprocess)


def region(pixels: np.ndarray, inputs: Inputs, preprocess: Preprocess) -> np.ndarray:
    """What lies between `region_start` and `region_end`, (y, x) in pixels, of the image as the transform resizes it."""
    side = preprocess.image_size
    sizes = np.array(pixels.shape[:2])
    start, end = inputs["region_start"].astype(np.float64), inputs["region_end"].astype(np.float64)
    height, width = np.rint(side * sizes / (end - start)).astype(int).tolist()
    if max(height, width) > _LONGEST * side:
        box = (start[1], start[0], end[1], end[0])
        image = Image.fromarray(pixels).resize((side, side), _RESAMPLING[preprocess.interpolation], box)
        return np.asarray(image)
    top, left = np.rint(start * (height, width) / sizes).astype(int).tolist()
    resized = resize(pixels, (height, width), interpolation=preprocess.interpolation)
    return resized[top : top + side, left : left + side]


def bordered_crop(pixels: np.ndarray, start: Sequence[int]) -> np.ndarray:
    """The image moved within a border of reflected pixels, by the corner (y, x) of the part to keep."""
    border = [(SIMPLE_CROP_BORDER, SIMPLE_CROP_BORDER)] * 2 + [(0, 0)]
    (height, width), (top, left) = pixels.shape[:2], start
    return np.pad(pixels, border, mode="reflect")[top : top + height, left : left + width]


def resize(pixels: np.ndarray, size: tuple[int, int], *, interpolation: str) -> np.ndarray:
    """Resize to (height, width) with antialiasing, as Pillow does: uint8 between the two directions too.

    torch's kernel for bytes does Pillow's arithmetic with shorter weights: 2 to 3 % of the values come out one step
    off, and a few in ten thousand, at sharp edges, more.
    """
    channels_last = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    resized = functional.interpolate(channels_last, size=size, mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def color_jitter(pixels: np.ndarray, factors: Sequence[float], widths: Sequence[float]) -> np.ndarray:
    """torchvision's ColorJitter with its operations in the fixed order brightness, contrast, saturation, hue."""
    image = Image.fromarray(pixels)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, factor, width in zip(enhancers, factors[:3], widths[:3], strict=True):
        if width and factor != 1:
            image = enhancer(image).enhance(factor)
    if widths[3] and factors[3]:
        hue, saturation, value = image.convert("HSV").split()
        turned = hue.point([(level + int(factors[3] * 255)) % 256 for level in range(256)])
        image = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    return np.asarray(image)


def grey(pixels: np.ndarray) -> np.ndarray:
    """The luma in all three channels."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Pillow's Gaussian blur, which is three box blurs; none where `sigma` is 0."""
    if sigma == 0:
        return pixels
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def three_augment(pixels: np.ndarray, variant: Variant, sigma: float) -> np.ndarray:
    """What DeiT III makes of an image; `sigma` is for the blurred variant."""
    if variant == Variant.GREY:
        return grey(pixels)
    if variant == Variant.SOLARIZED:
        return np.asarray(ImageOps.solarize(Image.fromarray(pixels), SOLARIZE_THRESHOLD))
    return blur(pixels, sigma)


def rand_augment_op(
    pixels: np.ndarray,
    kind: Kind,
    amount: float,
    matrix: np.ndarray,
    *,
    fill: Sequence[int],
    resampling: Image.Resampling,
) -> np.ndarray:
    """Apply timm's operation (see `dali_pipelines.rand_augment.Kind`); the pixels are those that timm gets."""
    if kind == Kind.NONE:
        return pixels
    image = Image.fromarray(pixels)
    if kind == Kind.WARP:
        coefficients = matrix.ravel().tolist()
        result = image.transform(
            image.size, Image.Transform.AFFINE, coefficients, resample=resampling, fillcolor=tuple(fill)
        )
    elif kind in _TABLES:
        result = image.point(_TABLES[kind](amount).tolist() * 3)
    else:
        result = _ENHANCEMENTS[kind](image, amount)
    return np.asarray(result)


# New values for the levels 0..255, by the amount.
_TABLES: dict[Kind, Callable[[float], np.ndarray]] = {
    Kind.SOLARIZE: lambda threshold: np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS),
    Kind.POSTERIZE: lambda mask: _LEVELS & int(mask),
    Kind.SOLARIZE_ADD: lambda addend: np.minimum(255, _LEVELS + int(addend) * (_LEVELS < _SOLARIZE_ADD_BELOW)),
}

_ENHANCEMENTS: dict[Kind, Callable[[Image.Image, float], Image.Image]] = {
    Kind.BRIGHTNESS: lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    Kind.CONTRAST: lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    Kind.COLOR: lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    Kind.SHARPNESS: lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
    Kind.AUTO_CONTRAST: lambda image, _: ImageOps.autocontrast(image),
    Kind.EQUALIZE: lambda image, _: ImageOps.equalize(image),
}
