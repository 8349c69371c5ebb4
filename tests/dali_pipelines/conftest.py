"""Images for the data path's tests: two photographs that scikit-learn brings along, cut into a small image folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dali_pipelines.manifest import Manifest
from dali_pipelines.selection import Selection, select
from dali_pipelines.sources import Samples, image_folder
from dali_pipelines.storage import Cache, read_bytes
from dali_pipelines.validation import validate
from dali_pipelines.validation.scan import location


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    """Two RGB photographs of 640 x 427 pixels."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture(scope="session")
def folder(tmp_path_factory, photos) -> Path:
    """25 images in three classes: JPEG, PNG, grey, and one GIF, which goes through Pillow."""
    root = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    for number in range(25):
        left, top, width, height = chance.integers([0, 0, 60, 60], [300, 200, 340, 220])
        image = photos[number % 2].crop((left, top, left + width, top + height))
        kind = {3: "gif", 7: "png", 11: "webp"}.get(number, "jpg")
        target = root / ("big_cat", "dog", "zebra")[number % 3] / f"{number:02}.{kind}"
        target.parent.mkdir(exist_ok=True)
        (image.convert("L") if number == 5 else image).save(target)
    return root


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Cache:
    """A local cache of its own."""
    return Cache.open(str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def manifest(folder, cache) -> Manifest:
    samples = select(image_folder.read(folder, cache=cache), Selection())
    return validate(samples, num_threads=2)[0]


@pytest.fixture(scope="session")
def test_data() -> Path:
    if "ATTUNE_TEST_DATA" not in os.environ:
        pytest.skip("ATTUNE_TEST_DATA names no folder of test data")
    return Path(os.environ["ATTUNE_TEST_DATA"])


@pytest.fixture(scope="session")
def contents(cache) -> Callable[[Samples], list[tuple[bytes, list[str], str | None, str | None]]]:
    """Of samples, in their order: the image's bytes, its captions, and the words for its class and its domain."""

    def word(numbers: Sequence[int] | None, names: Sequence[str], row: int) -> str | None:
        return None if numbers is None or numbers[row] < 0 else names[numbers[row]]

    def listed(samples: Samples) -> list[tuple[bytes, list[str], str | None, str | None]]:
        return [
            (
                read_bytes(location(samples, row), cache),
                [] if samples.captions is None else list(samples.captions[row]),
                word(samples.labels, samples.class_names, row),
                word(samples.domains, samples.domain_names, row),
            )
            for row in range(len(samples))
        ]

    return listed
