"""Metrics against counting by hand, and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from trainer.errors import UnusableDataError
from trainer.evaluation.metrics import (
    NonFiniteOutputError,
    accuracy,
    accuracy_metrics,
    confusion_counts,
    macro_f1,
    per_class_table,
    probability_metrics,
)
from trainer.evaluation.outcomes import pack, unpack


def outcomes_of(logits, labels):
    logits, labels = torch.tensor(logits), np.array(labels, np.int64)
    packed = pack(logits, torch.from_numpy(np.maximum(labels, 0)))
    return unpack(packed, rows=np.arange(len(labels)), labels_n=labels)


def one_hot(predictions, num_classes):
    return np.eye(num_classes, dtype=np.float32)[predictions].tolist()


@st.composite
def predictions(draw):
    num_classes = draw(st.integers(2, 7))
    index = st.integers(0, num_classes - 1)
    pairs = draw(st.lists(st.tuples(index, index), min_size=1, max_size=30))
    return num_classes, [label for label, _ in pairs], [predicted for _, predicted in pairs]


@settings(deadline=None)
@given(predictions())
def test_metrics_equal_slow_counts(sample):
    num_classes, labels, predicted = sample
    names = [f"class {number}" for number in range(num_classes)]
    metrics, table = accuracy_metrics(outcomes_of(one_hot(predicted, num_classes), labels), names)
    hits = [label == guess for label, guess in zip(labels, predicted, strict=True)]
    assert metrics["top1"] == pytest.approx(sum(hits) / len(hits))
    by_class = {c: [hit for hit, label in zip(hits, labels, strict=True) if label == c] for c in range(num_classes)}
    means = [sum(own) / len(own) for own in by_class.values() if own]
    assert metrics["mean_per_class"] == pytest.approx(sum(means) / len(means))
    assert metrics["worst_class"] == pytest.approx(min(means))
    assert [row["num_samples"] for row in table] == [len(by_class[c]) for c in range(num_classes)]
    expected = f1_score(labels, predicted, labels=sorted(set(labels)), average="macro", zero_division=0)
    assert metrics["macro_f1"] == pytest.approx(expected)


def test_top5_with_fewer_than_five_classes_is_everything():
    assert accuracy(np.array([0, 1, 2]), k=5) == 1.0
    assert accuracy(np.array([0, 1, 2]), k=1) == pytest.approx(1 / 3)


def test_mean_per_class_weighs_classes_and_not_samples():
    labels = [0] * 9 + [1]
    metrics, _ = accuracy_metrics(outcomes_of(one_hot([0] * 10, 3), labels), ["common", "rare", "absent"])
    assert metrics["top1"] == pytest.approx(0.9)
    assert metrics["mean_per_class"] == pytest.approx(0.5)
    assert metrics["worst_class"] == 0.0


def test_f1_leaves_classes_without_images_out_but_counts_what_was_taken_for_others():
    assert macro_f1(np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])) == pytest.approx((2 / 3 + 1) / 2)
    assert macro_f1(np.array([0, 0]), np.array([1, 1])) == 0.0


def test_a_class_without_samples_has_no_accuracy():
    table = per_class_table(outcomes_of([[1.0, 0.0]], [0]), ["seen", "unseen"])
    assert table == [
        {"name": "seen", "num_samples": 1, "accuracy": 1.0},
        {"name": "unseen", "num_samples": 0, "accuracy": None},
    ]


def test_the_cross_entropy_is_that_of_torch():
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(50, 7), torch.randint(7, (50,))
    found = probability_metrics(outcomes_of(logits.tolist(), labels.tolist()))
    assert found["cross_entropy"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)
    confidences, predicted = logits.softmax(1).max(1)
    gaps = []
    for lower in np.arange(15) / 15:
        own = (confidences > lower) & (confidences <= lower + 1 / 15)
        if own.any():
            gap = (predicted[own] == labels[own]).float().mean() - confidences[own].mean()
            gaps.append(float(own.float().mean() * gap.abs()))
    assert found["ece"] == pytest.approx(sum(gaps), rel=1e-5)


def test_confusion_has_the_truth_in_its_rows():
    counts = confusion_counts(outcomes_of(one_hot([1, 1, 0], 3), [0, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_not_a_number_is_an_error_and_never_a_hit():
    outcomes = outcomes_of([[math.nan, math.nan], [1.0, 0.0]], [0, 0])
    assert outcomes.positions.tolist() == [-1, 0]
    with pytest.raises(NonFiniteOutputError, match="not a number for 1 of 2 images"):
        accuracy_metrics(outcomes, ["a", "b"])
    with pytest.raises(NonFiniteOutputError, match="not finite for 1 of 1 images"):
        probability_metrics(outcomes_of([[-math.inf, 0.0]], [0]))


def test_nothing_to_measure_is_an_error():
    with pytest.raises(UnusableDataError, match="no labelled image"):
        accuracy_metrics(outcomes_of([[0.0, 1.0]], [-1]), ["a", "b"])
