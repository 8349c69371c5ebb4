"""Which sample stands at each position of the training stream, and the chance that belongs to the position.

Everything is a pure function of (seed, epoch, position): no state, no order of calls, no rank. Positions count
through an epoch; step `s` of an epoch covers positions `s * global_size` to `(s + 1) * global_size - 1`, however
ranks and accumulation divide them. The random bits come raw from Philox, a counter-based generator whose stream
NumPy keeps stable across versions (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405).
"""

from __future__ import annotations

import zlib

import numpy as np

_WORDS_PER_BLOCK = 4  # Philox 4x64 makes four words for each value of its counter


class Sampler:
    """Order and draws for training; each sample comes once an epoch, up to the last short batch, which is dropped."""

    def __init__(self, num_samples: int, *, seed: int, shuffle: bool = True) -> None:
        if num_samples < 1:
            raise ValueError(f"there are {num_samples} samples to draw from; at least 1 is needed")
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle
        self._epoch_order: tuple[int, np.ndarray] | None = None

    def steps_per_epoch(self, global_size: int) -> int:
        """Whole batches in an epoch.

        Raises:
            ValueError: there are fewer samples than one batch holds.
        """
        if not 1 <= global_size <= self.num_samples:
            raise ValueError(
                f"a batch of {global_size} samples cannot be filled from {self.num_samples} training samples; "
                f"use a batch of 1 to {self.num_samples}"
            )
        return self.num_samples // global_size

    def rows(self, step: int, *, global_size: int) -> np.ndarray:
        """The rows of optimizer step `step`, which counts from 0 over all epochs: (global_size,) int64."""
        epoch, first = self._place(step, global_size)
        return self._order(epoch)[first : first + global_size]

    def draws(
        self, step: int, stream: str, count: int, *, global_size: int, start: int = 0, stop: int | None = None
    ) -> np.ndarray:
        """Uniform numbers for positions `start` to `stop` of a step: (stop - start, count) float64 in [0, 1).

        Args:
            stream: what the numbers are for, such as `crop`. Streams are independent, so that turning one kind of
                augmentation on leaves the others as they were.
            count: numbers for each position.
        """
        stop = global_size if stop is None else stop
        epoch, first = self._place(step, global_size)
        blocks = -(-count // _WORDS_PER_BLOCK)
        raw = self._generator(epoch, stream, counter=(first + start) * blocks).random_raw(
            (stop - start) * blocks * _WORDS_PER_BLOCK
        )
        words = raw.reshape(stop - start, -1)[:, :count]
        return (words >> np.uint64(11)) * 2.0**-53

    def _place(self, step: int, global_size: int) -> tuple[int, int]:
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch(global_size))
        return epoch, step_in_epoch * global_size

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            epoch = 0
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            order = np.arange(self.num_samples, dtype=np.int64)
            if self.shuffle:
                order = np.argsort(self._generator(epoch, "order").random_raw(self.num_samples), kind="stable")
            self._epoch_order = (epoch, order)
        return self._epoch_order[1]

    def _generator(self, epoch: int, stream: str, *, counter: int = 0) -> np.random.Philox:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch, zlib.crc32(stream.encode())))
        return np.random.Philox(key=sequence.generate_state(2, np.uint64), counter=counter)
