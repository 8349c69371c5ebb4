"""3-Augment, greying, blur and the simple crop against the transforms that define them, on both devices' operations.

The GPU's operations run here on the CPU. Differences are in steps of 0..255.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms
from torchvision.transforms import functional as reference

from dali_pipelines import draws, graph_operations, pillow_operations
from dali_pipelines.loader import TrainLoader
from dali_pipelines.rand_augment import fill_color
from dali_pipelines.sampler import Sampler
from dali_pipelines.transforms import SIMPLE_CROP_BORDER, Augment, ColorJitter, GaussianBlur, Preprocess, Variant

SIDE = 160
PREPROCESS = Preprocess(image_size=SIDE)


@pytest.fixture(scope="module")
def squares(photos) -> list[np.ndarray]:
    return [np.array(photo.resize((SIDE, SIDE))) for photo in photos]


def node_images(images: list[np.ndarray], augment: Augment, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What a GPU's operations make of the images."""

    @pipeline_def(batch_size=len(images), num_threads=1, device_id=None, enable_conditionals=True)
    def pipeline():
        columns = fn.external_source(source=lambda: [images, *inputs.values()], num_outputs=len(inputs) + 1, batch=True)
        square = fn.reshape(columns[0], layout="HWC")
        named = {name: columns[place + 1] for place, name in enumerate(inputs)}
        if augment.crop == "simple":
            square = graph_operations.bordered_crop(square, named["border_start"], side=SIDE)
        return graph_operations.augmented(square, named, augment, fill=fill_color(PREPROCESS), on_gpu=False)

    built = pipeline()
    built.build()
    (output,) = built.run()
    return [np.array(output.at(number)).astype(int) for number in range(len(images))]


def difference(ours: np.ndarray, theirs: Image.Image | np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int))


@pytest.mark.parametrize("variant", list(Variant))
def test_the_variants_of_3_augment_are_those_of_deit_iii(squares, variant):
    sigma = 1.3
    theirs = {
        Variant.GREY: transforms.Grayscale(3),
        Variant.SOLARIZED: ImageOps.solarize,
        Variant.BLURRED: lambda image: image.filter(ImageFilter.GaussianBlur(sigma)),
    }[variant]
    inputs = {"variant": np.full(2, variant, np.int32), "variant_sigma": np.full(2, sigma, np.float32)}
    nodes = node_images(squares, Augment(three_augment=True), inputs)
    for square, node in zip(squares, nodes, strict=True):
        expected = theirs(Image.fromarray(square))
        assert not np.array_equal(expected, square)
        assert difference(pillow_operations.three_augment(square, variant, sigma), expected).max() == 0
        on_gpu = difference(node, expected)
        assert on_gpu.mean() < (0.7 if variant == Variant.BLURRED else 0.01)
        assert on_gpu[4:-4, 4:-4].max() <= (10 if variant == Variant.BLURRED else 1)  # at the edges borders differ


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.3, 2.0])
def test_blur_is_torchvisions_but_for_pillows_boxes(squares, sigma):
    inputs = {"blur_sigma": np.full(2, sigma, np.float32)}
    nodes = node_images(squares, Augment(blur=GaussianBlur()), inputs)
    for square, node in zip(squares, nodes, strict=True):
        expected = np.asarray(reference.gaussian_blur(Image.fromarray(square), [23, 23], [sigma, sigma]))
        on_gpu, on_cpu = difference(node, expected), difference(pillow_operations.blur(square, sigma), expected)
        assert (on_gpu.mean(), on_gpu.max()) < (0.3, 2)
        assert on_cpu.mean() < 0.9


def test_only_the_chosen_images_change(squares):
    augment = Augment(
        grayscale=0.5, blur=GaussianBlur(), color_jitter=ColorJitter(0.8, 0.8, 0.8, 0.2), color_jitter_probability=0.5
    )
    neutral, strong = draws.NEUTRAL_JITTER, (1.5, 0.6, 1.4, 0.1)
    inputs = {
        "jitter": np.array([neutral, strong], np.float32),
        "grey": np.array([0, 1], np.int32),
        "blur_sigma": np.array([0, 2], np.float32),
    }
    nodes = node_images([squares[0], squares[0]], augment, inputs)
    assert difference(nodes[0], squares[0]).max() <= 1
    assert np.ptp(nodes[1], axis=2).max() == 0
    assert difference(nodes[1], squares[0]).mean() > 10


