"""The curve: what it shows, which point is best, and the files it leaves."""

import csv
import json

import pytest
from PIL import Image

from trainer.wise_ft import curve_of


def measured(inside, *outside, metric="top1"):
    shifted = {f"domain{number}/{metric}": value for number, value in enumerate(outside)}
    return {f"validation/{metric}": inside, **shifted}


CURVE = {
    1.0: measured(0.9, 0.5, 0.3) | {"validation/cross_entropy": 0.4},
    0.0: measured(0.6, 0.7, 0.5) | {"validation/cross_entropy": 1.2},
    0.5: measured(0.9, 0.8, 0.6) | {"validation/cross_entropy": 0.5},
    0.25: measured(0.8, 0.8, 0.6) | {"validation/cross_entropy": 0.7},
}


def test_points_are_in_order_and_the_best_of_equals_is_in_the_middle():
    curve = curve_of(CURVE, main_metric="validation/top1")
    assert [point.alpha for point in curve.points] == [0.0, 0.25, 0.5, 1.0]
    assert curve.best("validation/top1").alpha == 0.5
    assert curve.best("domain0/top1").alpha == 0.5


def test_the_best_by_a_loss_is_the_lowest_and_the_curve_then_shows_accuracy():
    curve = curve_of(CURVE, main_metric="validation/cross_entropy")
    assert curve.best("validation/cross_entropy").alpha == 1.0
    assert (curve.metric, curve.in_distribution, curve.shifted) == ("top1", "validation", ("domain0", "domain1"))


def test_the_table_has_both_accuracies_and_marks_what_is_exported():
    table = curve_of(CURVE, main_metric="validation/top1").to_table(chosen=0.5)
    assert table.heads == ("alpha", "exported", "validation %", "mean shifted %", "domain0 %", "domain1 %")
    assert table.shown()[2] == ("0.500", "*", "90.00", "70.00", "80.00", "60.00")
    assert [row[1] for row in table.rows] == ["", "", "*", ""]


def test_the_picture_has_accuracy_in_distribution_against_shifted():
    axes = curve_of(CURVE, main_metric="validation/top1").to_figure(chosen=0.5).axes[0]
    assert axes.get_xlabel() == "validation, top1"
    assert axes.get_ylabel() == "mean of 2 shifted data sets, top1"
    line = axes.lines[0]
    assert list(line.get_xdata()) == [0.6, 0.8, 0.9, 0.9]
    assert list(line.get_ydata()) == pytest.approx([0.6, 0.7, 0.7, 0.4])
    assert [text.get_text() for text in axes.texts] == ["0", "0.25", "0.5", "1"]


@pytest.mark.parametrize(
    ("points", "main_metric", "label", "values"),
    [
        ({0: measured(0.5), 1: measured(0.75)}, "validation/top1", "validation, top1", [0.5, 0.75]),
        ({0: {"art/top1": 0.5}, 1: {"art/top1": 0.25}}, "validation/top1", "art, top1", [0.5, 0.25]),
        (
            {0: {"validation/mean_recall": 0.1}, 1: {"validation/mean_recall": 0.2}},
            "validation/mean_recall",
            "validation, mean_recall",
            [0.1, 0.2],
        ),
    ],
)
def test_a_single_data_set_is_drawn_against_alpha(points, main_metric, label, values):
    axes = curve_of(points, main_metric=main_metric).to_figure(chosen=1).axes[0]
    assert axes.get_ylabel() == label
    assert list(axes.lines[0].get_xdata()) == [0, 1]
    assert list(axes.lines[0].get_ydata()) == values


def test_four_files_say_the_same(tmp_path):
    files = curve_of(CURVE, main_metric="validation/top1").write(tmp_path / "wise_ft", chosen=0.5)
    assert sorted(path.name for path in files) == ["curve.csv", "curve.json", "curve.md", "curve.png"]
    document = json.loads((tmp_path / "wise_ft/curve.json").read_text())
    assert document["exported_alpha"] == 0.5
    assert {point["alpha"]: point["metrics"] for point in document["points"]} == CURVE
    rows = list(csv.DictReader((tmp_path / "wise_ft/curve.csv").open()))
    assert [float(row["validation"]) for row in rows] == [0.6, 0.8, 0.9, 0.9]
    assert "| 0.500 | * | 90.00 |" in (tmp_path / "wise_ft/curve.md").read_text()
    assert Image.open(tmp_path / "wise_ft/curve.png").width > 400
