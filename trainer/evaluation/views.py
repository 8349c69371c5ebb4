"""Test-time augmentation: an image's prediction is the mean probability over several views of it.

`flip` is the image and its mirror image, which is mmpretrain's `--tta`. `five_crop` scales the image to 8/7 of the
model's input size and takes the centre and the four corners of the centre square; `ten_crop` adds their mirror images
(Krizhevsky et al. 2012).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from dali_pipelines.transforms import Preprocess

Views = Literal["none", "flip", "five_crop", "ten_crop"]
View = TypeVar("View")
VIEWS: tuple[str, ...] = get_args(Views)
_CROP_SHARE = 0.875  # of the side that crops are taken from: 224 of 256 pixels


def loaded_size(preprocess: Preprocess, views: Views) -> Preprocess:
    """What to load images with, so that there is something to crop from."""
    if views not in ("five_crop", "ten_crop"):
        return preprocess
    return replace(preprocess, image_size=round(preprocess.image_size / _CROP_SHARE), crop_pct=1.0)


def views_of(images: Tensor, views: Views, *, size: int) -> list[Tensor]:
    """The views of (B, 3, H, W) images, each (B, 3, size, size); the first is the plain one."""
    if views == "none":
        return [images]
    if views == "flip":
        return [images, images.flip(-1)]
    far = images.shape[-1] - size
    corners = [(far // 2, far // 2), (0, 0), (0, far), (far, 0), (far, far)]
    crops = [images[..., top : top + size, left : left + size] for top, left in corners]
    return crops if views == "five_crop" else [*crops, *(crop.flip(-1) for crop in crops)]


def mean_log_probabilities(scores: Callable[[View], Tensor], views: Sequence[View]) -> Tensor:
    """(B, C) logits: of one view its own `scores`; of several the logarithm of their mean probabilities."""
    if len(views) == 1:
        return scores(views[0])
    each_vbc = torch.stack([scores(view).double().log_softmax(dim=1) for view in views])
    return each_vbc.logsumexp(dim=0) - torch.log(torch.tensor(len(views), dtype=torch.float64, device=each_vbc.device))
