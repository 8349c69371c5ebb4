"""How far this project's pixels lie from those of the transforms that define them, over real images.

    python benchmarks/pixel_parity.py FOLDER [--images 64] [--output FILE.md]

Four tables: the evaluation transform against open_clip's over image sizes from 1 pixel wide to very large; RandAugment
`rand-m9-mstd0.5-inc1` against timm, operation by operation, at the same drawn parameters; 3-Augment, greying, blur and
colour jitter against Pillow and torchvision; and how often RandAugment draws each operation, beside timm. The CPU's
operations and the GPU's are both measured, the latter run on the CPU. Figures are steps of 0..255, before
normalisation, with bicubic interpolation. Prints Markdown.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import torch
from nvidia.dali import fn, pipeline_def
from nvidia.dali.data_node import DataNode
from PIL import Image, ImageFilter, ImageOps
from timm.data import auto_augment
from torchvision.transforms import functional as reference

from dali_pipelines import draws, graph_operations, graphs, pillow_operations
from dali_pipelines.rand_augment import DRAWS_PER_OP, OPERATIONS, DrawnOps, Kind, apply_ops, draw_ops, fill_color
from dali_pipelines.transforms import (
    Augment,
    ColorJitter,
    GaussianBlur,
    Preprocess,
    RandAugment,
    Variant,
    resize_regions,
)

SIDE = 224
PREPROCESS = Preprocess(SIDE)
MAGNITUDE = 9.0
SIZES = ((1, 1), (1, 7), (9, 1), (2, 3), (31, 17), (224, 224), (225, 223), (640, 427), (427, 640), (1, 500), (500, 1))
SIZES += ((3000, 100), (100, 3000), (5000, 40), (20000, 10), (3, 30000), (6000, 4000), (8000, 300))
"""Widths and heights."""
NUM_DRAWS = 200_000

Images = Sequence[np.ndarray]
Lines = Iterator[tuple[str, ...]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="photos, in any folders below")
    parser.add_argument("--images", type=int, default=64, help="how many to take (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="write the tables here too")
    options = parser.parse_args()
    photos = load(options.folder, options.images)
    squares = [np.array(reference.resize(reference.center_crop(photo, min(photo.size)), [SIDE])) for photo in photos]
    tables = {
        "Evaluation": (("size", "CPU: largest", "mean", "GPU: largest", "mean"), evaluation(photos[0])),
        "RandAugment": (("operation", *_SIX), rand_augment(squares)),
        "Other operations": (("operation", "beside", *_SIX), appearance(squares)),
        "Drawn operations": (("operation", "timm", "here"), drawn_shares()),
    }
    text = "\n\n".join(f"{title}\n\n{_markdown(header, lines)}" for title, (header, lines) in tables.items())
    print(text)
    if options.output is not None:
        options.output.write_text(f"{text}\n", encoding="utf-8")


_SIX = ("CPU: mean", "99.9 %", "largest", "GPU: mean", "99.9 %", "largest")


def load(folder: Path, count: int) -> list[Image.Image]:
    """The first photos of a folder that are at least 224 pixels high and wide, evenly over its files."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    step = max(1, len(files) // (2 * count))
    photos = [Image.open(file).convert("RGB") for file in files[::step]]
    return [photo for photo in photos if min(photo.size) >= SIDE][:count]


def evaluation(photo: Image.Image) -> Lines:
    """The evaluation transform on one picture stretched to each size."""
    transform = open_clip.image_transform(SIDE, is_train=False)
    for size in SIZES:
        image = photo.resize(size, Image.Resampling.BOX)
        tensor = transform(image) * torch.tensor(PREPROCESS.std).view(3, 1, 1)
        expected = ((tensor + torch.tensor(PREPROCESS.mean).view(3, 1, 1)) * 255).round().numpy().transpose(1, 2, 0)
        start, end = resize_regions(np.array([size]), PREPROCESS)
        pixels = np.array(image)
        on_cpu = pillow_operations.region(pixels, {"region_start": start[0], "region_end": end[0]}, PREPROCESS)
        (on_gpu,) = _through_nodes([pixels], {"start": start, "end": end}, _resize_nodes)
        yield (f"{size[0]}x{size[1]}", *_largest_and_mean(on_cpu, expected), *_largest_and_mean(on_gpu, expected))


