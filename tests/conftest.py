"""Fixtures for all rooms: real data where it lies, and scikit-learn's digits as an image folder where it does not."""

import os
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # several test processes share the cores
    _share = len(os.sched_getaffinity(0)) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _share)))

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="session")
def real_data():
    """The folder of real images and captions named by ATTUNE_TEST_DATA."""
    folder = os.environ.get("ATTUNE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ATTUNE_TEST_DATA names no folder with real images")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """320 scans of handwritten digits as JPEG: `train/CLASS` (24 a class) and `heldout/CLASS` (8 a class)."""
    root = tmp_path_factory.mktemp("digits")
    scans = load_digits()
    for label, name in enumerate(DIGIT_NAMES):
        for number, scan in enumerate(scans.images[scans.target == label][:32]):
            folder = root / ("train" if number < 24 else "heldout") / name
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((scan * (255 / 16)).astype("uint8")).resize((32, 32), Image.Resampling.BICUBIC)
            image.convert("RGB").save(folder / f"{number:02d}.jpg", quality=95)
    return root
