"""Which sample stands at each position of the training stream, and the chance that belongs to the position.

Everything is a pure function of (seed, position): no state, no order of calls, no rank. The stream is made of passes,
each an order of all samples or an episode drawn from them; step `s` covers `global_size` positions, however ranks and
accumulation divide them. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from dali_pipelines.philox import WORDS_PER_BLOCK, generator, uniforms
from dali_pipelines.shares import GroupedPasses, Groups

EpochEnd = Literal["drop", "continue"]


def steps_per_epoch(num_samples: int, *, global_size: int, epoch_end: EpochEnd = "drop") -> int:
    """Optimizer steps that count as an epoch: whole batches with `drop`, begun ones with `continue`.

    Args:
        num_samples: samples in an epoch, which with episodes is their size.

    Raises:
        ValueError: there are fewer samples than one batch holds.
    """
    if not 1 <= global_size <= num_samples:
        raise ValueError(
            f"a batch of {global_size} samples cannot be filled from {num_samples} training samples; "
            f"use a batch of 1 to {num_samples}"
        )
    return num_samples // global_size if epoch_end == "drop" else -(-num_samples // global_size)


def draw_shots(labels: np.ndarray, *, class_names: Sequence[str], shots: int, seed: int) -> np.ndarray:
    """Rows of `shots` samples of each class, chosen by `seed`, in the order of the data: (C * shots,) int64.

    What is drawn of a class depends on that class alone. Samples without a class are left out.

    Raises:
        ValueError: classes have fewer samples; the text names them with their counts.
    """
    rows = [np.flatnonzero(labels == label) for label in range(len(class_names))]
    short = [f"{name!r} has {len(own)}" for name, own in zip(class_names, rows, strict=True) if len(own) < shots]
    if short:
        named = ", ".join(short[:20]) + (f" and {len(short) - 20} more" if len(short) > 20 else "")
        raise ValueError(f"{shots} samples of each class are wanted, but {named}")
    chosen = [
        own[np.argsort(generator(seed, label, "shots").random_raw(len(own)), kind="stable")[:shots]]
        for label, own in enumerate(rows)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def draw_shares(labels: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Rows of a share of each class, at least one, chosen by `seed`, in the order of the data: int64.

    What is drawn of a class depends on that class alone; samples without a class count as one. A larger share holds
    all of a smaller one.
    """
    chosen = []
    for label in np.unique(labels).tolist():
        own = np.flatnonzero(labels == label)
        count = max(1, round(fraction * len(own)))
        order = np.argsort(generator(seed, label + 1, "shares").random_raw(len(own)), kind="stable")
        chosen.append(own[order[:count]])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def step_draws(step: int, stream: str, count: int, *, seed: int) -> np.ndarray:
    """Uniform numbers that belong to a whole optimizer step, the same on every rank: (count,) float64 in [0, 1)."""
    return uniforms(generator(seed, step, f"step-{stream}").random_raw(count))


class Sampler:
    """Order and draws for training."""

    def __init__(
        self,
        num_samples: int,
        *,
        seed: int,
        shuffle: bool = True,
        epoch_end: EpochEnd = "drop",
        episode_size: int | None = None,
        episodes_from_first: bool = False,
        groups: Groups | None = None,
    ) -> None:
        """
        Args:
            num_samples: samples in the data.
            shuffle: a new order for each pass; otherwise the order of the data.
            epoch_end: `drop` leaves out what fills no whole batch; with `continue` a batch may hold the end of one
                pass and the beginning of the next.
            episode_size: each pass is this many samples drawn with replacement, instead of every sample once.
            episodes_from_first: draw episodes from the first `episode_size` samples only.
            groups: draw each group's share from it, going through its samples in passes of their own. A pass of the
                whole is as many samples as there are in groups, or `episode_size`, which then replaces nothing.
        """
        if num_samples < 1:
            raise ValueError(f"there are {num_samples} samples to draw from; at least 1 is needed")
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle
        self.epoch_end: EpochEnd = epoch_end
        self.episode_size = episode_size
        self._drawn_from = min(num_samples, episode_size) if episode_size and episodes_from_first else num_samples
        self.pass_length = episode_size or (groups.num_drawn if groups else num_samples)
        """Samples in one pass."""
        self._grouped = None if groups is None else self._by_shares(groups, episodes_from_first)
        self._pass_rows: tuple[int, np.ndarray] | None = None

    def steps_per_epoch(self, global_size: int) -> int:
        """Optimizer steps that count as an epoch.

        Raises:
            ValueError: there are fewer samples than one batch holds.
        """
        return steps_per_epoch(self.pass_length, global_size=global_size, epoch_end=self.epoch_end)

    def rows(self, step: int, *, global_size: int) -> np.ndarray:
        """The rows of optimizer step `step`, which counts from 0 over all epochs: (global_size,) int64."""
        pieces = self._pieces(step, global_size, 0, global_size)
        return np.concatenate([self._rows_of_pass(number)[first:last] for number, first, last in pieces])

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
        blocks = -(-count // WORDS_PER_BLOCK)
        parts = []
        for number, first, last in self._pieces(step, global_size, start, stop):
            source = generator(self.seed, number, stream, counter=first * blocks)
            words = source.random_raw((last - first) * blocks * WORDS_PER_BLOCK)
            parts.append(words.reshape(last - first, -1)[:, :count])
        return uniforms(np.concatenate(parts))

    def _pieces(self, step: int, global_size: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Where positions `start` to `stop` of a step lie: number of the pass, first and last position in it."""
        steps = self.steps_per_epoch(global_size)
        if self.epoch_end == "drop":
            number, step_in_epoch = divmod(step, steps)
            first = step_in_epoch * global_size
            yield number, first + start, first + stop
            return
        position, end = step * global_size + start, step * global_size + stop
        while position < end:
            number, first = divmod(position, self.pass_length)
            last = min(self.pass_length, first + end - position)
            yield number, first, last
            position += last - first

    def _rows_of_pass(self, number: int) -> np.ndarray:
        if not self.shuffle and self.episode_size is None:
            number = 0
        if self._pass_rows is None or self._pass_rows[0] != number:
            self._pass_rows = (number, self._draw_pass(number))
        return self._pass_rows[1]

    def _by_shares(self, groups: Groups, episodes_from_first: bool) -> GroupedPasses:
        if len(groups.numbers) != self.num_samples:
            raise ValueError(
                f"{len(groups.numbers)} samples are in groups, and {self.num_samples} are to be drawn from"
            )
        if not self.shuffle or episodes_from_first:
            raise ValueError("groups with shares are drawn in new orders, from all samples")
        return GroupedPasses(groups, length=self.pass_length, seed=self.seed)

    def _draw_pass(self, number: int) -> np.ndarray:
        if self._grouped is not None:
            return self._grouped.rows(number)
        if self.episode_size is not None:
            drawn = uniforms(generator(self.seed, number, "episode").random_raw(self.episode_size))
            return np.floor(drawn * self._drawn_from).astype(np.int64)
        if not self.shuffle:
            return np.arange(self.num_samples, dtype=np.int64)
        return np.argsort(generator(self.seed, number, "order").random_raw(self.num_samples), kind="stable")
