"""Bins of confidence against counting by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation.calibration import NUM_BINS, calibration_bins


def slow_error(confidences, correct, num_bins):
    """A loop over (lower, upper] bins, as the paper defines it."""
    total = 0.0
    for number in range(num_bins):
        lower, upper = number / num_bins, (number + 1) / num_bins
        own = [
            (c, hit)
            for c, hit in zip(confidences, correct, strict=True)
            if lower < c <= upper or (number == 0 and c == 0)
        ]
        if own:
            accuracy = sum(hit for _, hit in own) / len(own)
            total += len(own) * abs(accuracy - sum(c for c, _ in own) / len(own))
    return total / len(confidences)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=60))
def test_the_error_is_that_of_the_definition(samples):
    confidences = np.array([thousandths / 1000 for thousandths, _ in samples])
    correct = np.array([hit for _, hit in samples])
    for num_bins in (2, 5, 8):  # whose edges are exact in thousandths
        found = calibration_bins(confidences, correct, num_bins=num_bins)
        assert found.counts.sum() == len(samples)
        assert found.expected_error == pytest.approx(slow_error(confidences, correct, num_bins), abs=1e-9)


def test_a_calibrated_model_has_no_error_and_a_sure_one_all_of_it():
    calibrated = calibration_bins(np.full(10, 0.7), np.arange(10) < 7)
    assert len(calibrated.counts) == NUM_BINS == 15
    assert calibrated.expected_error == pytest.approx(0.0)
    assert calibration_bins(np.ones(4), np.zeros(4, bool)).expected_error == pytest.approx(1.0)
