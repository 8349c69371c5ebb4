"""scikit-learn's handwritten digits as a folder of JPEG files: `train/zero/0001.jpg`, ..., `heldout/nine/...`.

The 1,797 scans come with the package, so nothing is downloaded (https://archive.ics.uci.edu/dataset/80). They are
8 x 8 pixels in 17 shades of grey. Writers follow one another in the set, so every fifth image of a class is held
out: both parts have all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGE_SIZE = 32
_HELD_OUT_EVERY = 5
_WHITE = 16.0


def write_digits(folder: Path) -> dict[str, int]:
    """Write all digits below `folder`; returns how many images each part has."""
    digits = load_digits()
    counts = {"train": 0, "heldout": 0}
    for label, class_name in enumerate(CLASS_NAMES):
        for part in counts:
            (folder / part / class_name).mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(np.flatnonzero(digits.target == label), start=1):
            part = "heldout" if number % _HELD_OUT_EVERY == 0 else "train"
            path = folder / part / class_name / f"{number:04d}.jpg"
            _enlarged(digits.images[row]).save(path, quality=95)
            counts[part] += 1
    return counts


def held_out_examples(folder: Path, *, count: int) -> list[Path]:
    """`count` held-out images, one a class as far as that goes."""
    by_class = [sorted((folder / "heldout" / name).iterdir()) for name in CLASS_NAMES]
    return [by_class[i % len(by_class)][i // len(by_class)] for i in range(count)]


def _enlarged(image: np.ndarray) -> Image.Image:
    """An 8 x 8 scan with values from 0 to 16 as a grey RGB image of 32 x 32."""
    grey = Image.fromarray(np.uint8(np.rint(image * (255 / _WHITE))))
    return grey.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).convert("RGB")
