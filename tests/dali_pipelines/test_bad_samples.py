"""Stand-ins for bad samples depend on the row and on what is bad, not on the order in which that was found out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipelines.bad_samples import next_good, stand_in

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, -1, -1] * 4)


def test_a_good_row_stands_for_itself():
    assert [stand_in(row, LABELS, {3}, 0) for row in (0, 2, 9)] == [0, 2, 9]
    assert next_good(0, {3}, num_rows=5) == 0


def test_the_next_good_row_goes_round_the_end():
    assert next_good(3, {3, 4, 0}, num_rows=5) == 1
    with pytest.raises(ValueError, match="all 3 samples are bad"):
        next_good(0, {0, 1, 2}, num_rows=3)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_stand_in_is_of_the_same_class_and_drawn_by_the_seed(row):
    drawn = {stand_in(row, LABELS, {row}, seed) for seed in range(60)}
    assert {LABELS[one] for one in drawn} == {LABELS[row]}
    assert len(drawn) > 5
    assert row not in drawn
    assert stand_in(row, LABELS, {row}, 7) == stand_in(row, LABELS, {row}, 7)


def test_without_a_class_anything_stands_in():
    assert len({LABELS[stand_in(8, LABELS, {8}, seed)] for seed in range(60)}) > 2


def test_a_class_without_good_samples_is_stood_in_for_by_others():
    bad = set(np.flatnonzero(LABELS == 2).tolist())
    assert stand_in(2, LABELS, bad, 0) not in bad


def test_one_good_sample_of_a_class_is_always_found():
    labels = np.zeros(500, np.int64)
    bad = set(range(500)) - {123}
    assert {stand_in(row, labels, bad, 3) for row in range(0, 500, 50)} == {123}


@given(st.sets(st.integers(0, 39), min_size=1, max_size=30), st.integers(0, 39), st.integers(0, 5), st.booleans())
def test_it_does_not_matter_when_the_bad_ones_are_found_out(bad, row, seed, replace):
    """Found out one by one, by meeting them, or known all at once: the same stand-in."""

    def substitute(known: set[int]) -> int:
        return stand_in(row, LABELS, known, seed) if replace else next_good(row, known, num_rows=len(LABELS))

    known: set[int] = set()
    while (chosen := substitute(known)) in bad:
        known.add(chosen)
    assert chosen == substitute(bad)
