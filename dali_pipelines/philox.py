"""Random bits that depend on their name and place alone.

They come raw from Philox, a counter-based generator whose stream NumPy keeps stable across versions (Salmon et al.
2011, https://doi.org/10.1145/2063384.2063405). Imports no torch.
"""

from __future__ import annotations

import zlib

import numpy as np

WORDS_PER_BLOCK = 4
"""Philox 4x64 makes four words for each value of its counter."""


def generator(seed: int, number: int, stream: str, *, counter: int = 0) -> np.random.Philox:
    """The words that `seed`, a number such as a pass's and the name of a stream stand for, from a counter on."""
    return np.random.Philox(key=key(seed, number, stream), counter=counter)


def key(seed: int, number: int, stream: str) -> np.ndarray:
    """Philox' key of a stream: (2,) uint64."""
    sequence = np.random.SeedSequence(seed, spawn_key=(number, zlib.crc32(stream.encode())))
    return sequence.generate_state(2, np.uint64)


def uniforms(words: np.ndarray) -> np.ndarray:
    """Words as float64 in [0, 1)."""
    return (words >> np.uint64(11)) * 2.0**-53
