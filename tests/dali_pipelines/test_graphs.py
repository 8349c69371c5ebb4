"""The evaluation graph against open_clip's own transform, and the training graph against torchvision's operations.

Tolerances are in steps of 0..255. Pillow clips to 8 bits between the two directions of a resize, DALI only at the end:
over photographs the mean difference is 0.1 to 0.2 steps and the largest about 10, at single sharp edges; in drawings of
pure black and white the largest is 25, and in a dithered picture of one bit a pixel the mean is 1.5.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from nvidia.dali import fn, pipeline_def
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from dali_pipelines import graph_operations, graphs, pillow_operations
from dali_pipelines.loader import EvalLoader, TrainLoader
from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.sources.samples import Samples
from dali_pipelines.transforms import Augment, ColorJitter, Preprocess
from dali_pipelines.validation import validate

MEAN_STEPS, MAX_STEPS = 0.3, 32
DITHERED_MEAN_STEPS, DITHERED_MAX_STEPS = 2.0, 64


def steps(images: torch.Tensor, expected: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """Differences on the scale of 0..255."""
    return ((images - expected) * torch.tensor(preprocess.std).view(3, 1, 1) * 255).abs()


def assert_equals_open_clip(manifest: Manifest, preprocess: Preprocess) -> None:
    reference_transform = open_clip.image_transform(
        preprocess.image_size,
        is_train=False,
        mean=preprocess.mean,
        std=preprocess.std,
        resize_mode=preprocess.resize_mode,
        interpolation=preprocess.interpolation,
    )
    assert_equals(manifest, preprocess, reference_transform)


def assert_equals(manifest: Manifest, preprocess: Preprocess, transform) -> None:
    seen = 0
    for batch in EvalLoader(manifest, preprocess=preprocess, batch_size=8, num_threads=2):
        for row, image in zip(batch.rows, batch.images, strict=True):
            expected = transform(Image.open(manifest.files([row])[0]).convert("RGB"))
            difference = steps(image, expected, preprocess)
            dithered = manifest.paths[row] == "one_bit.png"
            assert difference.mean() < (DITHERED_MEAN_STEPS if dithered else MEAN_STEPS), manifest.paths[row]
            assert difference.max() < (DITHERED_MAX_STEPS if dithered else MAX_STEPS), manifest.paths[row]
            seen += 1
    assert seen == len(manifest)


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("image_size", [64, 224])
def test_evaluation_equals_open_clip(manifest, resize_mode, interpolation, image_size):
    preprocess = Preprocess(image_size=image_size, resize_mode=resize_mode, interpolation=interpolation)
    assert_equals_open_clip(manifest, preprocess)


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize(("image_size", "crop_pct"), [(64, 0.9), (224, 0.875), (224, 0.95)])
def test_evaluation_crops_as_timm_does(manifest, crop_mode, image_size, crop_pct):
    preprocess = Preprocess(
        image_size=image_size,
        crop_pct=crop_pct,
        mean=(0.5, 0.4, 0.3),
        std=(0.5, 0.6, 0.7),
        resize_mode="squash" if crop_mode == "squash" else "shortest",
    )
    transform = timm.data.create_transform(
        image_size,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        interpolation="bicubic",
        mean=preprocess.mean,
        std=preprocess.std,
    )
    assert_equals(manifest, preprocess, transform)


def test_evaluation_equals_open_clip_with_another_normalisation(manifest):
    assert_equals_open_clip(manifest.select([0, 1]), Preprocess(64, mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7)))


def test_evaluation_equals_open_clip_on_real_data(test_data):
    folders = ["pacs/photo/dog", "pacs/sketch/horse", "fashion_hires", "imagenet_sample", "emoji3d", "flickr8k/images"]
    found = [path for name in folders for path in sorted((test_data / name).rglob("*.*[gG]"))[:6]]
    assert len(found) == 36
    paths = [str(path.relative_to(test_data)) for path in found]
    assert_equals_open_clip(validate(Samples(test_data, paths))[0], Preprocess())


ODD = {
    "grey.jpg": ("L", {}),
    "cmyk.jpg": ("CMYK", {}),
    "progressive.jpg": ("RGB", {"progressive": True, "quality": 60}),
    "no_subsampling.jpg": ("RGB", {"subsampling": 0}),
    "rgb_not_ycc.jpg": ("RGB", {"keep_rgb": True}),
    "palette.png": ("P", {}),
    "palette_transparent.png": ("P", {"transparency": 3}),
    "one_bit.png": ("1", {}),
    "rgba.png": ("RGBA", {}),
    "grey_alpha.png": ("LA", {}),
    "transparent_colour.png": ("RGB", {"transparency": (10, 20, 30)}),
    "sixteen_bit.png": ("I;16", {}),
    "lossless.webp": ("RGB", {"lossless": True}),
    "alpha.webp": ("RGBA", {}),
    "plain.gif": ("P", {}),
    "plain.bmp": ("RGB", {}),
    "palette.bmp": ("P", {}),
    "plain.tif": ("RGB", {}),
    "deflated.tiff": ("RGB", {"compression": "tiff_adobe_deflate"}),
    "cmyk.tif": ("CMYK", {}),
    "sixteen_bit.tif": ("I;16", {}),
    "plain.ppm": ("RGB", {}),
    "plain.pgm": ("L", {}),
    "sixteen_bit.pgm": ("I;16", {}),
}


@pytest.fixture(scope="module")
def odd_images(tmp_path_factory, photos) -> Path:
    root = tmp_path_factory.mktemp("odd")
    small = photos[0].resize((200, 140))
    alpha = photos[1].convert("L").resize(small.size)
    for name, (mode, options) in ODD.items():
        image = small.convert("RGBA" if mode in ("RGBA", "LA") else "RGB")
        if mode in ("RGBA", "LA"):
            image.putalpha(alpha)
        if mode == "I;16":
            image = Image.fromarray(np.array(small.convert("L")).astype(np.uint16) * 257)
        elif image.mode != mode:
            image = image.convert(mode)
        image.save(root / name, **options)
    frames = [small.convert("RGB").rotate(angle) for angle in (0, 90)]
    for name in ("animated.gif", "animated.webp"):
        frames[0].save(root / name, save_all=True, append_images=frames[1:])
    (root / "maxval_100.ppm").write_bytes(b"P6 200 140 100\n" + (np.array(small) // 3).tobytes())
    return root


def test_odd_images_equal_open_clip(odd_images):
    paths = sorted(path.name for path in odd_images.iterdir())
    manifest, report = validate(Samples(odd_images, paths))
    assert len(manifest) == len(ODD) + 3
    assert not report.bad
    assert_equals_open_clip(manifest, Preprocess(image_size=96))


def test_pillows_own_odd_images_equal_open_clip(test_data):
    root = test_data / "odd_images"
    paths = sorted(path.name for path in root.iterdir() if path.suffix != ".csv")
    manifest, report = validate(Samples(root, paths), on_bad_sample="skip")
    assert [path for path, _ in report.bad] == ["broken.png", "truncated_jpeg.jpg"]
    assert_equals_open_clip(manifest, Preprocess())


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
def test_exif_orientation_is_ignored_or_applied(tmp_path, photos, orientation, extension):
    image = photos[0].resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{extension}", exif=exif)
    stored = Image.open(tmp_path / f"a.{extension}")
    # Pillow turns TIFF files upright by itself, so there the two settings agree.
    upright = stored.transpose(TRANSPOSE[orientation]) if orientation > 1 and extension != "tif" else stored
    for setting, expected in (("ignore", stored), ("apply", upright)):
        manifest, _ = validate(Samples(tmp_path, [f"a.{extension}"]), exif=setting)
        assert tuple(manifest.sizes[0]) == expected.size
        preprocess = Preprocess(image_size=48, exif=setting)
        (batch,) = EvalLoader(manifest, preprocess=preprocess, batch_size=1)
        difference = steps(batch.images[0], open_clip.image_transform(48, is_train=False)(expected), preprocess)
        assert difference.mean() < MEAN_STEPS
        crop = Augment(crop_scale=(1.0, 1.0), crop_ratio=(0.5, 2.0))
        loader = TrainLoader(
            manifest, preprocess=preprocess, augment=crop, sampler=Sampler(1, seed=0), global_size=1, micro_size=1
        )
        assert next(loader).images.shape == (1, 3, 48, 48)
        loader.close()


TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def encoded(image: Image.Image) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def through_training_graph(image: Image.Image, augment: Augment, preprocess: Preprocess, **inputs) -> torch.Tensor:
    names = graphs.training_inputs(augment, any_in_memory=False)

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, enable_conditionals=True)
    def pipeline():
        nodes = fn.external_source(
            source=lambda: [inputs[name][None] for name in names[1:]], num_outputs=len(names) - 1
        )
        data = fn.external_source(source=lambda: [encoded(image)], batch=True)
        graph = graphs.training(preprocess, augment, device=None, hardware_load=0.0)
        return graph({"encoded": data} | {name: nodes[place] for place, name in enumerate(names[1:])})

    built = pipeline()
    built.build()
    return torch.from_numpy(np.array(built.run()[0].at(0)))


PLAIN = {
    "crop_start": np.array([30, 50], np.int32),
    "crop_shape": np.array([200, 300], np.int32),
    "flip": np.array(0, np.int32),
}


def normalised(image: Image.Image, preprocess: Preprocess) -> torch.Tensor:
    return reference.normalize(reference.to_tensor(image), preprocess.mean, preprocess.std)


@pytest.mark.parametrize("flip", [0, 1])
def test_training_crops_resizes_and_flips_as_torchvision(photos, flip):
    preprocess = Preprocess()
    ours = through_training_graph(photos[0], Augment(), preprocess, **PLAIN | {"flip": np.array(flip, np.int32)})
    expected = reference.resized_crop(photos[0], 30, 50, 200, 300, [224, 224], InterpolationMode.BICUBIC)
    expected = reference.hflip(expected) if flip else expected
    difference = steps(ours, normalised(expected, preprocess), preprocess)
    assert difference.mean() < MEAN_STEPS
    assert difference.max() < MAX_STEPS


@pytest.mark.parametrize(
    "factors",
    [(1.3, 1, 1, 0), (0.6, 1, 1, 0), (1, 1.4, 1, 0), (1, 0.5, 1, 0), (1, 1, 1.4, 0), (1, 1, 0.5, 0)]
    + [(1, 1, 1, 0.1), (1, 1, 1, -0.3), (1, 1, 1, 0.5), (1.2, 0.8, 1.3, 0.1)],
)
def test_colour_jitter_equals_torchvisions_operations(photos, factors):
    preprocess, widths = Preprocess(), ColorJitter(0.4, 0.5, 0.5, 0.5)
    jitter = np.array(factors, np.float32)
    ours = through_training_graph(photos[1], Augment(color_jitter=widths), preprocess, **PLAIN, jitter=jitter)
    plain = through_training_graph(photos[1], Augment(), preprocess, **PLAIN)
    image = plain * torch.tensor(preprocess.std).view(3, 1, 1) + torch.tensor(preprocess.mean).view(3, 1, 1)
    resized = Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    expected = resized
    operations = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")
    for operation, factor, nothing in zip(operations, jitter.tolist(), (1, 1, 1, 0), strict=True):
        expected = expected if factor == nothing else getattr(reference, operation)(expected, factor)
    assert steps(ours, normalised(expected, preprocess), preprocess).max() < 0.01
    on_gpu = jittered_by_nodes(np.array(resized), jitter, widths)
    difference = np.abs(on_gpu.astype(int) - np.array(expected).astype(int))
    assert difference.mean() < 1.6  # DALI rounds after each operation, Pillow truncates, and its hue has 256 steps
    assert np.quantile(difference, 0.999) < 16


def jittered_by_nodes(pixels: np.ndarray, factors: np.ndarray, widths: ColorJitter) -> np.ndarray:
    """What a GPU's operations, which run here on the CPU, make of an image."""

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1, enable_conditionals=True)
    def pipeline():
        images, numbers = fn.external_source(source=lambda: [pixels[None], factors[None]], num_outputs=2)
        return graph_operations.color_jitter(fn.reshape(images, layout="HWC"), numbers, widths, on_gpu=False)

    built = pipeline()
    built.build()
    return np.array(built.run()[0].at(0))


def test_a_cpus_resize_is_pillows(photos):
    for size in [(224, 224), (97, 401), (700, 30), (427, 640)]:
        for interpolation, resampling in (
            ("bicubic", Image.Resampling.BICUBIC),
            ("bilinear", Image.Resampling.BILINEAR),
        ):
            ours = pillow_operations.resize(np.array(photos[0]), size, interpolation=interpolation)
            difference = np.abs(ours.astype(int) - np.array(photos[0].resize(size[::-1], resampling)).astype(int))
            assert difference.mean() < 0.1, (size, interpolation)
            assert (difference > 1).mean() < 1e-3, (size, interpolation)


def test_a_transform_gives_its_results_in_order_whatever_the_threads():
    images = [np.full((2, 2, 3), number, np.uint8) for number in range(50)]
    addends = [np.array(number) for number in range(50)]
    for num_threads in (1, 4):
        transform = pillow_operations.Transform(
            lambda pixels, inputs: pixels + inputs["addend"].astype(np.uint8), ["addend"], num_threads=num_threads
        )
        assert [result[0, 0, 0] for result in transform(images, addends)] == list(range(0, 100, 2))
