"""Histograms of a survey: sides, aspect ratios, file sizes, and images by class."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from trainer.data_tools.survey import Survey
from trainer.evaluation.figures import BLUE, GRID, INK, MUTED, ORANGE

_COLORS = (BLUE, ORANGE, "#3a9d6e", "#8e5ea2", MUTED)
_DOTS_PER_INCH = 100
_MAX_CLASSES = 30


def histograms(survey: Survey) -> Image.Image:
    """One picture with a panel for each, the data sets in colours."""
    figure = Figure(figsize=(13.4, 3.6), layout="constrained")
    panels = figure.subplots(1, 4)
    sets = [one for one in survey.sets if one.usable.any()]
    names = [one.data.name for one in sets]
    short = [one.sizes.min(axis=1) for one in sets]
    aspects = [one.sizes[:, 0] / one.sizes[:, 1] for one in sets]
    kilobytes = [one.facts["num_bytes"].to_numpy()[one.usable] / 1e3 for one in sets]
    _bars(panels[0], short, names, "short side in pixels")
    _bars(panels[1], aspects, names, "width / height")
    _bars(panels[2], kilobytes, names, "file size in kB")
    _classes(panels[3], survey)
    if len(names) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DOTS_PER_INCH, facecolor="white")
    return Image.open(content)


def _bars(axes: Axes, values: list[np.ndarray], names: list[str], label: str) -> None:
    """Bins of equal ratio where the largest value is many times the smallest."""
    together = np.concatenate(values)
    low, high = float(together.min()), float(together.max())
    wide = high > 20 * max(low, 1e-9) and low > 0
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = np.geomspace(low, high, 31) if wide else np.linspace(low, high, 31)
    axes.hist(values, bins=bins, stacked=True, color=_cycled(len(values)), label=names)
    if wide:
        axes.set_xscale("log")
    _quieten(axes, label)


def _classes(axes: Axes, survey: Survey) -> None:
    counts: dict[str, list[int]] = {}
    sets = [one for one in survey.sets if one.usable.any()]
    for number, one in enumerate(sets):
        for name, count in one.data.counts(one.usable).items():
            counts.setdefault(name, [0] * len(sets))[number] = count
    if not counts:
        axes.axis("off")
        return
    ordered = sorted(counts.items(), key=lambda item: -sum(item[1]))
    shown = np.array([values for _, values in ordered])  # (classes, sets)
    labelled = len(ordered) <= _MAX_CLASSES
    below = np.zeros(len(ordered))
    for values, color in zip(shown.T, _cycled(len(sets)), strict=True):
        axes.bar(range(len(ordered)), values, bottom=below, color=color, width=0.8 if labelled else 1.0)
        below += values
    if labelled:
        axes.set_xticks(range(len(ordered)), [name[:18] for name, _ in ordered], rotation=90)
    _quieten(axes, "images by class" if labelled else f"images by class, {len(ordered):,} classes by size")


def _cycled(count: int) -> list[str]:
    return [_COLORS[number % len(_COLORS)] for number in range(count)]


def _quieten(axes: Axes, label: str) -> None:
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.set_title(label, loc="left", fontsize=10, color=INK)
