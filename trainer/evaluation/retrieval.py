"""Image-text retrieval with any number of captions an image.

R@k of an image: whether any of its captions is among the k texts most like it. R@k of a caption: whether its image is
among the k images most like it. Of equal similarities the lower index ranks first. The similarity matrix is made a
strip at a time, so that memory stays bounded however many images and captions there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.errors import UnusableDataError
from trainer.evaluation.metrics import NonFiniteOutputError

KS = (1, 5, 10)
MAX_STRIP_ELEMENTS = 2**24  # 64 MiB of float32 similarities at a time, and a few masks of its shape


def retrieval_metrics(
    image_features_nd: Tensor,
    text_features_md: Tensor,
    caption_images_m: Tensor,
    *,
    max_strip_elements: int = MAX_STRIP_ELEMENTS,
) -> dict[str, float]:
    """image_to_text_r1/r5/r10, text_to_image_r1/r5/r10 and their mean, mean_recall.

    Args:
        image_features_nd: (N, D), unit norm.
        text_features_md: (M, D), unit norm.
        caption_images_m: (M,) int64 index of each caption's image. Images without captions are distractors only.
        max_strip_elements: similarities held at a time.

    Raises:
        UnusableDataError: there is no caption.
        NonFiniteOutputError: a feature is not a number.
    """
    if not len(caption_images_m):
        raise UnusableDataError("there is no caption to evaluate on")
    for kind, features in (("image", image_features_nd), ("text", text_features_md)):
        num_bad = int(features.isnan().any(dim=1).sum())
        if num_bad:
            raise NonFiniteOutputError(f"the model's {kind} features are not numbers for {num_bad} of {len(features)}")
    captioned_n = torch.unique(caption_images_m)
    text_index_m = torch.arange(len(caption_images_m), device=caption_images_m.device)
    positions = {
        "image_to_text": _best_positions(
            image_features_nd[captioned_n], captioned_n, text_features_md, caption_images_m, max_strip_elements
        ),
        "text_to_image": _best_positions(
            text_features_md,
            caption_images_m,
            image_features_nd,
            torch.arange(len(image_features_nd), device=text_index_m.device),
            max_strip_elements,
        ),
    }
    metrics = {f"{way}_r{k}": (p < k).double().mean().item() for way, p in positions.items() for k in KS}
    return {**metrics, "mean_recall": sum(metrics.values()) / len(metrics)}


def _best_positions(
    queries_qd: Tensor, query_groups_q: Tensor, items_md: Tensor, item_groups_m: Tensor, max_strip_elements: int
) -> Tensor:
    """Position (Q,) of each query's best item of its own group, among all items."""
    strip = max(1, max_strip_elements // len(items_md))
    parts = [
        _positions_in_strip(queries_sd @ items_md.T, groups_s, item_groups_m)
        for queries_sd, groups_s in zip(queries_qd.split(strip), query_groups_q.split(strip), strict=True)
    ]
    return torch.cat(parts)


def _positions_in_strip(scores_sm: Tensor, query_groups_s: Tensor, item_groups_m: Tensor) -> Tensor:
    own_sm = query_groups_s[:, None] == item_groups_m
    best_s1 = scores_sm.masked_fill(~own_sm, -torch.inf).amax(dim=1, keepdim=True)
    equal_sm = scores_sm == best_s1
    index_m = torch.arange(scores_sm.shape[1], device=scores_sm.device)
    best_index_s1 = index_m.expand_as(scores_sm).masked_fill(~(own_sm & equal_sm), len(index_m)).amin(1, keepdim=True)
    return ((scores_sm > best_s1) | (equal_sm & (index_m < best_index_s1))).sum(dim=1)
