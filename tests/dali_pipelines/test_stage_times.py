import shutil
import time

import numpy as np
import pytest
from PIL import Image

from dali_pipelines.manifest import Manifest
from dali_pipelines.sampler import Sampler
from dali_pipelines.stage_times import STAGES, StageTimes, measure
from dali_pipelines.transforms import Augment, Preprocess, RandAugment

PREPROCESS = Preprocess(image_size=32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty JPEG files of 640 x 480 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(40):
        small = Image.fromarray(generator.integers(0, 255, (48, 64, 3), np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    return Manifest.from_columns(
        folder, paths=[f"{number}.jpg" for number in range(40)], sizes=[(640, 480)] * 40, labels=[0] * 40
    )


def test_every_stage_is_timed_and_large_images_cost_most_to_decode(photos):
    begin = time.perf_counter()
    times = measure(photos, preprocess=PREPROCESS, augment=Augment(rand_augment=RandAugment()), num_threads=1)
    assert time.perf_counter() - begin < 60
    assert tuple(times.seconds) == STAGES
    assert times.slowest == "decoding"
    assert times.num_images == 40
    assert times.median_size == (640, 480)
    assert times.median_bytes > 1000
    rates = list(times.cumulative_images_per_s().values())
    assert rates == sorted(rates, reverse=True)
    assert times.images_per_s == pytest.approx(rates[-1])


def test_measuring_leaves_a_runs_order_and_the_manifest_alone(photos):
    before = photos.hash, Sampler(40, seed=3).rows(0, global_size=16).tolist()
    measure(photos, preprocess=PREPROCESS, augment=Augment(), num_threads=1, num_images=4)
    assert (photos.hash, Sampler(40, seed=3).rows(0, global_size=16).tolist()) == before


def test_a_file_that_has_gone_bad_is_passed_over(photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    shutil.copy(photos.files([4])[0], tmp_path / "good.jpg")
    damaged = Manifest.from_columns(tmp_path, paths=["bad.jpg", "good.jpg"], sizes=[(640, 480)] * 2)
    assert measure(damaged, preprocess=PREPROCESS, augment=Augment(), num_threads=1).num_images == 2


def test_the_slowest_stage_is_the_one_that_takes_longest():
    seconds = {"reading": 0.1, "decoding": 0.2, "resizing": 0.7, "augmenting": 0.0}
    times = StageTimes(seconds=seconds, num_images=1, num_threads=1, median_bytes=1, median_size=(1, 1), loader_bytes=0)
    assert times.slowest == "resizing"
    assert times.images_per_s == pytest.approx(1.0)
    assert times.cumulative_images_per_s()["decoding"] == pytest.approx(1 / 0.3)
