"""The metrics of evaluation by name: which task measures each, and which way is better. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["zero_shot", "classification", "retrieval", "linear_probe", "knn"]
"""What can be measured. `classification` is a classifier's own; the others are an image-text model's, or its
features'."""


@dataclass(frozen=True)
class Metric:
    """One metric."""

    tasks: tuple[Task, ...]
    """Tasks that measure it."""
    meaning: str
    """One clause."""
    higher_is_better: bool = True
    kind: Literal["fraction", "number"] = "fraction"
    """Whether it lies between 0 and 1 and is shown in percent."""

    def merit(self, value: float) -> float:
        """The value, turned so that more is better."""
        return value if self.higher_is_better else -value


_ACCURACIES = {
    "top1": "share of images whose class is the first prediction",
    "top5": "share of images whose class is among the first five predictions",
    "mean_per_class": "mean over classes of each class's accuracy",
    "macro_f1": "mean over the classes that have images of each class's F1",
    "worst_class": "accuracy of the class that has the lowest, among those that have images",
    "mean_per_domain": "mean over the domains of the data, where they name any, of each one's accuracy",
    "worst_domain": "accuracy of the domain that has the lowest",
}
_RECALLS = {
    **{f"image_to_text_r{k}": f"share of images with a caption of theirs among the first {k}" for k in (1, 5, 10)},
    **{f"text_to_image_r{k}": f"share of captions whose image is among the first {k}" for k in (1, 5, 10)},
    "mean_recall": "mean of the six recalls",
}
_OWN: tuple[Task, ...] = ("zero_shot", "classification")
_FROM_FEATURES: tuple[tuple[Task, str], ...] = (("linear_probe", "by a linear probe"), ("knn", "by nearest neighbours"))

METRICS: dict[str, Metric] = {
    **{name: Metric(_OWN, meaning) for name, meaning in _ACCURACIES.items()},
    "cross_entropy": Metric(
        _OWN, "mean negative log-likelihood, in nats, of the right class", higher_is_better=False, kind="number"
    ),
    "ece": Metric(_OWN, "expected calibration error over 15 bins of equal width", higher_is_better=False),
    **{name: Metric(("retrieval",), meaning) for name, meaning in _RECALLS.items()},
    **{
        f"{task}_{name}": Metric((task,), f"{meaning}, {of}")
        for task, of in _FROM_FEATURES
        for name, meaning in _ACCURACIES.items()
    },
}
"""Everything that evaluation measures."""


def metric_named(name: str) -> Metric:
    """The metric of `NAME` or `DATASET/NAME`.

    Raises:
        KeyError: there is none.
    """
    return METRICS[name.rpartition("/")[2]]


def shown(name: str, value: float) -> str:
    """A value of `NAME` or `DATASET/NAME` for people: a fraction in percent, anything else as it is."""
    metric = METRICS.get(name.rpartition("/")[2])
    return f"{100 * value:.2f} %" if metric is not None and metric.kind == "fraction" else f"{value:.4f}"
