"""Losses of image-text pairs against each other, over the features of all ranks.

Each rank scores its own pairs against everybody's features; the mean over ranks, which DeepSpeed takes of the
gradients, is the loss of the whole batch.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from trainer.objectives.gathering import gather, gather_features, rank_and_size

SameClass = Literal["negative", "positive", "ignore"]


def info_nce(
    image_features: Tensor,
    text_features: Tensor,
    *,
    logit_scale: Tensor,
    identities: Tensor | None = None,
    same_class: SameClass = "negative",
) -> Tensor:
    """Half the cross-entropy of images to texts plus half that of texts to images (https://arxiv.org/abs/2103.00020).

    Args:
        image_features: (B, D), unit norm. text_features: (B, D), unit norm, row i belonging to image i.
        logit_scale: scalar or (1,), the multiplier of the cosine, not its logarithm.
        identities: (B, K) int64; pairs with an equal entry, not below 0, in some column are of the same class.
        same_class: such pairs are negatives, share the target evenly (UniCL, https://arxiv.org/abs/2204.03610), or
            are left out of the denominator.
    """
    image_features, text_features = image_features.float(), text_features.float()
    all_images = gather_features(image_features)  # (W * B, D)
    all_texts = gather_features(text_features)
    image_logits = logit_scale.float() * image_features @ all_texts.T  # (B, W * B)
    text_logits = logit_scale.float() * text_features @ all_images.T
    own = _own_columns(image_features)
    if same_class == "negative" or identities is None:
        return (F.cross_entropy(image_logits, own) + F.cross_entropy(text_logits, own)) / 2
    same = related(identities, own=own)  # (B, W * B)
    if same_class == "ignore":
        left_out = same.scatter(1, own[:, None], False)
        image_logits, text_logits = (x.masked_fill(left_out, -torch.inf) for x in (image_logits, text_logits))
        return (F.cross_entropy(image_logits, own) + F.cross_entropy(text_logits, own)) / 2
    targets = F.normalize(same.float(), p=1, dim=1)
    return (F.cross_entropy(image_logits, targets) + F.cross_entropy(text_logits, targets)) / 2


def siglip(
    image_features: Tensor,
    text_features: Tensor,
    *,
    logit_scale: Tensor,
    logit_bias: Tensor,
    identities: Tensor | None = None,
    same_class: SameClass = "negative",
) -> Tensor:
    """A sigmoid for each image and text of the batch, summed over texts (https://arxiv.org/abs/2303.15343).

    The arguments are those of `info_nce`, and `logit_bias`, scalar or (1,), is added to the logits. Pairs of the same
    class are negatives, positives, or left out.
    """
    image_features, text_features = image_features.float(), text_features.float()
    all_texts = gather_features(text_features)  # (W * B, D)
    logits = logit_scale.float() * image_features @ all_texts.T + logit_bias.float()  # (B, W * B)
    own = _own_columns(image_features)
    positive = torch.zeros_like(logits, dtype=torch.bool).scatter(1, own[:, None], True)
    counted = torch.ones_like(positive)
    if same_class != "negative" and identities is not None:
        same = related(identities, own=own)
        if same_class == "positive":
            positive = same
        else:
            counted = positive | ~same
    losses = -F.logsigmoid(torch.where(positive, logits, -logits))
    return (losses * counted).sum() / len(image_features)


def related(identities: Tensor, *, own: Tensor) -> Tensor:
    """(B, W * B) bool: which samples of all ranks share an identity with this rank's; each does with itself."""
    everybody = gather(identities)  # (W * B, K)
    equal = (identities[:, None] == everybody[None]) & (identities[:, None] >= 0)
    return equal.any(dim=2).scatter(1, own[:, None], True)


def _own_columns(features: Tensor) -> Tensor:
    """(B,) where this rank's samples stand among those of all ranks."""
    batch_size = features.shape[0]
    return torch.arange(batch_size, device=features.device) + rank_and_size()[0] * batch_size
