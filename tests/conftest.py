"""Fixtures for all rooms: real data where it lies, and scikit-learn's digits as an image folder where it does not."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

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


@pytest.fixture
def damaged_photos(tmp_path):
    """Photos as `train/CLASS` and `validation/CLASS`, of which several are damaged, each in another way, and several
    are copies. The first ten of each class of `train` are good, alike to nobody, and called 00.jpg to 09.jpg."""
    root = tmp_path / "photos"
    chance = np.random.default_rng(0)
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for part, count in (("train", 12), ("validation", 4)):
        for number in range(2 * count):
            left, top = chance.integers([0, 0], [500, 300])
            file = root / part / ("flower", "temple")[number % 2] / f"{number // 2:02d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            photos[number % 2].crop((left, top, left + 120, top + 100)).save(file, quality=90)
    train, held_out = root / "train", root / "validation"
    content = (train / "flower/10.jpg").read_bytes()
    (train / "flower/10.jpg").write_bytes(content[: len(content) // 2])
    content = (train / "flower/11.jpg").read_bytes()
    middle, length = len(content) // 2, len(content) // 8
    (train / "flower/11.jpg").write_bytes(content[:middle] + bytes(length) + content[middle + length :])
    (train / "temple/10.jpg").write_bytes(b"")
    (train / "temple/11.jpg").write_text("no image at all")
    (train / "temple/gone.jpg").symlink_to("nowhere.jpg")
    photos[0].crop((0, 0, 60, 60)).save(train / "temple/png.jpg", "PNG")
    photos[1].crop((0, 0, 60, 60)).save(train / "temple/crc.png")
    content = bytearray((train / "temple/crc.png").read_bytes())
    content[content.index(b"IDAT") + 60] ^= 0xFF
    (train / "temple/crc.png").write_bytes(content)
    shutil.copy(train / "flower/00.jpg", held_out / "flower/same_file.jpg")
    content = (train / "flower/01.jpg").read_bytes()
    (held_out / "flower/comment.jpg").write_bytes(content[:2] + b"\xff\xfe\x00\x0bcopied at" + content[2:])
    with Image.open(train / "temple/00.jpg") as image:
        image.resize((90, 75)).save(held_out / "temple/smaller.jpg", quality=70)
    shutil.copy(train / "flower/02.jpg", train / "temple/mistaken.jpg")
    return root
