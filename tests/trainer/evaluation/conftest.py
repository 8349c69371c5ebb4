"""A small random model and images of its exact input size, so that no resize blurs a comparison."""

import numpy as np
import pytest
import torch
from PIL import Image

from dali_pipelines.manifest import Manifest
from trainer.models import load_clip
from trainer.spec import ModelSpec

CLASS_NAMES = ("red thing", "green thing", "blue thing")
NUM_IMAGES = 11


@pytest.fixture
def clip():
    torch.manual_seed(0)
    model = load_clip(ModelSpec(name="attune-tiny-32"))
    model.module.train()
    return model


@pytest.fixture(scope="session")
def images_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for row in range(NUM_IMAGES):
        pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{row:02d}.png")
    return folder


@pytest.fixture
def make_manifest(images_folder):
    def make(**columns):
        paths = [f"{row:02d}.png" for row in range(NUM_IMAGES)]
        return Manifest.from_columns(images_folder, paths=paths, sizes=[(32, 32)] * NUM_IMAGES, **columns)

    return make


@pytest.fixture
def labels():
    return [0, 1, 2, 0, 1, 2, 0, 1, 0, 0, 0]


@pytest.fixture
def captions():
    return [[f"picture {row}, side {side}" for side in range(1 + row % 3)] for row in range(NUM_IMAGES)]


@pytest.fixture
def slow_image_features(clip, images_folder):
    """One image at a time through Pillow and numpy."""

    def encode():
        clip.module.eval()
        features = []
        for row in range(NUM_IMAGES):
            pixels = np.asarray(Image.open(images_folder / f"{row:02d}.png"), np.float32) / 255
            pixels = (pixels - np.float32(clip.preprocess.mean)) / np.float32(clip.preprocess.std)
            with torch.no_grad():
                feature = clip.module.encode_image(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])[0]
            features.append(feature / feature.norm())
        clip.module.train()
        return torch.stack(features)

    return encode
