"""Groups of samples that are drawn by shares: the sources of a weighted mixture, the classes of a balanced pass.

Each group is gone through in shuffled passes of its own: all of its samples come once before any comes again. How
many samples a pass of the whole takes from each group follows van der Corput's sequence, so that no share is rounded
away: after any number of passes the numbers are off by a few samples at most. All is a pure function of the seed and
the number of the pass. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dali_pipelines import philox
from dali_pipelines.manifest import Manifest

_BITS = 40  # fractions of a sample are counted in units of 2^-40, and passes up to 2^40
_UNIT = 1 << _BITS


@dataclass(frozen=True)
class Groups:
    """Samples divided into groups, each with a share of what is drawn."""

    numbers: np.ndarray
    """(N,) group of each sample; -1 for a sample that is never drawn."""
    shares: np.ndarray
    """(G,) share of each group, in proportion."""

    def __post_init__(self) -> None:
        counts = np.bincount(self.numbers[self.numbers >= 0], minlength=len(self.shares))
        if len(counts) != len(self.shares) or not counts.all() or not (np.asarray(self.shares) > 0).all():
            raise ValueError(
                f"each group needs samples and a share above 0; there are {counts.tolist()[:20]} samples in groups "
                f"with shares {list(self.shares)[:20]}"
            )

    @property
    def num_drawn(self) -> int:
        """Samples that belong to a group."""
        return int(np.count_nonzero(self.numbers >= 0))


def groups_of(manifest: Manifest, *, class_balanced: bool) -> Groups | None:
    """What a mixture's weights and class balance make groups of; None: every sample once a pass.

    With both, a source's share is divided equally among the classes that it has samples of.

    Raises:
        ValueError: no sample has a class, or a source with a weight has nothing to draw; the text says which.
    """
    if not class_balanced and not manifest.shares:
        return None
    weights = np.asarray(manifest.shares or (1.0,), np.float64)
    sources = manifest.sources.astype(np.int64) if manifest.shares else np.zeros(len(manifest), np.int64)
    classes = manifest.labels.astype(np.int64) if class_balanced else np.zeros(len(manifest), np.int64)
    is_drawn = classes >= 0
    _refuse_empty(np.bincount(sources[is_drawn], minlength=len(weights)), weights, class_balanced=class_balanced)
    num_classes = int(classes.max()) + 1
    found, group = np.unique((sources * num_classes + classes)[is_drawn], return_inverse=True)
    numbers = np.full(len(manifest), -1, np.int64)
    numbers[is_drawn] = group
    source = found // num_classes
    return Groups(numbers, weights[source] / np.bincount(source)[source])


def _refuse_empty(counts: np.ndarray, weights: np.ndarray, *, class_balanced: bool) -> None:
    what = "samples with a class" if class_balanced else "samples"
    if not counts.any():
        raise ValueError(f"there are no {what} in the training data")
    if not counts.all():
        source = int(np.flatnonzero(counts == 0)[0])
        raise ValueError(f"sources.{source} of the mixture has the weight {weights[source]:g} and no {what}")


class GroupedPasses:
    """The rows of each pass through groups with shares."""

    def __init__(self, groups: Groups, *, length: int, seed: int) -> None:
        """`length` is the number of samples in a pass."""
        self._length, self._seed = length, seed
        sizes = np.bincount(groups.numbers[groups.numbers >= 0])
        self._rows = np.split(np.argsort(groups.numbers, kind="stable")[-groups.num_drawn :], np.cumsum(sizes)[:-1])
        share = np.asarray(groups.shares, np.float64) / np.sum(groups.shares)
        self._bounds = np.append(0.0, np.cumsum(share) * length)
        self._bounds[-1] = length

    def rows(self, number: int) -> np.ndarray:
        """The rows of pass `number`, counted from 0: (length,) int64."""
        before, after = self.drawn_before(number), self.drawn_before(number + 1)
        counts = after - before
        key = philox.key(self._seed, 0, "groups")
        drawn = [self._of_group(group, before[group], counts[group], key) for group in np.flatnonzero(counts)]
        order = np.argsort(philox.generator(self._seed, number, "order").random_raw(self._length), kind="stable")
        group_at = np.repeat(np.arange(len(counts)), counts)[order]
        rows = np.empty(self._length, np.int64)
        rows[np.argsort(group_at, kind="stable")] = np.concatenate(drawn)
        return rows

    def drawn_before(self, number: int) -> np.ndarray:
        """Samples drawn from each group in the passes before `number`: (G,) int64.

        Pass i takes floor(u_i + b) samples from the groups below a bound b on the line of cumulated shares, u_i being
        van der Corput's sequence: each pass adds up to its length, and no group ever gives a negative number.
        """
        whole = np.floor(self._bounds).astype(np.int64)
        fraction = np.floor((self._bounds - whole) * _UNIT).astype(np.int64)
        return np.diff(number * (whole + 1) - _points_below(number, _UNIT - fraction))

    def _of_group(self, group: int, start: int, count: int, key: np.ndarray) -> np.ndarray:
        """`count` samples from place `start` on of a group's own stream, which is one shuffled pass after another."""
        rows = self._rows[group]
        first, last = start // len(rows), -(-(start + count) // len(rows))
        blocks = -(-len(rows) // philox.WORDS_PER_BLOCK)
        source = np.random.Philox(key=key, counter=[first * blocks, group, 0, 0])
        words = source.random_raw((last - first) * blocks * philox.WORDS_PER_BLOCK)
        order = np.argsort(words.reshape(last - first, -1)[:, : len(rows)], axis=1, kind="stable").ravel()
        skipped = start - first * len(rows)
        return rows[order[skipped : skipped + count]]


def _points_below(count: int, limits: np.ndarray) -> np.ndarray:
    """How many of the first `count` points of van der Corput's sequence lie below limits in units of 2^-40.

    The sequence mirrors the binary digits of 0, 1, 2, ... at the point
    (https://en.wikipedia.org/wiki/Van_der_Corput_sequence), so that each aligned block of 2^b numbers is an even grid.
    """
    below, done = np.zeros(len(limits), np.int64), 0
    for bit in reversed(range(count.bit_length())):
        if count >> bit & 1:
            offset = int(f"{done:0{_BITS}b}"[::-1], 2)
            spacing = _UNIT >> bit
            below += np.clip(-((offset - limits) // spacing), 0, 1 << bit)
            done += 1 << bit
    return below
