"""The table of a domain in distribution and shifted ones."""

import pytest

from trainer.evaluation.domains import shift_summary, shift_table
from trainer.evaluation.results import Result

RESULTS = [
    Result("sketch", "zero_shot", 90, {"top1": 0.4, "cross_entropy": 2.0}),
    Result("photo", "zero_shot", 50, {"top1": 0.9, "cross_entropy": 0.5}),
    Result("cartoon", "zero_shot", 10, {"top1": 0.6, "cross_entropy": 1.0}),
    Result("photo", "knn", 50, {"knn_top1": 0.8}),
    Result("sketch", "knn", 90, {"knn_top1": 0.2}),
    Result("cartoon", "knn", 10, {"knn_top1": 0.3}),
    Result("captions", "retrieval", 10, {"mean_recall": 0.3}),
]


def test_each_shifted_domain_counts_once_however_large():
    table = shift_table(RESULTS, in_distribution="photo", task="zero_shot")
    assert table.heads == ("domain", "kind", "top1 %", "cross_entropy")
    assert [row[:2] for row in table.rows] == [
        ("photo", "in distribution"),
        ("sketch", "shifted"),
        ("cartoon", "shifted"),
        ("all shifted", "mean"),
        ("photo - mean", "gap"),
    ]
    assert [row[2] for row in table.rows] == pytest.approx([0.9, 0.4, 0.6, 0.5, 0.4])
    assert [row[3] for row in table.rows] == pytest.approx([0.5, 2.0, 1.0, 1.5, -1.0])


def test_the_summary_has_a_column_a_task():
    table = shift_summary(RESULTS[:-1], in_distribution="photo")
    assert table.heads == ("domain", "kind", "zero_shot %", "knn %")
    assert table.rows[3][2:] == pytest.approx((0.5, 0.25))


def test_there_must_be_something_to_compare():
    with pytest.raises(ValueError, match="of 'elsewhere' and of another data set, got"):
        shift_table(RESULTS, in_distribution="elsewhere", task="zero_shot")
    with pytest.raises(ValueError, match=r"got \['captions'\]"):
        shift_table(RESULTS, in_distribution="captions", task="retrieval")
