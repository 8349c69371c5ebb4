"""The DALI graphs: from encoded bytes and given parameters to normalised pixels, on the CPU or the GPU alike.

No operator here draws anything: crops, flips and augmentations arrive as inputs, so that an image's pixels depend on
its position in the stream only, not on its neighbours in a batch. `build` makes a pipeline that calls `feed` for each
batch; `feed` returns the inputs in the order of `training_inputs` or `evaluation_inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import nvidia.dali.math as dmath
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from dali_pipelines.rand_augment import Kind
from dali_pipelines.transforms import Augment, Preprocess

Graph = Callable[[Mapping[str, DataNode]], DataNode]

_INTERPOLATION = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def training_inputs(augment: Augment, *, any_in_memory: bool) -> list[str]:
    """Names of the training graph's inputs, in order.

    `path` is the file's name as bytes; where any image comes through Pillow, `in_memory` (bool) says which ones do and
    `encoded` holds their PPM bytes. `crop_start` is (y, x), `crop_shape` (height, width), `flip` 0 or 1, `jitter`
    the four colour factors, and `kind_I, amount_I, matrix_I, kernel_I` the I-th RandAugment operation.
    """
    names = ["path", "in_memory", "encoded"] if any_in_memory else ["path"]
    names += ["crop_start", "crop_shape", "flip"]
    if augment.color_jitter is not None:
        names.append("jitter")
    if augment.rand_augment is not None:
        for number in range(augment.rand_augment[2]):
            names += [f"{field}_{number}" for field in ("kind", "amount", "matrix", "kernel")]
    return names


def evaluation_inputs(*, from_files: bool, any_in_memory: bool) -> list[str]:
    """Names of the evaluation graph's inputs, in order; `region_start` and `region_end` are (y, x) in pixels."""
    if not from_files:
        return ["encoded", "region_start", "region_end"]
    names = ["path", "in_memory", "encoded"] if any_in_memory else ["path"]
    return [*names, "region_start", "region_end"]


def training(preprocess: Preprocess, augment: Augment, *, device: int | None, hardware_load: float) -> Graph:
    """The graph of training images: (3, H, W) float32, normalised."""
    on_gpu = device is not None

    def graph(inputs: Mapping[str, DataNode]) -> DataNode:
        images = fn.decoders.image_slice(
            _encoded(inputs),
            start=inputs["crop_start"],
            shape=inputs["crop_shape"],
            axes=[0, 1],
            **_decoder_options(preprocess, on_gpu, hardware_load),
        )
        images = _resize(images, preprocess)
        if augment.color_jitter is not None:
            images = _color_jitter(images, inputs["jitter"], augment.color_jitter, on_gpu)
        if augment.rand_augment is not None:
            for number in range(augment.rand_augment[2]):
                drawn = [inputs[f"{field}_{number}"] for field in ("kind", "amount", "matrix", "kernel")]
                images = rand_augment_op(images, *drawn, fill=fill_color(preprocess), on_gpu=on_gpu)
        return _normalise(images, preprocess, flip=inputs["flip"])

    return graph


def evaluation(preprocess: Preprocess, *, device: int | None, hardware_load: float) -> Graph:
    """The graph of evaluation images: CLIP's reference preprocessing, (3, H, W) float32."""
    on_gpu = device is not None

    def graph(inputs: Mapping[str, DataNode]) -> DataNode:
        images = fn.decoders.image(_encoded(inputs), **_decoder_options(preprocess, on_gpu, hardware_load))
        images = _resize(images, preprocess, roi_start=inputs["region_start"], roi_end=inputs["region_end"])
        return _normalise(images, preprocess)

    return graph


def build(
    graph: Graph,
    input_names: Sequence[str],
    feed: Callable[[], Sequence[Any]],
    *,
    batch_size: int,
    device: int | None,
    num_threads: int,
    prefetch_batches: int,
) -> Pipeline:
    """A built pipeline of one output that decodes up to `prefetch_batches` batches ahead.

    Args:
        feed: returns a batch for each input; raises StopIteration at the end.
        device: GPU number; None for a machine without a GPU.
    """

    @pipeline_def(enable_conditionals=True)
    def pipeline():
        nodes = fn.external_source(source=feed, num_outputs=len(input_names), batch=True)
        return graph({name: nodes[number] for number, name in enumerate(input_names)})

    built = pipeline(
        batch_size=batch_size, device_id=device, num_threads=num_threads, prefetch_queue_depth=prefetch_batches
    )
    built.build()
    return built


