"""Results as records and as tables."""

import json

from trainer.evaluation.results import MAIN_METRIC, Result, flat_metrics, long_table, metrics_table, per_class_table
from trainer.spec_checks.metrics import METRICS

RESULT = Result(
    dataset="sketch",
    task="zero_shot",
    num_samples=3,
    metrics={"top1": 2 / 3, "cross_entropy": 1.5},
    per_class=[
        {"name": "dog", "num_samples": 3, "accuracy": 2 / 3},
        {"name": "fox", "num_samples": 0, "accuracy": None},
    ],
)
PROBED = Result("sketch", "linear_probe", 3, {"linear_probe_top1": 0.5})


def test_a_result_survives_json():
    assert Result(**json.loads(json.dumps(RESULT.to_dict()))) == RESULT


def test_the_main_metric_follows_the_task():
    assert RESULT.main_metric == 2 / 3
    assert PROBED.main_metric == 0.5
    assert Result("x", "retrieval", 1, {"mean_recall": 0.25, "image_to_text_r1": 1.0}).main_metric == 0.25


def test_main_metrics_are_metrics_of_their_task():
    assert all(task in METRICS[name].tasks for task, name in MAIN_METRIC.items())


def test_a_row_a_task_and_a_column_a_metric():
    table = metrics_table([RESULT, PROBED])
    assert table.heads == ("data set", "task", "images", "top1 %", "cross_entropy")
    assert table.rows == (("sketch", "zero_shot", 3, 2 / 3, 1.5), ("sketch", "linear_probe", 3, 0.5, None))


def test_a_row_a_metric_for_the_terminal():
    assert [row[2:4] for row in long_table([RESULT, PROBED]).rows] == [
        ("top1", "66.67 %"),
        ("cross_entropy", "1.5000"),
        ("linear_probe_top1", "50.00 %"),
    ]


def test_classes_without_images_have_a_dash():
    assert per_class_table(RESULT).shown() == (("dog", "66.67", "3"), ("fox", "-", "0"))


def test_metrics_go_by_data_set_and_name():
    assert flat_metrics([RESULT, PROBED]) == {
        "sketch/top1": 2 / 3,
        "sketch/cross_entropy": 1.5,
        "sketch/linear_probe_top1": 0.5,
    }
