"""Results as JSON and as tables."""

import json

from trainer.evaluation.report import Result, flat_metrics, metrics_table, per_class_table

RESULT = Result(
    dataset="sketch",
    task="zero_shot",
    num_samples=3,
    metrics={"top1": 2 / 3, "top5": 1.0},
    per_class=[
        {"name": "dog|cat", "num_samples": 3, "accuracy": 2 / 3},
        {"name": "fox", "num_samples": 0, "accuracy": None},
    ],
)


def test_a_result_survives_json():
    assert Result(**json.loads(json.dumps(RESULT.to_dict()))) == RESULT


def test_the_main_metric_follows_the_task():
    assert RESULT.main_metric == 2 / 3
    assert Result("x", "retrieval", 1, {"mean_recall": 0.25, "image_to_text_r1": 1.0}).main_metric == 0.25


def test_metrics_show_as_percent():
    table = metrics_table([RESULT])
    assert table.columns == ("data set", "task", "metric", "%", "images")
    assert table.rows == (("sketch", "zero_shot", "top1", "66.67", "3"), ("sketch", "zero_shot", "top5", "100.00", "3"))


def test_markdown_escapes_bars_and_shows_missing_values():
    lines = per_class_table(RESULT).to_markdown().splitlines()
    assert lines == [
        "| class | top-1 % | images |",
        "| --- | ---: | ---: |",
        "| dog\\|cat | 66.67 | 3 |",
        "| fox | - | 0 |",
    ]


def test_metrics_go_by_data_set_and_name():
    assert flat_metrics([RESULT]) == {"sketch/top1": 2 / 3, "sketch/top5": 1.0}
