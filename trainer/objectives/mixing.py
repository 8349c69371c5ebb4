"""Mixup and CutMix of neighbouring images, one draw for each pair, as in timm's `pair` mode.

A pair is two positions of the training stream, 2i and 2i + 1, so that the mixed images depend neither on the ranks
nor on the micro-batch. Mixup: https://arxiv.org/abs/1710.09412. CutMix: https://arxiv.org/abs/1905.04899.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.special import betaincinv
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


def mix(images: Tensor, *, mixing: Mixing, draws: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mix each image with its neighbour.

    Args:
        images: (B, C, H, W), B even, left as they are.
        draws: (B, 5) uniform numbers in [0, 1); those of a pair's first image decide everything.

    Returns:
        The mixed images, and the share of each that is its own: (B,) float32 on the device.
    """
    share, boxes = _draw(draws[::2], mixing=mixing, size=(images.shape[-2], images.shape[-1]))
    has_box = boxes[:, 1] > boxes[:, 0]
    weights = _weights(np.where(has_box, 1.0, share), boxes, size=images.shape[-2:], device=images.device)
    mixed = torch.lerp(_neighbours(images), images, weights.to(images.dtype).repeat_interleave(2, 0))
    own_share = torch.from_numpy(share.astype(np.float32)).to(images.device, non_blocking=True)
    return mixed, own_share.repeat_interleave(2)


def mixed_targets(labels: Tensor, *, num_classes: int, own_share: Tensor, label_smoothing: float) -> Tensor:
    """(B,) labels and shares -> (B, num_classes) smoothed targets of the mixed images."""
    targets = F.one_hot(labels, num_classes).float() * (1 - label_smoothing) + label_smoothing / num_classes
    return own_share[:, None] * targets + (1 - own_share[:, None]) * _neighbours(targets)


def _neighbours(values: Tensor) -> Tensor:
    """The other one of each pair."""
    return values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _draw(draws: np.ndarray, *, mixing: Mixing, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Shares (P,) and boxes (P, 4) top, bottom, left, right of what is pasted; empty boxes where images are blended."""
    is_mixed, chooses, quantile, centre_y, centre_x = draws.T
    both = mixing.mixup > 0 and mixing.cutmix > 0
    cut = chooses < mixing.switch_probability if both else np.full(len(draws), mixing.cutmix > 0)
    alpha = np.where(cut, mixing.cutmix, mixing.mixup)
    share = np.where(is_mixed < mixing.probability, betaincinv(alpha, alpha, quantile), 1.0)
    side = np.where(cut, np.sqrt(1 - share), 0.0)
    boxes = np.stack([*_span(size[0], side, centre_y), *_span(size[1], side, centre_x)], axis=1)
    boxes[(boxes[:, 0] == boxes[:, 1]) | (boxes[:, 2] == boxes[:, 3])] = 0
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
    return np.where(cut, 1 - area / (size[0] * size[1]), share), boxes


def _span(size: int, side: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where boxes begin and end, their centres anywhere; what lies outside the image is lost."""
    length, middle = (size * side).astype(np.int64), (size * centre).astype(np.int64)
    return np.maximum(0, middle - length // 2), np.minimum(size, middle + (length + 1) // 2)


def _weights(share: np.ndarray, boxes: np.ndarray, *, size: torch.Size, device: torch.device) -> Tensor:
    """How much of each pixel is the image's own: (P, 1, H, W) float32."""
    top, bottom, left, right = torch.from_numpy(boxes).to(device, non_blocking=True).T[..., None]  # (P, 1) each
    rows, columns = torch.arange(size[0], device=device), torch.arange(size[1], device=device)
    inside_rows, inside_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    pasted = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    own = torch.from_numpy(share.astype(np.float32)).to(device, non_blocking=True)
    return torch.where(pasted, 0.0, own[:, None, None, None])