def fill_color(preprocess: Preprocess) -> list[int]:
    """The mean colour in whole steps of 0..255, which timm fills warped images with."""
    return [min(255, round(255 * mean)) for mean in preprocess.mean]


def rand_augment_op(
    images: DataNode,
    kind: DataNode,
    amount: DataNode,
    matrix: DataNode,
    kernel: DataNode,
    *,
    fill: Sequence[int],
    on_gpu: bool,
) -> DataNode:
    """Apply to each image the operation that `kind` names (see `dali_pipelines.rand_augment.Kind`).

    Differs from Pillow in three points: warps interpolate linearly (timm: bicubic), warped edges blend into the fill
    colour over a pixel, and sharpness also filters the outermost pixels. The rest agrees to the rounding.
    """
    number = amount.gpu() if on_gpu else amount
    branches = {
        Kind.NONE: lambda: images,
        Kind.WARP: lambda: _warp(images, matrix, fill, on_gpu),
        Kind.SOLARIZE: lambda: _solarize(images, fn.cast(number, dtype=types.INT16)),
        Kind.POSTERIZE: lambda: images & fn.cast(number, dtype=types.UINT8),
        Kind.SOLARIZE_ADD: lambda: _solarize_add(images, fn.cast(number, dtype=types.UINT8)),
        Kind.BRIGHTNESS: lambda: fn.brightness(images, brightness=amount),
        Kind.CONTRAST: lambda: _contrast(images, number, on_gpu),
        Kind.COLOR: lambda: fn.saturation(images, saturation=amount),
        Kind.SHARPNESS: lambda: fn.filter(images, kernel.gpu() if on_gpu else kernel),
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


def _encoded(inputs: Mapping[str, DataNode]) -> DataNode:
    if "path" not in inputs:
        return inputs["encoded"]
    if "encoded" not in inputs:
        return fn.io.file.read(inputs["path"])
    if inputs["in_memory"]:  # noqa: SIM108 (DALI converts statements, not expressions)
        encoded = inputs["encoded"]
    else:
        encoded = fn.io.file.read(inputs["path"])
    return encoded


def _decoder_options(preprocess: Preprocess, on_gpu: bool, hardware_load: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "device": "mixed" if on_gpu else "cpu",
        "output_type": types.RGB,
        "adjust_orientation": preprocess.exif == "apply",
        "jpeg_fancy_upsampling": True,
    }
    return options | {"hw_decoder_load": hardware_load} if on_gpu else options


def _resize(images: DataNode, preprocess: Preprocess, **region: DataNode) -> DataNode:
    side = preprocess.image_size
    interpolation = _INTERPOLATION[preprocess.interpolation]
    return fn.resize(images, size=[side, side], interp_type=interpolation, antialias=True, **region)


def _normalise(images: DataNode, preprocess: Preprocess, flip: DataNode | int = 0) -> DataNode:
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        mirror=flip,
        mean=[255 * mean for mean in preprocess.mean],
        std=[255 * std for std in preprocess.std],
    )


def _color_jitter(images: DataNode, factors: DataNode, widths: Sequence[float], on_gpu: bool) -> DataNode:
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


def _warp(images: DataNode, matrix: DataNode, fill: Sequence[int], on_gpu: bool) -> DataNode:
    # The operator fills with one number for all channels, so the fill colour is made the zero.
    fill_rgb = _color(np.array(fill, np.int16), on_gpu)
    centred = fn.cast(images, dtype=types.INT16) - fill_rgb
    return fn.cast(fn.warp_affine(centred, matrix=matrix, fill_value=0) + fill_rgb, dtype=types.UINT8)


def _color(values: np.ndarray, on_gpu: bool) -> DataNode:
    """A number for each channel, on the images' device."""
    return types.Constant(values.reshape(1, 1, 3), device="gpu" if on_gpu else "cpu")


def _solarize(images: DataNode, threshold: DataNode) -> DataNode:
    below = images < threshold
    return below * images + (below ^ True) * (types.Constant(255, dtype=types.UINT8) - images)


def _solarize_add(images: DataNode, addend: DataNode) -> DataNode:
    return images + (images < types.Constant(128, dtype=types.UINT8)) * addend


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
