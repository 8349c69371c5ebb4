"""A report folder, and the pictures in it."""

import json

import numpy as np
import pytest
from PIL import Image

from trainer.evaluation import figures
from trainer.evaluation.calibration import calibration_bins
from trainer.evaluation.report import write_report
from trainer.evaluation.tables import Column, Table

RESULTS = Table((Column("data set"), Column("top1", "fraction")), (("photo", 0.5), ("sketch", 0.25)), title="Accuracy")


def is_drawn(path):
    """Whether a picture shows something: more than the white of its canvas."""
    pixels = np.asarray(Image.open(path).convert("L"))
    return pixels.shape[0] > 50 and pixels.shape[1] > 100 and (pixels < 128).mean() > 0.001


def test_one_table_becomes_four_files_that_agree(tmp_path):
    figure = figures.domains_figure({"photo": 0.5, "sketch": 0.25}, in_distribution="photo", metric="top1", title="x")
    files = write_report(
        tmp_path / "report",
        tables={"results": RESULTS},
        figures={"domains": figure},
        document={"model": "m"},
        title="T",
    )
    assert sorted(path.name for path in files) == [
        "domains.png",
        "results.csv",
        "results.json",
        "results.md",
        "results.png",
    ]
    document = json.loads((tmp_path / "report" / "results.json").read_text())
    assert document == {"model": "m", "tables": {"results": RESULTS.to_json()}}
    assert (tmp_path / "report" / "results.csv").read_text() == RESULTS.to_csv()
    text = (tmp_path / "report" / "results.md").read_text()
    assert text.startswith("# T\n")
    assert f"## Accuracy\n\n{RESULTS.to_markdown()}" in text
    assert "![domains](domains.png)" in text
    assert is_drawn(tmp_path / "report" / "results.png")
    assert is_drawn(tmp_path / "report" / "domains.png")


def test_names_of_tables_and_figures_differ(tmp_path):
    figure = figures.table_figure(RESULTS)
    with pytest.raises(ValueError, match="both called results"):
        write_report(tmp_path, tables={"results": RESULTS}, figures={"results": figure})


def test_only_the_named_tables_are_drawn(tmp_path):
    write_report(tmp_path, tables={"results": RESULTS, "more": RESULTS}, drawn=["more"])
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["more.png"]


def test_a_reliability_diagram_has_a_bar_a_filled_bin():
    bins = calibration_bins(np.array([0.1, 0.5, 0.52, 0.9]), np.array([False, True, False, True]))
    upper, lower = figures.reliability_diagram(bins, title="x").axes
    assert len(upper.patches) == 3
    assert max(bar.get_height() for bar in lower.patches) == pytest.approx(0.5)
    assert f"{100 * bins.expected_error:.2f} %" in upper.get_title(loc="left")


@pytest.mark.parametrize("num_classes", [3, 15, 30, 200])
def test_a_confusion_matrix_of_any_size_is_readable(num_classes):
    counts = np.eye(num_classes, dtype=int) * 3
    counts[0] = 0  # a class without images
    names = [f"class {n}" for n in range(num_classes)]
    axes = figures.confusion_figure(counts, names, title="x").axes[0]
    labelled = [label.get_text() for label in axes.get_yticklabels()]
    assert (labelled == names) == (num_classes <= figures.MAX_LABELLED)
    assert len(axes.texts) == (num_classes - 1 if num_classes <= figures.MAX_ANNOTATED else 0)


def test_of_many_classes_the_worst_are_shown():
    rows = [{"name": f"c{n:03}", "num_samples": 2, "accuracy": n / 100} for n in range(100)]
    axes = figures.per_class_figure([*rows, {"name": "none", "num_samples": 0, "accuracy": None}], title="x").axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["c000 (2)", "c001 (2)"]
    assert len(labels) == figures.MAX_LABELLED
    assert "40 worst of 100 classes" in axes.get_title(loc="left")


def test_a_curve_passes_through_its_points(tmp_path):
    points = [("0", 0.2, 0.1), ("0.5", 0.5, 0.3), ("1", 0.6, 0.2)]
    figure = figures.curve_figure(points, x_label="here", y_label="there", title="x", highlight="0.5")
    line = figure.axes[0].lines[0]
    assert line.get_xydata().tolist() == [[x, y] for _, x, y in points]
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "0.5", "1"]
