"""What takes the place of a sample that cannot be read. Imports neither DALI nor torch.

Both choices are functions of the row and of which rows are bad, and only go on from one candidate to the next when it
is bad too. So it does not matter when or on which rank the bad ones were found out: as long as the files are as they
are, every run ends at the same stand-in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from dali_pipelines import philox

_NUM_TRIES = 32  # draws, before the candidates are gone through in order


class BadSample(NamedTuple):
    """A sample that cannot be used, as a loader found out."""

    row: int
    """Its row in the manifest."""
    key: str
    """What it is called."""
    reason: str
    """What is wrong with it."""


def in_common(samples: Sequence[tuple[str, str]]) -> str:
    """What most of some bad samples, keys and reasons, have in common: the shard or folder, and what is wrong."""
    (folder, there), *_ = Counter(key.rpartition("/")[0] for key, _ in samples).most_common(1)
    (reason, alike), *_ = Counter(reason for _, reason in samples).most_common(1)
    place = f"{there} of them in {folder!r}, " if folder else ""
    return f"{place}{alike} of them because: {reason}"


def next_good(row: int, bad: Collection[int], *, num_rows: int) -> int:
    """The row itself if it is good, else the next one that is, going on from the first after the last.

    Raises:
        ValueError: all rows are bad.
    """
    if len(bad) >= num_rows:
        raise ValueError(f"all {num_rows} samples are bad")
    while row in bad:
        row = (row + 1) % num_rows
    return row


def stand_in(row: int, labels: np.ndarray, bad: Collection[int], seed: int) -> int:
    """The row itself if it is good, else one of the same class, drawn by the seed.

    A sample without a class, or of a class with no good sample left, is stood in for by any other.

    Args:
        labels: (N,) class of each row, -1 for none.
        bad: rows that cannot be used.

    Raises:
        ValueError: all rows are bad.
    """
    if row not in bad:
        return row
    alike = np.flatnonzero(labels == labels[row]) if labels[row] >= 0 else np.arange(len(labels))
    if len(alike) <= len(bad) and all(candidate in bad for candidate in alike.tolist()):
        return next_good(row, bad, num_rows=len(labels))
    drawn = philox.uniforms(philox.generator(seed, row, "stand-in").random_raw(_NUM_TRIES))
    for place in np.floor(drawn * len(alike)).astype(np.int64):
        if int(alike[place]) not in bad:
            return int(alike[place])
    in_order = np.roll(alike, -int(np.searchsorted(alike, row))).tolist()
    return next(candidate for candidate in in_order if candidate not in bad)
