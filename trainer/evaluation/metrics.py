"""Metrics of classification, from what became of each image. `trainer.spec_checks.metrics` says what each one means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.errors import NonFiniteLossError, UnusableDataError
from trainer.evaluation.calibration import calibration_bins
from trainer.evaluation.outcomes import NOT_A_NUMBER, Outcomes


class NonFiniteOutputError(NonFiniteLossError):
    """The model's output is not a number."""


def accuracy_metrics(outcomes: Outcomes, class_names: Sequence[str]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """top1, top5, mean_per_class, macro_f1 and worst_class, and the per-class table.

    The last three are over the classes that have samples. F1 counts images of other classes that were taken for one
    of these among its false positives, as WILDS does (https://arxiv.org/abs/2012.07421).

    Raises:
        UnusableDataError: there is no sample.
        NonFiniteOutputError: the model gave NaN for one.
    """
    if not len(outcomes.labels):
        raise UnusableDataError("there is no labelled image to evaluate on")
    num_bad = int((outcomes.positions == NOT_A_NUMBER).sum())
    if num_bad:
        raise NonFiniteOutputError(f"the model's output is not a number for {num_bad} of {len(outcomes.labels)} images")
    table = per_class_table(outcomes, class_names)
    present = [row["accuracy"] for row in table if row["num_samples"]]
    metrics = {
        "top1": accuracy(outcomes.positions, k=1),
        "top5": accuracy(outcomes.positions, k=5),
        "mean_per_class": sum(present) / len(present),
        "macro_f1": macro_f1(outcomes.labels, outcomes.predicted),
        "worst_class": min(present),
    }
    return metrics, table


def domain_metrics(
    outcomes: Outcomes, domains_n: np.ndarray, domain_names: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """mean_per_domain and worst_domain, and a row a domain that has images: name, num_samples, accuracy.

    The worst domain is what FMoW of WILDS is judged by (https://arxiv.org/abs/2012.07421).

    Args:
        domains_n: (N,) the domain of each outcome, -1 for none.
    """
    table = []
    for number, name in enumerate(domain_names):
        correct = outcomes.correct[domains_n == number]
        if len(correct):
            table.append({"name": name, "num_samples": len(correct), "accuracy": float(correct.mean())})
    accuracies = [row["accuracy"] for row in table]
    if not accuracies:
        return {}, []
    return {"mean_per_domain": sum(accuracies) / len(accuracies), "worst_domain": min(accuracies)}, table


def probability_metrics(outcomes: Outcomes) -> dict[str, float]:
    """cross_entropy and ece.

    Raises:
        NonFiniteOutputError: a loss is infinite or not a number.
    """
    num_bad = int((~np.isfinite(outcomes.losses)).sum())
    if num_bad:
        raise NonFiniteOutputError(f"the cross-entropy is not finite for {num_bad} of {len(outcomes.losses)} images")
    bins = calibration_bins(outcomes.confidences, outcomes.correct)
    return {"cross_entropy": float(outcomes.losses.mean()), "ece": bins.expected_error}


def accuracy(positions_n: np.ndarray, *, k: int) -> float:
    """Share of samples whose true class is among the first k; with k classes or fewer that is all of them."""
    return float((positions_n < k).mean())


def macro_f1(labels_n: np.ndarray, predicted_n: np.ndarray) -> float:
    """Mean F1 over the classes that have samples; 0 for a class that is never predicted rightly."""
    size = int(max(labels_n.max(), predicted_n.max())) + 1
    totals = np.bincount(labels_n, minlength=size)
    predictions = np.bincount(predicted_n, minlength=size)
    hits = np.bincount(labels_n[labels_n == predicted_n], minlength=size)
    present = totals > 0
    return float((2 * hits[present] / (totals + predictions)[present]).mean())


def per_class_table(outcomes: Outcomes, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class: name, num_samples and top-1 accuracy, which is None for a class without samples."""
    totals = np.bincount(outcomes.labels, minlength=len(class_names)).tolist()
    hits = np.bincount(outcomes.labels[outcomes.correct], minlength=len(class_names)).tolist()
    return [
        {"name": name, "num_samples": total, "accuracy": hit / total if total else None}
        for name, total, hit in zip(class_names, totals, hits, strict=True)
    ]


def confusion_counts(outcomes: Outcomes, num_classes: int) -> np.ndarray:
    """(C, C) int64 counts: row the true class, column the prediction."""
    cells = np.bincount(outcomes.labels * num_classes + outcomes.predicted, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)
