"""Accuracy from the positions of the true classes in each sample's ranking.

Ties are broken by index: of two equal scores the lower index ranks first, as in a stable sort. A sample needs one
integer only, its true class's position (0 is best), so ranks exchange integers and not logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.errors import NonFiniteLossError, UnusableDataError

NOT_A_NUMBER = -1  # position of a sample with a NaN among its scores


class NonFiniteOutputError(NonFiniteLossError):
    """The model's output is not a number."""


def label_positions(scores_bc: Tensor, labels_b: Tensor) -> Tensor:
    """Position (B,) int64 of each true class among (B, C) scores, from 0; -1 if any score of the row is NaN."""
    own_b1 = scores_bc.gather(1, labels_b[:, None])
    index_c = torch.arange(scores_bc.shape[1], device=scores_bc.device)
    before_bc = (scores_bc > own_b1) | ((scores_bc == own_b1) & (index_c < labels_b[:, None]))
    return before_bc.sum(dim=1).masked_fill(scores_bc.isnan().any(dim=1), NOT_A_NUMBER)


def accuracy(positions_n: Tensor, *, k: int) -> float:
    """Share of samples whose true class is among the first k; with k classes or fewer that is all of them."""
    return (positions_n < k).double().mean().item()


def per_class_table(positions_n: Tensor, labels_n: Tensor, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row a class: name, num_samples and top-1 accuracy, which is None for a class without samples."""
    totals = torch.bincount(labels_n, minlength=len(class_names)).tolist()
    hits = torch.bincount(labels_n[positions_n == 0], minlength=len(class_names)).tolist()
    return [
        {"name": name, "num_samples": total, "accuracy": hit / total if total else None}
        for name, total, hit in zip(class_names, totals, hits, strict=True)
    ]


def classification_metrics(
    positions_n: Tensor, labels_n: Tensor, class_names: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """top1, top5 and mean_per_class (over the classes that have samples), and the per-class table.

    Raises:
        UnusableDataError: there is no sample.
        NonFiniteOutputError: the model gave NaN for one.
    """
    if not len(positions_n):
        raise UnusableDataError("there is no labelled image to evaluate on")
    num_bad = int((positions_n == NOT_A_NUMBER).sum())
    if num_bad:
        raise NonFiniteOutputError(f"the model's output is not a number for {num_bad} of {len(positions_n)} images")
    table = per_class_table(positions_n, labels_n, class_names)
    present = [row["accuracy"] for row in table if row["num_samples"]]
    metrics = {
        "top1": accuracy(positions_n, k=1),
        "top5": accuracy(positions_n, k=5),
        "mean_per_class": sum(present) / len(present),
    }
    return metrics, table
