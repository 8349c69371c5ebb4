"""FLYP: the contrastive loss between images and prompts of their class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dali_pipelines.loader import Batch
from trainer.objectives.contrastive import info_nce


class ClassPrompts:
    """InfoNCE of images against a prompt of their class, one template a sample (https://arxiv.org/abs/2212.00638).

    As published, images of one class in a batch count as each other's negatives.
    """

    def __init__(
        self,
        *,
        tokenize: Callable[[Sequence[str]], Tensor],
        class_names: Sequence[str],
        templates: Sequence[str],
        device: torch.device,
    ) -> None:
        prompts = [template.format(name) for name in class_names for template in templates]
        self._num_templates = len(templates)
        self._tokens = tokenize(prompts).unflatten(0, (len(class_names), len(templates))).to(device)  # (C, T, L)

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of this rank's samples against the prompts and images of all ranks."""
        drawn = torch.as_tensor(batch.text_draws.astype("int64") % self._num_templates, device=self._tokens.device)
        tokens = self._tokens[batch.labels, drawn]  # (B, L)
        image_features, text_features, logit_scale = engine(batch.images, tokens)[:3]
        return info_nce(image_features, text_features, logit_scale=logit_scale)
