"""Supervised classification."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dali_pipelines.loader import Batch
from trainer.objectives.mixing import Mixing, mix, mixed_targets


class Classification:
    """Cross-entropy of a classifier's logits, with optional label smoothing (https://arxiv.org/abs/1512.00567)."""

    def __init__(self, *, label_smoothing: float, mixing: Mixing) -> None:
        self._label_smoothing, self._mixing = label_smoothing, mixing
        self.state: Mapping[str, Tensor] = {}

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of this rank's samples, mixed or not."""
        if not self._mixing.is_on:
            logits = engine(batch.images)  # (B, C)
            return F.cross_entropy(logits.float(), batch.labels, label_smoothing=self._label_smoothing)
        assert batch.mix_draws is not None
        images, own_share = mix(batch.images, mixing=self._mixing, draws=batch.mix_draws)
        logits = engine(images).float()
        targets = mixed_targets(
            batch.labels, num_classes=logits.shape[1], own_share=own_share, label_smoothing=self._label_smoothing
        )
        return F.cross_entropy(logits, targets)
