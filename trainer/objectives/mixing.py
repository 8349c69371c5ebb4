"""Mixup and CutMix on a batch and its mirror image, one draw a batch, as timm's `batch` mode does.

Mixup: https://arxiv.org/abs/1710.09412. CutMix: https://arxiv.org/abs/1905.04899.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """How often and how strongly images are mixed; an alpha of 0 turns its kind off."""

    mixup: float
    cutmix: float
    probability: float = 1.0
    switch_probability: float = 0.5

    @property
    def is_on(self) -> bool:
        """Whether anything is ever mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


def mix(images: Tensor, *, mixing: Mixing, draw: float) -> tuple[Tensor, float]:
    """Mix each image with the one at the same place from the end of the batch.

    Args:
        images: (B, C, H, W), left as they are.
        draw: a uniform number in [0, 1) that decides everything.

    Returns:
        The mixed images, and the share of each that is its own.
    """
    generator = np.random.Generator(np.random.Philox(key=int(draw * 2**53)))
    if generator.random() >= mixing.probability:
        return images, 1.0
    both = mixing.mixup > 0 and mixing.cutmix > 0
    cut = generator.random() < mixing.switch_probability if both else mixing.cutmix > 0
    alpha = mixing.cutmix if cut else mixing.mixup
    share = float(generator.beta(alpha, alpha))
    if not cut:
        return images * share + images.flip(0) * (1 - share), share
    return _cut(images, share, generator)


def mixed_targets(labels: Tensor, *, num_classes: int, own_share: float, label_smoothing: float) -> Tensor:
    """(B,) labels -> (B, num_classes) smoothed targets of the mixed images."""
    targets = F.one_hot(labels, num_classes).float() * (1 - label_smoothing) + label_smoothing / num_classes
    return own_share * targets + (1 - own_share) * targets.flip(0)


def _cut(images: Tensor, share: float, generator: np.random.Generator) -> tuple[Tensor, float]:
    """Paste a box of the mirrored batch, its centre anywhere; what lies outside the image is lost."""
    height, width = images.shape[-2:]
    side = float(np.sqrt(1 - share))
    top, bottom = _span(height, side, generator)
    left, right = _span(width, side, generator)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _span(size: int, fraction: float, generator: np.random.Generator) -> tuple[int, int]:
    length, centre = int(size * fraction), int(generator.integers(size))
    return max(0, centre - length // 2), min(size, centre + (length + 1) // 2)
