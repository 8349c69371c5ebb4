"""A 64-bit perceptual hash: the signs of an image's lowest frequencies, equal or nearly so for copies of one picture.

After Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010): a 32 x 32 grey thumbnail, its
discrete cosine transform, and for each of the 64 lowest frequencies without the mean whether it is above their median.
"""

from __future__ import annotations

import numpy as np

GRID = 32
"""Pixels a side that the hash looks at."""
_LOW = 8
_PLAIN = 2.0  # standard deviation in grey levels, below which an image shows nothing that could be compared


def _cosines() -> np.ndarray:
    frequency, place = np.arange(_LOW + 1)[:, None], np.arange(GRID)[None, :]
    return np.cos(np.pi * (2 * place + 1) * frequency / (2 * GRID)).astype(np.float32)


_COSINES = _cosines()  # (9, 32)
_BITS = (1 << np.arange(64, dtype=np.uint64)).astype(np.uint64)


def fingerprints(grids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of grey images (N, 32, 32) uint8, 0 for a plain surface, and thumbnails of them.

    Returns:
        (N,) uint64 and (N, 8, 8) uint8.
    """
    small = grids.astype(np.float32)
    thumbnails = small.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).round().astype(np.uint8)
    frequencies = (_COSINES @ small @ _COSINES.T)[:, 1:, 1:].reshape(-1, _LOW * _LOW)
    above = frequencies > np.median(frequencies, axis=1, keepdims=True)
    hashes = np.where(above, _BITS, np.uint64(0)).sum(axis=1, dtype=np.uint64)
    return np.where(small.std(axis=(1, 2)) < _PLAIN, np.uint64(0), hashes), thumbnails
