"""Image classifiers: an image tower and one linear head."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageClassifier(nn.Module):
    """Logits of a linear head on an image tower's pooled features.

    For a ViT tower of open_clip the features are taken after `ln_post` and before the projection into the shared
    space, which is where timm's `vit_*_clip_*` models put their head: the export needs no translation.
    """

    def __init__(self, trunk: nn.Module, *, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, num_classes)."""
        return self.head(self.trunk(images))


def init_fresh_head(head: nn.Linear, *, std: float = 0.02, scale: float = 1e-3) -> None:
    """Small random weights, so that the first loss is close to ln(num_classes)."""
    nn.init.trunc_normal_(head.weight, std=std)
    nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.weight.mul_(scale)


def init_zero_shot_head(
    head: nn.Linear,
    *,
    class_weights_dc: Tensor,
    projection_fd: Tensor | None,
    logit_scale: float,
    feature_norm: float,
) -> None:
    """Start a head from the text tower's class embeddings, folded with the image projection.

    A zero-shot classifier divides each image's embedding by its norm. The head divides by the mean norm instead:
    it ranks the classes of every image exactly as the zero-shot classifier does, at nearly its temperature.

    Args:
        head: (F -> C) layer to overwrite.
        class_weights_dc: (D, C) unit-norm class embeddings.
        projection_fd: (F, D) projection of the image tower, or None if its features are already in the shared space.
        logit_scale: exp of the learned logit scale.
        feature_norm: mean norm of the projected image embeddings.
    """
    weight_fc = class_weights_dc if projection_fd is None else projection_fd @ class_weights_dc
    with torch.no_grad():
        head.weight.copy_(weight_fc.T * (logit_scale / feature_norm))
        head.bias.zero_()