def _resize_nodes(images: DataNode, inputs: Mapping[str, DataNode]) -> DataNode:
    return graphs.resize_as_pillow(images, PREPROCESS, inputs["start"], inputs["end"])


def rand_augment(squares: Images) -> Lines:
    """Each operation at magnitude 9, forwards and backwards by turns."""
    signs = np.where(np.arange(len(squares)) % 2, -1.0, 1.0)
    level = np.full(len(squares), MAGNITUDE / 10)
    for number, operation in enumerate(OPERATIONS):
        ops = apply_ops(np.full(len(squares), number), level, signs, increasing=True, image_size=SIDE)
        theirs = [_timm(operation.name, sign, square) for sign, square in zip(signs, squares, strict=True)]
        on_cpu = [_on_cpu(square, ops, place) for place, square in enumerate(squares)]
        on_gpu = _through_nodes(squares, vars(ops), _rand_augment_nodes)
        yield (operation.name, *_six(on_cpu, on_gpu, theirs))


def appearance(squares: Images) -> Lines:
    """3-Augment's variants, blur beside torchvision's, and the jitter's operations one by one."""
    sigmas = np.linspace(*draws.THREE_AUGMENT_SIGMA, len(squares)).astype(np.float32)
    for variant, operation in _VARIANTS.items():
        inputs = {"variant": np.full(len(squares), variant, np.int32), "variant_sigma": sigmas}
        augment, theirs = Augment(three_augment=True), _each(operation, squares, sigmas)
        yield _compared(f"3-Augment: {variant.name.lower()}", "Pillow", squares, augment, inputs, theirs)
    theirs = _each(_torchvision_blur, squares, sigmas)
    yield _compared("blur", "torchvision", squares, Augment(blur=GaussianBlur()), {"blur_sigma": sigmas}, theirs)
    for place, (name, low, high) in enumerate(_JITTER):
        augment = Augment(color_jitter=ColorJitter(*np.eye(4)[place] * 0.5))
        factors = np.tile(np.array(draws.NEUTRAL_JITTER, np.float32), (len(squares), 1))
        factors[:, place] = np.linspace(low, high, len(squares))
        theirs = _each(getattr(reference, f"adjust_{name}"), squares, factors[:, place])
        yield _compared(f"jitter: {name}", "torchvision", squares, augment, {"jitter": factors}, theirs)


