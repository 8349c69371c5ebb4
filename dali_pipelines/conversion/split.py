"""Divides samples into parts that share none, each with the same share of every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dali_pipelines.sources.samples import DataError, Samples


def split(
    samples: Samples, shares: Mapping[str, float], *, seed: int, groups: Sequence[int] | np.ndarray | None = None
) -> dict[str, Samples]:
    """Divide samples at random, class by class, into parts by name; each part keeps the order of the data.

    Args:
        shares: of the samples, for each part; together 1 at most, what is left over goes to no part.
        groups: (N,) a number a sample; samples of one group, such as copies of one image, come into the same part.

    Raises:
        DataError: the shares are none, or a part would be empty.
    """
    sizes = np.array(list(shares.values()), float)
    if not len(sizes) or not (sizes > 0).all() or sizes.sum() > 1 + 1e-9:
        raise DataError("shares", f"shares are {dict(shares)}; they must be above 0, and together 1 at most")
    labels = np.zeros(len(samples), np.int64) if samples.labels is None else np.asarray(samples.labels, np.int64)
    part = _parts(labels, _numbered(groups, len(samples)), np.cumsum(sizes), seed)
    divided = {name: np.flatnonzero(part == number) for number, name in enumerate(shares)}
    for name, rows in divided.items():
        if not len(rows):
            raise DataError("shares", f"{name!r} would get none of the {len(samples)} samples; give it a larger share")
    return {name: samples.select(rows) for name, rows in divided.items()}


def _numbered(groups: Sequence[int] | np.ndarray | None, count: int) -> np.ndarray:
    if groups is None:
        return np.arange(count)
    if len(groups) != count:
        raise ValueError(f"groups has {len(groups)} numbers for {count} samples")
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def _parts(labels: np.ndarray, groups: np.ndarray, ends: np.ndarray, seed: int) -> np.ndarray:
    """The part of each sample; `len(ends)` for what is left over. A group counts as of its first sample's class."""
    _, first, sizes = np.unique(groups, return_index=True, return_counts=True)
    part_of_group = np.full(len(first), len(ends))
    for label in np.unique(labels[first]).tolist():
        own = np.flatnonzero(labels[first] == label)
        chance = np.random.Generator(np.random.Philox([seed, label + 1]))
        own = own[np.argsort(chance.random(len(own)), kind="stable")]
        middles = np.cumsum(sizes[own]) - sizes[own] / 2
        part_of_group[own] = np.searchsorted(ends * sizes[own].sum() + 1e-9, middles, side="left")
    return part_of_group[groups]