def test_a_simple_crop_cuts_the_bordered_image_as_torchvision_does(photos):
    photo = photos[0]
    resized = reference.resize(photo, [SIDE], transforms.InterpolationMode.BICUBIC)
    padded = np.asarray(reference.pad(resized, [SIMPLE_CROP_BORDER], padding_mode="reflect"))
    uniforms = np.array([(0, 0), (0.999, 0.999), (0.5, 0.3), (0.2, 0.999), (0.97, 0.0)])
    sizes = np.tile(photo.size, (len(uniforms), 1))
    drawn = draws.simple_crops(uniforms, sizes, image_size=SIDE)
    insides, expected = [], []
    for number, (y, x) in enumerate(np.floor(uniforms * [9, padded.shape[1] - SIDE + 1]).astype(int)):
        inputs = {name: values[number] for name, values in drawn.items()}
        insides.append(np.ascontiguousarray(pillow_operations.region(np.array(photo), inputs, PREPROCESS)))
        ours = pillow_operations.bordered_crop(insides[-1], inputs["border_start"].tolist())
        expected.append(ours)
        assert difference(ours, padded[y : y + SIDE, x : x + SIDE]).max() <= 2
    nodes = node_images(insides, Augment(crop="simple"), {"border_start": drawn["border_start"]})
    np.testing.assert_array_equal(nodes, expected)


def drawn(augment: Augment, num: int = 20000) -> dict[str, np.ndarray]:
    def uniforms(stream: str, count: int) -> np.ndarray:
        return np.random.default_rng([sum(stream.encode()), count]).random((num, count))

    return draws.training_parameters(augment, uniforms, np.tile([400, 300], (num, 1)), image_size=224)


def test_the_three_variants_come_equally_often_and_sigmas_are_uniform():
    parameters = drawn(Augment(three_augment=True))
    assert np.bincount(parameters["variant"]) / 20000 == pytest.approx([1 / 3] * 3, abs=0.02)
    sigmas = parameters["variant_sigma"]
    assert (sigmas.min(), sigmas.max(), sigmas.mean()) == pytest.approx((0.1, 2.0, 1.05), abs=0.02)


def test_chances_are_those_asked_for():
    parameters = drawn(
        Augment(
            grayscale=0.2,
            blur=GaussianBlur(0.3, (0.5, 1.5)),
            color_jitter=ColorJitter(0.8, 0.8, 0.8, 0.2),
            color_jitter_probability=0.4,
        )
    )
    assert parameters["grey"].mean() == pytest.approx(0.2, abs=0.02)
    sigmas = parameters["blur_sigma"]
    assert (sigmas > 0).mean() == pytest.approx(0.3, abs=0.02)
    assert (sigmas[sigmas > 0].min(), sigmas.max()) == pytest.approx((0.5, 1.5), abs=0.02)
    neutral = (parameters["jitter"] == np.array(draws.NEUTRAL_JITTER, np.float32)).all(axis=1)
    assert (~neutral).mean() == pytest.approx(0.4, abs=0.02)


def test_more_augmentation_leaves_the_other_draws_alone():
    plain = drawn(Augment(horizontal_flip=0.5, color_jitter=ColorJitter(0.4)), num=50)
    more = drawn(Augment(horizontal_flip=0.5, color_jitter=ColorJitter(0.4), three_augment=True, grayscale=0.2), num=50)
    for name, values in plain.items():
        np.testing.assert_array_equal(more[name], values)


def test_simple_crops_are_distributed_as_torchvisions_random_crop():
    torch.manual_seed(0)
    image = torch.zeros(3, 224 + 2 * SIMPLE_CROP_BORDER, 298 + 2 * SIMPLE_CROP_BORDER)
    theirs = np.array([transforms.RandomCrop.get_params(image, (224, 224))[:2] for _ in range(4000)])
    parameters = drawn(Augment(crop="simple"), num=4000)
    assert np.unique(parameters["border_start"][:, 0]).tolist() == list(range(9))
    corners = parameters["region_start"] * [224 / 300, 298 / 400] + parameters["border_start"]
    np.testing.assert_allclose(corners.mean(axis=0), theirs.mean(axis=0), atol=1.5)
    np.testing.assert_allclose(corners.std(axis=0), theirs.std(axis=0), atol=1)


@pytest.mark.parametrize("crop", ["simple", "resized"])
def test_a_training_loader_runs_it_all(manifest, crop):
    augment = Augment(
        crop=crop,
        three_augment=True,
        color_jitter=ColorJitter(0.3, 0.3, 0.3),
        color_jitter_probability=0.5,
        grayscale=1.0,
        blur=GaussianBlur(0.5),
    )
    loader = TrainLoader(
        manifest,
        preprocess=Preprocess(64, mean=(0, 0, 0), std=(1, 1, 1)),
        augment=augment,
        sampler=Sampler(len(manifest), seed=0),
        global_size=8,
        micro_size=8,
    )
    images = next(loader).images
    loader.close()
    assert images.shape == (8, 3, 64, 64)
    assert torch.equal(images[:, 0], images[:, 1])  # grey
    assert images.std(dim=(1, 2, 3)).min() > 0.02
