"""JPEG files that cost what photographs cost to read and decode, made by a formula.

Their amplitudes fall with 1 / frequency, as in natural images, and the colour channels go together for the most part:
at quality 90 a file of 500 x 375 pixels has about 110 KB, like one of ImageNet's.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

_WORDS = ("red", "old", "small", "quiet", "house", "boat", "dog", "river", "street", "table", "under", "near")


def write_photos(folder: Path, *, count: int, width: int = 500, height: int = 375, quality: int = 90) -> list[Path]:
    """Write `count` JPEG files, or keep those that are there already, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{width}x{height}-{number:05}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            photo(number, width=width, height=height).save(path, quality=quality)
    return paths


def photo(seed: int, *, width: int, height: int) -> Image.Image:
    """One picture."""
    generator = np.random.default_rng(seed)
    grey = _one_over_f(generator, width, height)
    colour = np.stack([_one_over_f(generator, width, height) for _ in range(3)], axis=-1)
    pixels = generator.uniform(90, 160, size=3) + 45 * grey[..., None] + 15 * colour
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_captions(path: Path, images: list[Path], *, seed: int = 0) -> Path:
    """A table with the absolute path of each image and a caption of some ten words."""
    generator = np.random.default_rng(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image", "caption"))
        table.writerows((str(image.resolve()), " ".join(generator.choice(_WORDS, size=10))) for image in images)
    return path


def _one_over_f(generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """(H, W) with mean 0 and variance 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal((height, width))) / frequency
    field = np.fft.irfft2(spectrum, s=(height, width))
    return field / field.std()
