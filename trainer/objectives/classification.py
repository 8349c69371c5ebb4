"""Supervised classification."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dali_pipelines.loader import Batch


class Classification:
    """Cross-entropy of a classifier's logits, with optional label smoothing (https://arxiv.org/abs/1512.00567)."""

    def __init__(self, *, label_smoothing: float) -> None:
        self._label_smoothing = label_smoothing

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of this rank's samples."""
        logits = engine(batch.images)  # (B, C)
        return F.cross_entropy(logits.float(), batch.labels, label_smoothing=self._label_smoothing)
