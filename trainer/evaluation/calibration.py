"""Calibration: how far a model's confidence is from its accuracy (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_BINS = 15


@dataclass(frozen=True)
class Bins:
    """Images by the confidence of their prediction, in bins of equal width; empty bins have 0 for both means."""

    edges: np.ndarray
    """(B + 1,) from 0 to 1; a bin is open at its lower edge and closed at its upper."""
    counts: np.ndarray
    """(B,) images."""
    accuracies: np.ndarray
    """(B,) share of them that were right."""
    confidences: np.ndarray
    """(B,) their mean confidence."""

    @property
    def expected_error(self) -> float:
        """ECE: the mean over images of their bin's |accuracy - confidence|."""
        gaps = np.abs(self.accuracies - self.confidences)
        return float((self.counts * gaps).sum() / self.counts.sum())


def calibration_bins(confidences_n: np.ndarray, correct_n: np.ndarray, *, num_bins: int = NUM_BINS) -> Bins:
    """Sort predictions into bins.

    Args:
        confidences_n: probability of each prediction, 0 to 1.
        correct_n: whether each was right.
        num_bins: bins of equal width.
    """
    edges = np.linspace(0, 1, num_bins + 1)
    index_n = np.clip(np.searchsorted(edges, confidences_n, side="left") - 1, 0, num_bins - 1)
    counts = np.bincount(index_n, minlength=num_bins)
    filled = np.maximum(counts, 1)
    accuracies = np.bincount(index_n, weights=correct_n.astype(float), minlength=num_bins) / filled
    confidences = np.bincount(index_n, weights=confidences_n, minlength=num_bins) / filled
    return Bins(edges, counts, accuracies, confidences)
