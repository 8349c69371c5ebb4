"""Accuracy against sorting by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import UnusableDataError
from trainer.evaluation.metrics import (
    NonFiniteOutputError,
    accuracy,
    classification_metrics,
    label_positions,
    per_class_table,
)


def slow_position(scores, label):
    ranking = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return ranking.index(label)


@st.composite
def scored_samples(draw):
    num_classes = draw(st.integers(1, 8))
    # few distinct values, so that ties are common
    score = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, math.inf])
    rows = draw(st.lists(st.lists(score, min_size=num_classes, max_size=num_classes), min_size=1, max_size=12))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=len(rows), max_size=len(rows)))
    return rows, labels


@settings(deadline=None)
@given(scored_samples())
def test_positions_equal_those_of_a_stable_sort(samples):
    rows, labels = samples
    found = label_positions(torch.tensor(rows), torch.tensor(labels))
    assert found.tolist() == [slow_position(row, label) for row, label in zip(rows, labels, strict=True)]


@settings(deadline=None)
@given(scored_samples())
def test_metrics_equal_slow_counts(samples):
    rows, labels = samples
    names = [f"class {i}" for i in range(len(rows[0]))]
    positions = label_positions(torch.tensor(rows), torch.tensor(labels))
    metrics, table = classification_metrics(positions, torch.tensor(labels), names)
    slow = [slow_position(row, label) for row, label in zip(rows, labels, strict=True)]
    assert metrics["top1"] == pytest.approx(sum(p == 0 for p in slow) / len(slow))
    assert metrics["top5"] == pytest.approx(sum(p < 5 for p in slow) / len(slow))
    by_class = {c: [p == 0 for p, label in zip(slow, labels, strict=True) if label == c] for c in range(len(names))}
    means = [sum(hits) / len(hits) for hits in by_class.values() if hits]
    assert metrics["mean_per_class"] == pytest.approx(sum(means) / len(means))
    assert [row["num_samples"] for row in table] == [len(by_class[c]) for c in range(len(names))]


def test_top5_with_fewer_than_five_classes_is_everything():
    assert accuracy(torch.tensor([0, 1, 2]), k=5) == 1.0
    assert accuracy(torch.tensor([0, 1, 2]), k=1) == pytest.approx(1 / 3)


def test_mean_per_class_weighs_classes_and_not_samples():
    labels = torch.tensor([0] * 9 + [1])
    positions = torch.tensor([0] * 9 + [1])
    metrics, _ = classification_metrics(positions, labels, ["common", "rare", "absent"])
    assert metrics["top1"] == pytest.approx(0.9)
    assert metrics["mean_per_class"] == pytest.approx(0.5)


def test_a_class_without_samples_has_no_accuracy():
    table = per_class_table(torch.tensor([0]), torch.tensor([0]), ["seen", "unseen"])
    assert table == [
        {"name": "seen", "num_samples": 1, "accuracy": 1.0},
        {"name": "unseen", "num_samples": 0, "accuracy": None},
    ]


def test_not_a_number_is_an_error_and_never_a_hit():
    scores = torch.tensor([[math.nan, math.nan], [1.0, 0.0]])
    positions = label_positions(scores, torch.tensor([0, 0]))
    assert positions.tolist() == [-1, 0]
    with pytest.raises(NonFiniteOutputError, match="not a number for 1 of 2 images"):
        classification_metrics(positions, torch.tensor([0, 0]), ["a", "b"])


def test_nothing_to_measure_is_an_error():
    with pytest.raises(UnusableDataError, match="no labelled image"):
        classification_metrics(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), ["a"])
