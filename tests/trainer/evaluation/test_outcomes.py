"""What is kept of each image, against sorting by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation.outcomes import label_positions, pack, packed_width, unpack


def slow_position(scores, label):
    ranking = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return ranking.index(label)


@st.composite
def scored_samples(draw):
    num_classes = draw(st.integers(1, 8))
    # few distinct values, so that ties are common
    score = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, -math.inf])
    row = st.lists(score, min_size=num_classes, max_size=num_classes)
    rows = draw(st.lists(row, min_size=1, max_size=12))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=len(rows), max_size=len(rows)))
    return rows, labels


@settings(deadline=None)
@given(scored_samples())
def test_positions_equal_those_of_a_stable_sort(samples):
    rows, labels = samples
    found = label_positions(torch.tensor(rows), torch.tensor(labels))
    assert found.tolist() == [slow_position(row, label) for row, label in zip(rows, labels, strict=True)]


def test_not_a_number_has_no_position():
    scores = torch.tensor([[math.nan, 0.0], [0.0, math.nan], [1.0, 0.0]])
    assert label_positions(scores, torch.tensor([0, 0, 0])).tolist() == [-1, -1, 0]


def test_what_is_packed_comes_back():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 3.0], [1.0, 0.0, 5.0]])
    labels = torch.tensor([1, 2, 0])
    packed = pack(logits, labels, top_k=2)
    assert packed.shape == (3, packed_width(2))
    found = unpack(packed, rows=np.array([4, 7, 9]), labels_n=np.array([1, 2, -1]))
    assert found.rows.tolist() == [4, 7]  # the third has no label
    assert found.labels.tolist() == [1, 2]
    assert found.positions.tolist() == [1, 1]  # of the two equal scores the lower index is first
    assert found.predicted.tolist() == [0, 1]
    assert found.correct.tolist() == [False, False]
    probabilities = torch.softmax(logits.double(), dim=1)
    assert found.confidences == pytest.approx([float(probabilities[0, 0]), float(probabilities[1, 1])])
    assert found.losses == pytest.approx([-math.log(probabilities[0, 1]), -math.log(probabilities[1, 2])])
    assert found.top_classes.tolist() == [[0, 1], [1, 2]]
    assert found.top_confidences[0] == pytest.approx(probabilities[0, :2].numpy())


def test_nothing_more_is_kept_unless_it_is_asked_for():
    packed = pack(torch.eye(3), torch.arange(3))
    assert packed.shape == (3, packed_width(0))
    assert unpack(packed, rows=np.arange(3), labels_n=np.arange(3)).top_classes.shape == (3, 0)
