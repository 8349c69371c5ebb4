"""Figures of evaluations, drawn without a display; each function returns a `Figure` for `report.write_report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from trainer.evaluation.calibration import Bins
from trainer.evaluation.tables import Table

INK, MUTED, GRID = "#1f2933", "#6b7785", "#d9dee4"
BLUE, ORANGE, PALE_BLUE = "#2f6db5", "#d9792b", "#a9c7e8"
MAX_LABELLED = 40  # classes whose names still fit beside the axes
MAX_ANNOTATED = 15  # classes for which a confusion matrix has room for numbers


def table_figure(table: Table) -> Figure:
    """The table as a picture, each column as wide as its longest cell."""
    rows = table.shown()
    columns = zip(table.heads, *rows, strict=True)
    widths = np.array([max(1.2 * len(head), *map(len, cells), 1) + 2.5 for head, *cells in columns])
    figure, axes = _canvas(0.09 * widths.sum(), 0.3 * (len(rows) + 1))
    axes.axis("off")
    drawn = axes.table(
        cellText=[list(row) for row in rows] or None,
        colLabels=list(table.heads),
        colWidths=list(widths / widths.sum()),
        bbox=(0, 0, 1, 1),
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    for (row, column), cell in drawn.get_celld().items():
        is_text = table.columns[column].kind == "text"
        cell.set_text_props(ha="left" if is_text else "right", color=INK, weight="bold" if row == 0 else "normal")
        cell.set(edgecolor=GRID, facecolor="#f1f4f7" if row == 0 else "white", linewidth=0.8)
        cell.visible_edges = "B"
        cell.PAD = 0.06
    if table.title:
        axes.set_title(table.title, loc="left", color=INK, fontsize=11)
    return figure


def reliability_diagram(bins: Bins, *, title: str) -> Figure:
    """Accuracy against confidence over bins of equal width, and how many images each bin holds."""
    figure = Figure(figsize=(4.6, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    centres, width = bins.edges[:-1] + np.diff(bins.edges) / 2, 1 / len(bins.counts)
    filled = bins.counts > 0
    upper.bar(centres[filled], bins.accuracies[filled], width=0.9 * width, color=BLUE, label="accuracy")
    upper.hlines(
        bins.confidences[filled],
        centres[filled] - 0.45 * width,
        centres[filled] + 0.45 * width,
        color=ORANGE,
        linewidth=2.5,
        label="mean confidence",
        zorder=3,
    )
    upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="perfectly calibrated", zorder=4)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.set_title(f"{title}, ECE {100 * bins.expected_error:.2f} %", loc="left", color=INK, fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    lower.bar(centres, bins.counts / max(bins.counts.sum(), 1), width=0.9 * width, color=PALE_BLUE)
    lower.set(xlabel="confidence of the prediction", ylabel="images")
    lower.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (upper, lower):
        _quieten(axes)
    return figure


def confusion_figure(counts_cc: np.ndarray, class_names: Sequence[str], *, title: str) -> Figure:
    """Share of each true class's images (row) that were taken for each class (column); a row without images is grey."""
    totals = counts_cc.sum(axis=1, keepdims=True)
    shares = np.divide(counts_cc, totals, out=np.full(counts_cc.shape, np.nan), where=totals > 0)
    count = len(class_names)
    side = float(np.clip(0.42 * count, 3.2, 9.5))
    figure, axes = _canvas(side + 1.2, side)
    axes.set_facecolor("#e6e6e6")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal", interpolation="nearest")
    figure.colorbar(image, ax=axes, fraction=0.046, format=PercentFormatter(1, decimals=0))
    if count <= MAX_LABELLED:
        axes.set_xticks(
            range(count), class_names, rotation=90 if count > 6 else 35, ha="center" if count > 6 else "right"
        )
        axes.set_yticks(range(count), class_names)
    if count <= MAX_ANNOTATED:
        for (row, column), share in np.ndenumerate(shares):
            if share > 0:
                color = "white" if share > 0.55 else INK
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=color, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    axes.tick_params(labelsize=8, length=0)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return figure


def per_class_figure(per_class: Sequence[Mapping[str, object]], *, title: str) -> Figure:
    """Accuracy of each class, worst first; of many classes only the worst."""
    present = [row for row in per_class if row["accuracy"] is not None]
    ordered = sorted(present, key=lambda row: (row["accuracy"], row["name"]))[:MAX_LABELLED]
    figure, axes = _canvas(6.0, 0.24 * len(ordered) + 0.9)
    names = [f"{row['name']} ({row['num_samples']})" for row in ordered]
    _horizontal_bars(axes, names, [row["accuracy"] for row in ordered], [BLUE] * len(ordered))
    left_out = f" ({len(ordered)} worst of {len(present)} classes)" if len(present) > len(ordered) else ""
    axes.set_xlabel("accuracy (images in brackets)")
    axes.set_title(title + left_out, loc="left", color=INK, fontsize=11)
    return figure


def domains_figure(values: Mapping[str, float], *, in_distribution: str | None, metric: str, title: str) -> Figure:
    """One metric on each domain: the one in distribution, the shifted ones, and a line at the mean of the shifted."""
    figure, axes = _canvas(6.0, 0.34 * len(values) + 1.1)
    colors = [BLUE if name == in_distribution else ORANGE for name in values]
    names = [f"{name} (in distribution)" if name == in_distribution else name for name in values]
    _horizontal_bars(axes, names, list(values.values()), colors if in_distribution else [BLUE] * len(values))
    shifted = [value for name, value in values.items() if name != in_distribution]
    if in_distribution and shifted:
        mean = float(np.mean(shifted))
        axes.axvline(mean, color=MUTED, linestyle="--", linewidth=1, label=f"mean of the shifted: {100 * mean:.1f} %")
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.32 if len(values) < 5 else -0.2), frameon=False, fontsize=8
        )
    axes.set_xlabel(metric)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    return figure


def curve_figure(
    points: Sequence[tuple[str, float, float]], *, x_label: str, y_label: str, title: str, highlight: str | None = None
) -> Figure:
    """A path of labelled (label, x, y) points in their order, both axes fractions: accuracy here against there."""
    figure, axes = _canvas(5.6, 4.4)
    labels, x, y = zip(*points, strict=True)
    axes.plot(x, y, color=PALE_BLUE, linewidth=2, zorder=1)
    for index, label in enumerate(labels):
        chosen = label == highlight
        axes.plot(x[index], y[index], "o", color=ORANGE if chosen else BLUE, ms=8 if chosen else 5, zorder=2)
        axes.annotate(label, (x[index], y[index]), textcoords="offset points", xytext=(6, 5), fontsize=7, color=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.margins(0.12)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    _quieten(axes)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(max(width, 2.0), max(height, 0.8)))
    return figure, figure.add_subplot()


def _horizontal_bars(axes: Axes, names: Sequence[str], values: Sequence[float], colors: Sequence[str]) -> None:
    drawn = axes.barh(range(len(names)), values, color=colors, height=0.72)
    behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # a line at the mean may pass here
    labels = [f"{100 * value:.1f}" for value in values]
    axes.bar_label(drawn, labels, padding=4, fontsize=8, color=INK, bbox=behind)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    _quieten(axes, grid="x")


def _quieten(axes: Axes, *, grid: str = "y") -> None:
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=9)
