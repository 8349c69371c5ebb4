"""The DALI graphs: from encoded bytes and given parameters to normalised pixels, on the CPU or the GPU.

Both read, decode, flip and normalise by the same operators. What lies between, the resize and the augmentations, is a
chain of operators on a GPU (`graph_operations`) and one function of Pillow's operations on the CPU
(`pillow_operations`). Nothing draws anything: crops, flips and augmentations arrive as inputs, so that an image's
pixels depend on its position in the stream only, not on its neighbours in a batch. `build` makes a pipeline that calls
`feed` for each batch; `feed` returns the inputs in the order of `training_inputs` or `evaluation_inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from dali_pipelines import graph_operations, pillow_operations
from dali_pipelines.rand_augment import fill_color
from dali_pipelines.transforms import Augment, Preprocess

Graph = Callable[[Mapping[str, DataNode]], DataNode]

_INTERPOLATION = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}


def training_inputs(augment: Augment, *, any_in_memory: bool) -> list[str]:
    """Names of the training graph's inputs, in order.

    `path` is the file's name as bytes; where any image comes through Pillow, `in_memory` (bool) says which ones do and
    `encoded` holds their PPM bytes. `crop_start` is (y, x), `crop_shape` (height, width), `flip` 0 or 1, `jitter`
    the four colour factors, and `kind_I, amount_I, matrix_I` the I-th RandAugment operation. `variant` is 3-Augment's
    and `variant_sigma` its blur, `grey` 0 or 1, `blur_sigma` in pixels or 0. The simple crop has `region_start`,
    `region_end` and `border_start` (y, x) in place of the other's.
    """
    names = ["path", "in_memory", "encoded"] if any_in_memory else ["path"]
    return [*names, *_crop_inputs(augment), "flip", *_augmentation_inputs(augment)]


def _crop_inputs(augment: Augment) -> list[str]:
    return ["region_start", "region_end", "border_start"] if augment.crop == "simple" else ["crop_start", "crop_shape"]


def _augmentation_inputs(augment: Augment) -> list[str]:
    names = [] if augment.color_jitter is None else ["jitter"]
    for number in range(augment.rand_augment[2] if augment.rand_augment else 0):
        names += [f"{field}_{number}" for field in ("kind", "amount", "matrix")]
    names += ["variant", "variant_sigma"] if augment.three_augment else []
    names += ["grey"] if augment.grayscale else []
    return names if augment.blur is None else [*names, "blur_sigma"]


def evaluation_inputs(*, from_files: bool, any_in_memory: bool) -> list[str]:
    """Names of the evaluation graph's inputs, in order; `region_start` and `region_end` are (y, x) in pixels."""
    if not from_files:
        return ["encoded", "region_start", "region_end"]
    names = ["path", "in_memory", "encoded"] if any_in_memory else ["path"]
    return [*names, "region_start", "region_end"]


def training(preprocess: Preprocess, augment: Augment, *, device: int | None, hardware_load: float) -> Graph:
    """The graph of training images: (3, H, W) float32, normalised."""
    if device is None:
        return _training_on_cpu(preprocess, augment)

    def graph(inputs: Mapping[str, DataNode]) -> DataNode:
        images = _decoded(inputs, preprocess, augment, hardware_load=hardware_load)
        if augment.crop == "simple":
            images = _resize(images, preprocess, roi_start=inputs["region_start"], roi_end=inputs["region_end"])
            images = graph_operations.bordered_crop(images, inputs["border_start"], side=preprocess.image_size)
        else:
            images = _resize(images, preprocess)
        images = graph_operations.augmented(images, inputs, augment, fill=fill_color(preprocess), on_gpu=True)
        return _normalise(images, preprocess, flip=inputs["flip"])

    return graph


def _training_on_cpu(preprocess: Preprocess, augment: Augment) -> Graph:
    names = [*_crop_inputs(augment), *_augmentation_inputs(augment)]
    one = pillow_operations.training(preprocess, augment)

    def graph(inputs: Mapping[str, DataNode]) -> DataNode:
        images = _decoded(inputs, preprocess, augment, hardware_load=None)
        images = _transformed(images, one, {name: inputs[name] for name in names})
        return _normalise(images, preprocess, flip=inputs["flip"])

    return graph


