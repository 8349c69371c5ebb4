"""The curve of WiSE-FT: what each point between the starting and the tuned model scores.

`Curve.write` leaves `curve.json`, `curve.csv`, `curve.md` and `curve.png`, whose picture has accuracy in distribution
on its x axis and the mean over the shifted data sets on its y axis, as in https://arxiv.org/abs/2109.01903.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from trainer.evaluation.tables import Column, Table
from trainer.job_dir import write_json_atomically
from trainer.spec_checks.metrics import METRICS, metric_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 150


@dataclass(frozen=True)
class Point:
    """One place on the line."""

    alpha: float
    metrics: Mapping[str, float]
    """`DATASET/METRIC`."""


@dataclass(frozen=True)
class Curve:
    """Points by ascending alpha, measured alike."""

    points: tuple[Point, ...]
    metric: str
    """Which metric the table and picture show, such as `top1`."""
    in_distribution: str | None
    """The data set that is not shifted, or None."""

    @property
    def shifted(self) -> tuple[str, ...]:
        """The other data sets that were measured by the metric."""
        datasets = [name.removesuffix(f"/{self.metric}") for name in self.points[0].metrics if self._shows(name)]
        return tuple(name for name in datasets if name != self.in_distribution)

    def at(self, alpha: float) -> Point:
        """The point at `alpha`, which must be one of the curve's."""
        return next(point for point in self.points if point.alpha == alpha)

    def best(self, metric: str) -> Point:
        """The point that does best by `DATASET/METRIC`; of equally good ones the one nearest to the middle."""
        merit = metric_named(metric).merit
        return max(self.points, key=lambda point: (merit(point.metrics[metric]), -abs(point.alpha - 0.5)))

    def to_table(self, *, chosen: float | None) -> Table:
        """A row a point: the data set in distribution, the mean of the shifted ones, and each of these."""
        kind = METRICS[self.metric].kind
        columns = [Column("alpha", "number", 3), Column("exported")]
        columns += [Column(name, kind) for name in self._shown(self.points[0])]
        rows = tuple(
            (point.alpha, "*" if point.alpha == chosen else "", *self._shown(point).values()) for point in self.points
        )
        return Table(tuple(columns), rows, title=f"WiSE-FT, {self.metric}")

    def to_figure(self, *, chosen: float | None) -> Figure:
        """In distribution against shifted; where one of them is missing, the other against alpha."""
        from trainer.evaluation.figures import curve_figure

        inside, outside = self._inside_label(), self._outside_label()
        both = inside is not None and outside is not None
        points = []
        for point in self.points:
            x = self._inside(point) if both else point.alpha
            y = self._mean_shifted(point) if outside is not None else self._inside(point)
            points.append((f"{point.alpha:g}", x, y))
        figure = curve_figure(
            points,
            x_label=inside if both else "alpha: from the start (0) to the tuned model (1)",
            y_label=outside or inside,
            title="WiSE-FT by alpha" + ("" if chosen is None else f" (exported: {chosen:g})"),
            highlight=None if chosen is None else f"{chosen:g}",
        )
        if not both:
            figure.axes[0].xaxis.set_major_formatter("{x:g}")
        return figure

    def to_json(self, *, chosen: float | None) -> dict[str, Any]:
        """Everything that was measured."""
        return {
            "exported_alpha": chosen,
            "metric": self.metric,
            "in_distribution": self.in_distribution,
            "shifted": list(self.shifted),
            "points": [
                {"alpha": point.alpha, "shown": self._shown(point), "metrics": dict(point.metrics)}
                for point in self.points
            ],
        }

    def write(self, folder: Path, *, chosen: float | None) -> list[Path]:
        """Leave the curve in `folder` as JSON, CSV, Markdown and PNG."""
        folder.mkdir(parents=True, exist_ok=True)
        table = self.to_table(chosen=chosen)
        paths = [folder / f"curve.{ending}" for ending in ("json", "csv", "md", "png")]
        write_json_atomically(paths[0], self.to_json(chosen=chosen))
        paths[1].write_text(table.to_csv(), encoding="utf-8")
        paths[2].write_text(f"# {table.title}\n\n{table.to_markdown()}\n\n![the curve](curve.png)\n", encoding="utf-8")
        figure = self.to_figure(chosen=chosen)
        figure.savefig(paths[3], dpi=_DOTS_PER_INCH, bbox_inches="tight", facecolor="white")
        return paths

    def _shows(self, name: str) -> bool:
        return name.endswith(f"/{self.metric}")

    def _shown(self, point: Point) -> dict[str, float]:
        """What the table says of a point, by column."""
        inside = {self.in_distribution: self._inside(point)} if self.in_distribution else {}
        mean = {"mean shifted": self._mean_shifted(point)} if len(self.shifted) > 1 else {}
        return inside | mean | {name: point.metrics[f"{name}/{self.metric}"] for name in self.shifted}

    def _inside(self, point: Point) -> float:
        return point.metrics[f"{self.in_distribution}/{self.metric}"]

    def _mean_shifted(self, point: Point) -> float:
        return fmean(point.metrics[f"{name}/{self.metric}"] for name in self.shifted)

    def _inside_label(self) -> str | None:
        return f"{self.in_distribution}, {self.metric}" if self.in_distribution else None

    def _outside_label(self) -> str | None:
        if len(self.shifted) < 2:
            return f"{self.shifted[0]}, {self.metric}" if self.shifted else None
        return f"mean of {len(self.shifted)} shifted data sets, {self.metric}"


def curve_of(points: Mapping[float, Mapping[str, float]], *, main_metric: str) -> Curve:
    """The curve through `points`, metrics by alpha.

    It shows the name of `main_metric` (`DATASET/METRIC`) if that is a fraction, or else top1 or mean_recall; the data
    set of `main_metric` is the one in distribution, if it was measured by that.
    """
    ordered = tuple(Point(alpha, points[alpha]) for alpha in sorted(points))
    dataset, _, wanted = main_metric.rpartition("/")
    measured = [name.rpartition("/")[2] for name in ordered[0].metrics]
    candidates = [name for name in (wanted, "top1", "mean_recall") if METRICS[name].kind == "fraction"]
    metric = next(name for name in candidates if name in measured)
    return Curve(ordered, metric, dataset if f"{dataset}/{metric}" in ordered[0].metrics else None)
