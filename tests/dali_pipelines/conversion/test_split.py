"""Parts of a data set: disjoint, of the sizes asked for in each class, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from dali_pipelines.conversion import split
from dali_pipelines.sources.samples import DataError, Samples

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def samples(count: int = 200) -> Samples:
    labels = [0 if number % 4 else 1 for number in range(count)]
    return Samples("/data", [f"{number:03}" for number in range(count)], labels, class_names=("a", "b"))


def test_parts_share_no_sample_and_have_each_classs_share():
    parts = split(samples(), SHARES, seed=0)
    assert {name: part.class_counts() for name, part in parts.items()} == {
        "train": {"a": 120, "b": 40},
        "validation": {"a": 15, "b": 5},
        "test": {"a": 15, "b": 5},
    }
    assert sorted(path for part in parts.values() for path in part.paths) == samples().paths
    assert all(part.paths == sorted(part.paths) for part in parts.values())


def test_the_seed_alone_decides():
    one, same, other = (split(samples(), SHARES, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one["test"].paths != other["test"].paths


def test_a_share_may_be_left_over():
    parts = split(samples(), {"some": 0.2}, seed=0)
    assert parts["some"].class_counts() == {"a": 30, "b": 10}


def test_groups_stay_together():
    groups = [number // 3 for number in range(200)]
    parts = split(samples(), SHARES, seed=0, groups=groups)
    of_group: dict[int, set[str]] = {}
    for name, part in parts.items():
        for path in part.paths:
            of_group.setdefault(groups[int(path)], set()).add(name)
    assert all(len(names) == 1 for names in of_group.values())
    assert len(parts["train"]) == pytest.approx(160, abs=6)


def test_without_classes_all_samples_count_as_one():
    unlabelled = Samples("/data", [str(number) for number in range(50)], captions=[["x"]] * 50)
    assert [len(part) for part in split(unlabelled, SHARES, seed=3).values()] == [40, 5, 5]


@pytest.mark.parametrize("shares", [{}, {"a": 0.0}, {"a": -0.1, "b": 0.5}, {"a": 0.9, "b": 0.2}, {"a": np.nan}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(DataError, match="must be above 0, and together 1 at most"):
        split(samples(), shares, seed=0)


def test_a_part_that_would_be_empty_is_refused():
    with pytest.raises(DataError, match="'b' would get none of the 4 samples"):
        split(samples(4), {"a": 0.9, "b": 0.01}, seed=0)
