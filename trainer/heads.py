"""What sits on a tower: a classifier's linear layer, and projection heads."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from trainer.freezing import HoldsTowers
from trainer.spec import ProjectionHead as ProjectionHeadSpec

Features = Literal["pooled", "mean_patches", "projected"]


class ImageClassifier(HoldsTowers):
    """Logits of a linear head on an image tower's features.

    For a ViT tower of open_clip pooled features are taken after `ln_post` and before the projection into the shared
    space, which is where timm's `vit_*_clip_*` models put their head: the export needs no translation.
    """

    def __init__(self, trunk: nn.Module, *, num_features: int, num_classes: int, unit_norm: bool = False) -> None:
        """Put a head on `trunk`; with `unit_norm` it sees features scaled to unit length."""
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(num_features, num_classes)
        self.unit_norm = unit_norm
        self.held_towers = ()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, num_classes)."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> what the head sees, (B, num_features)."""
        features = self.trunk(images)
        return F.normalize(features, dim=-1) if self.unit_norm else features


class ProjectionHead(nn.Sequential):
    """Linear, or Linear-GELU-...-Linear, with biases and without normalisation; the output has unit length.

    DINO's head (https://arxiv.org/abs/2104.14294) without its last layer, as ITRA puts it on locked towers.
    """

    def __init__(self, input_size: int, *, layers: int, hidden_size: int, output_size: int) -> None:
        sizes = [input_size, *[hidden_size] * (layers - 1), output_size]
        parts: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:], strict=False):
            parts += [nn.Linear(before, after), nn.GELU()]
        super().__init__(*parts[:-1])
        for linear in parts[::2]:
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    @classmethod
    def of(cls, spec: ProjectionHeadSpec, *, tower_size: int) -> ProjectionHead:
        """The head that `spec` describes, on a tower whose features have `tower_size` dimensions."""
        return cls(
            tower_size,
            layers=spec.layers,
            hidden_size=spec.hidden_size,
            output_size=spec.output_size or tower_size,
        )

    @property
    def output_size(self) -> int:
        """Dimension of what comes out."""
        return int(self[-1].out_features)

    def forward(self, features: Tensor) -> Tensor:
        """(B, input_size) -> (B, output_size), unit norm."""
        return F.normalize(super().forward(features), dim=-1)


def init_fresh_head(head: nn.Linear, *, std: float = 0.02, scale: float = 1e-3) -> None:
    """Small random weights, so that the first loss is close to ln(num_classes).

    As FT-CLIP does: weights truncated normal of `std`, biases as torch draws them, both times `scale`.
    """
    head.reset_parameters()
    nn.init.trunc_normal_(head.weight, std=std)
    with torch.no_grad():
        head.weight.mul_(scale)
        head.bias.mul_(scale)


def init_zero_shot_head(
    head: nn.Linear,
    *,
    class_weights_dc: Tensor,
    projection_fd: Tensor | None,
    logit_scale: float,
    feature_norm: float,
) -> None:
    """Start a head from the text tower's class embeddings, folded with the image projection.

    A zero-shot classifier divides each image's embedding by its norm. On features of unit norm (`feature_norm` 1) the
    head's logits are the zero-shot classifier's. On others it divides by the mean norm instead: it ranks the classes of
    every image exactly as the zero-shot classifier does, at nearly its temperature.

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
