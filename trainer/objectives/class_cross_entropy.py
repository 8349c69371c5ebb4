"""Cross-entropy of images over the texts of all classes, with both towers trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dali_pipelines.loader import Batch
from dali_pipelines.sampler import step_draws


class ClassCrossEntropy:
    """FLYP's `ce_ablation` (https://arxiv.org/abs/2212.00638, https://github.com/locuslab/FLYP).

    Every micro-batch runs the texts of all classes through the text tower. The template of a class is drawn anew for
    each optimizer step, the same on every rank.
    """

    def __init__(self, class_tokens: Tensor, *, seed: int) -> None:
        """`class_tokens` is (C, T, L): every class in every template, on the device."""
        self._class_tokens = class_tokens
        self._seed = seed
        self.state: Mapping[str, Tensor] = {}

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of this rank's samples."""
        image_features, text_features, logit_scale = engine(batch.images, self._drawn_tokens(batch.step))[:3]
        logits = logit_scale.float() * image_features.float() @ text_features.float().T  # (B, C)
        return F.cross_entropy(logits, batch.labels)

    def _drawn_tokens(self, step: int) -> Tensor:
        """(C, L): one template for each class."""
        num_classes, num_templates = self._class_tokens.shape[:2]
        uniforms = torch.from_numpy(step_draws(step, "templates", num_classes, seed=self._seed))
        drawn = (uniforms * num_templates).long().to(self._class_tokens.device)
        return self._class_tokens[torch.arange(num_classes, device=drawn.device), drawn]