def decoding(preprocess: Preprocess, augment: Augment, *, device: int | None, hardware_load: float) -> Graph:
    """The training graph up to the decoder, for timing: what comes out is the size of each image, (3,) float32."""

    def graph(inputs: Mapping[str, DataNode]) -> DataNode:
        images = _decoded(inputs, preprocess, augment, hardware_load=None if device is None else hardware_load)
        unused = fn.cast(inputs["flip"], dtype=types.FLOAT) * 0.0  # DALI warns of inputs that lead nowhere
        sizes = fn.cast(images.shape(), dtype=types.FLOAT) + unused
        return sizes if device is None else sizes.gpu()

    return graph


def _decoded(
    inputs: Mapping[str, DataNode], preprocess: Preprocess, augment: Augment, *, hardware_load: float | None
) -> DataNode:
    """What the crop needs of an image: on a GPU, where `hardware_load` is given, the crop itself."""
    options = _decoder_options(preprocess, hardware_load)
    if augment.crop == "simple":
        return fn.decoders.image(_encoded(inputs), **options)
    if hardware_load is not None:
        crop = {"start": inputs["crop_start"], "shape": inputs["crop_shape"], "axes": [0, 1]}
        return fn.decoders.image_slice(_encoded(inputs), **crop, **options)
    # Whole rows: cutting columns too makes libjpeg-turbo slower, by more than the columns cost.
    rows = {"start": inputs["crop_start"][0:1], "shape": inputs["crop_shape"][0:1], "axes": [0]}
    return fn.decoders.image_slice(_encoded(inputs), **rows, **options)


def evaluation(preprocess: Preprocess, *, device: int | None, hardware_load: float) -> Graph:
    """The graph of evaluation images: CLIP's reference preprocessing, (3, H, W) float32."""
    one = pillow_operations.evaluation(preprocess)

    def graph(inputs: Mapping[str, DataNode]) -> DataNode:
        region = {name: inputs[name] for name in ("region_start", "region_end")}
        if device is None:
            images = fn.decoders.image(_encoded(inputs), **_decoder_options(preprocess))
            images = _transformed(images, one, region)
        else:
            images = fn.decoders.image(_encoded(inputs), **_decoder_options(preprocess, hardware_load))
            images = resize_as_pillow(images, preprocess, region["region_start"], region["region_end"])
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


def _decoder_options(preprocess: Preprocess, hardware_load: float | None = None) -> dict[str, Any]:
    """For a GPU where the share of the hardware decoder is given, else for the CPU."""
    options: dict[str, Any] = {
        "device": "cpu" if hardware_load is None else "mixed",
        "output_type": types.RGB,
        "adjust_orientation": preprocess.exif == "apply",
        "jpeg_fancy_upsampling": True,
    }
    return options if hardware_load is None else options | {"hw_decoder_load": hardware_load}


def _transformed(images: DataNode, one: pillow_operations.OneImage, inputs: Mapping[str, DataNode]) -> DataNode:
    """Run a function of one image and its inputs on as many threads as the pipeline has."""
    transform = pillow_operations.Transform(one, list(inputs), num_threads=Pipeline.current().num_threads)
    return fn.python_function(images, *inputs.values(), function=transform, batch_processing=True, output_layouts="HWC")


def _resize(images: DataNode, preprocess: Preprocess, **region: DataNode) -> DataNode:
    side = preprocess.image_size
    interpolation = _INTERPOLATION[preprocess.interpolation]
    return fn.resize(images, size=[side, side], interp_type=interpolation, antialias=True, **region)


def resize_as_pillow(images: DataNode, preprocess: Preprocess, start: DataNode, end: DataNode) -> DataNode:
    """Rows first, rounded and clipped to 8 bits, then columns: one resize of both clips at the end only."""
    side = preprocess.image_size
    options = {"interp_type": _INTERPOLATION[preprocess.interpolation], "antialias": True, "mode": "stretch"}
    height = fn.cast(images.shape()[0], dtype=types.FLOAT)
    top, left = 0.0 * height, 0.0 * start[1]
    narrow = fn.resize(
        images, resize_x=side, roi_start=fn.stack(top, start[1]), roi_end=fn.stack(height, end[1]), **options
    )
    width = left + float(side)
    return fn.resize(
        narrow, resize_y=side, roi_start=fn.stack(start[0], left), roi_end=fn.stack(end[0], width), **options
    )


def _normalise(images: DataNode, preprocess: Preprocess, flip: DataNode | int = 0) -> DataNode:
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        mirror=flip,
        mean=[255 * mean for mean in preprocess.mean],
        std=[255 * std for std in preprocess.std],
    )