_VARIANTS: dict[Variant, Callable[[Image.Image, float], Image.Image]] = {
    Variant.GREY: lambda image, _: reference.rgb_to_grayscale(image, 3),
    Variant.SOLARIZED: lambda image, _: ImageOps.solarize(image),
    Variant.BLURRED: lambda image, sigma: image.filter(ImageFilter.GaussianBlur(sigma)),
}
_JITTER = (("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4), ("saturation", 0.6, 1.4), ("hue", -0.1, 0.1))


def drawn_shares() -> Lines:
    """How often an operation comes in one place, and how strong the warps are: timm's own drawing beside ours."""
    transform = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {"img_mean": (0, 0, 0)})
    theirs: Counter[str] = Counter()
    generator = np.random.default_rng(0)
    with mock.patch.object(random, "random", generator.random):
        for operation in generator.choice(np.array(transform.ops, object), NUM_DRAWS):
            theirs[operation.name if random.random() <= operation.prob else "none"] += 1
    uniforms = generator.random((NUM_DRAWS, DRAWS_PER_OP))
    numbers = np.floor(uniforms[:, 0] * len(OPERATIONS)).astype(int)
    (ops,) = draw_ops(uniforms, RandAugment(num_ops=1), image_size=SIDE)
    names = [operation.name for operation in OPERATIONS]
    ours = Counter(names[number] for number, kind in zip(numbers, ops.kind, strict=True) if kind != Kind.NONE)
    ours["none"] = NUM_DRAWS - ours.total()
    for name in ["none", *names]:
        yield name, f"{theirs[_timm_name(name)] / NUM_DRAWS:.4f}", f"{ours[name] / NUM_DRAWS:.4f}"


def _compared(
    name: str,
    beside: str,
    squares: Images,
    augment: Augment,
    inputs: Mapping[str, np.ndarray],
    theirs: Images,
) -> tuple[str, ...]:
    on_cpu = [
        pillow_operations.augmented(square, {key: values[place] for key, values in inputs.items()}, augment, PREPROCESS)
        for place, square in enumerate(squares)
    ]
    on_gpu = _through_nodes(squares, inputs, lambda images, nodes: _augmented_nodes(images, nodes, augment))
    return (name, beside, *_six(on_cpu, on_gpu, theirs))


def _each(operation: Callable[[Image.Image, float], Image.Image], squares: Images, values: np.ndarray) -> Images:
    pairs = zip(squares, values.tolist(), strict=True)
    return [np.array(operation(Image.fromarray(square), value)) for square, value in pairs]


def _torchvision_blur(image: Image.Image, sigma: float) -> Image.Image:
    return reference.gaussian_blur(image, [23, 23], [sigma, sigma])


def _timm(name: str, sign: float, square: np.ndarray) -> np.ndarray:
    name = _timm_name(name)
    level_to_arguments = auto_augment.LEVEL_TO_ARG[name]
    with mock.patch.object(random, "random", return_value=0.9 if sign < 0 else 0.1):  # timm negates above 0.5
        arguments = () if level_to_arguments is None else level_to_arguments(MAGNITUDE, {})
    operation = auto_augment.NAME_TO_OP[name]
    fill = fill_color(PREPROCESS)
    return np.array(operation(Image.fromarray(square), *arguments, fillcolor=fill, resample=Image.Resampling.BICUBIC))


def _timm_name(name: str) -> str:
    if name.startswith("Translate"):
        return f"{name}Rel"
    increasing = name in ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
    return f"{name}Increasing" if increasing else name


def _on_cpu(square: np.ndarray, ops: DrawnOps, place: int) -> np.ndarray:
    kind, amount, matrix = Kind(int(ops.kind[place])), ops.amount[place].item(), ops.matrix[place]
    fill = fill_color(PREPROCESS)
    return pillow_operations.rand_augment_op(
        square, kind, amount, matrix, fill=fill, resampling=Image.Resampling.BICUBIC
    )


def _rand_augment_nodes(images: DataNode, inputs: Mapping[str, DataNode]) -> DataNode:
    drawn = [inputs[name] for name in ("kind", "amount", "matrix")]
    return graph_operations.rand_augment_op(images, *drawn, fill=fill_color(PREPROCESS), on_gpu=False)


def _augmented_nodes(images: DataNode, inputs: Mapping[str, DataNode], augment: Augment) -> DataNode:
    return graph_operations.augmented(images, inputs, augment, fill=fill_color(PREPROCESS), on_gpu=False)


def _through_nodes(
    images: Images,
    inputs: Mapping[str, np.ndarray],
    nodes: Callable[[DataNode, Mapping[str, DataNode]], DataNode],
) -> list[np.ndarray]:
    """What a GPU's operations make of the images, here on the CPU."""

    @pipeline_def(batch_size=len(images), num_threads=1, device_id=None, enable_conditionals=True)
    def pipeline() -> DataNode:
        columns = fn.external_source(lambda: [images, *inputs.values()], num_outputs=len(inputs) + 1, batch=True)
        return nodes(
            fn.reshape(columns[0], layout="HWC"), {name: columns[place + 1] for place, name in enumerate(inputs)}
        )

    built = pipeline()
    built.build()
    (output,) = built.run()
    return [np.array(output.at(number)) for number in range(len(images))]


def _six(on_cpu: Images, on_gpu: Images, theirs: Images) -> Iterator[str]:
    for ours in (on_cpu, on_gpu):
        steps = np.abs(np.stack(ours).astype(int) - np.stack(theirs).astype(int))
        yield from (f"{steps.mean():.3f}", f"{np.percentile(steps, 99.9):.0f}", f"{steps.max()}")


def _largest_and_mean(ours: np.ndarray, theirs: np.ndarray) -> tuple[str, str]:
    steps = np.abs(ours.astype(int) - theirs.astype(int))
    return f"{steps.max()}", f"{steps.mean():.4f}"


def _markdown(header: Sequence[str], lines: Lines) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *lines])


if __name__ == "__main__":
    main()
