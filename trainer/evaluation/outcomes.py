"""What became of each image in a classification: all that accuracy, calibration and a list of predictions need.

Ranks exchange these few numbers an image, and not its scores, however many classes there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NOT_A_NUMBER = -1  # position of a sample with a NaN among its scores
_FIXED = 4  # position, predicted class, confidence and loss come before the top classes


@dataclass(frozen=True)
class Outcomes:
    """N images that have a label, in manifest order."""

    rows: np.ndarray
    """(N,) int64 manifest rows."""
    labels: np.ndarray
    """(N,) int64 true classes."""
    positions: np.ndarray
    """(N,) int64 position of the true class in the ranking, 0 the best; -1 where a score was not a number."""
    predicted: np.ndarray
    """(N,) int64 first class of the ranking."""
    confidences: np.ndarray
    """(N,) float64 probability of that class."""
    losses: np.ndarray
    """(N,) float64 negative log-likelihood of the true class, in nats."""
    top_classes: np.ndarray
    """(N, K) int64 first K classes of the ranking; K is 0 unless they were asked for."""
    top_confidences: np.ndarray
    """(N, K) float64 their probabilities."""

    @property
    def correct(self) -> np.ndarray:
        """(N,) bool: whether the prediction was right."""
        return self.positions == 0


def label_positions(scores_bc: Tensor, labels_b: Tensor) -> Tensor:
    """Position (B,) int64 of each true class among (B, C) scores, from 0; -1 if any score of the row is NaN.

    Ties are broken by index: of two equal scores the lower index ranks first, as in a stable sort.
    """
    own_b1 = scores_bc.gather(1, labels_b[:, None])
    index_c = torch.arange(scores_bc.shape[1], device=scores_bc.device)
    before_bc = (scores_bc > own_b1) | ((scores_bc == own_b1) & (index_c < labels_b[:, None]))
    return before_bc.sum(dim=1).masked_fill(scores_bc.isnan().any(dim=1), NOT_A_NUMBER)


def pack(scores_bc: Tensor, labels_b: Tensor, *, top_k: int = 0) -> Tensor:
    """(B, 4 + 2 K) float64 of logits (B, C) and labels (B,): what `unpack` makes `Outcomes` of."""
    log_probabilities_bc = scores_bc.double().log_softmax(dim=1)
    top_k = min(top_k, scores_bc.shape[1])
    order_bk = scores_bc.sort(dim=1, descending=True, stable=True).indices[:, : max(top_k, 1)]
    top_bk = log_probabilities_bc.gather(1, order_bk).exp()
    columns = [
        label_positions(scores_bc, labels_b),
        order_bk[:, 0],
        top_bk[:, 0],
        -log_probabilities_bc.gather(1, labels_b[:, None])[:, 0],
    ]
    packed = [torch.stack([column.double() for column in columns], dim=1)]
    return torch.cat([*packed, order_bk[:, :top_k].double(), top_bk[:, :top_k]], dim=1)


def packed_width(top_k: int) -> int:
    """Numbers an image that `pack` gives."""
    return _FIXED + 2 * top_k


def unpack(packed_np: Tensor, *, rows: np.ndarray, labels_n: np.ndarray) -> Outcomes:
    """Outcomes of packed rows; images without a label (-1) are left out."""
    kept = labels_n >= 0
    values = packed_np.cpu().numpy()[kept]
    top_k = (values.shape[1] - _FIXED) // 2
    return Outcomes(
        rows=rows[kept],
        labels=labels_n[kept].astype(np.int64),
        positions=values[:, 0].astype(np.int64),
        predicted=values[:, 1].astype(np.int64),
        confidences=values[:, 2],
        losses=values[:, 3],
        top_classes=values[:, _FIXED : _FIXED + top_k].astype(np.int64),
        top_confidences=values[:, _FIXED + top_k :],
    )
