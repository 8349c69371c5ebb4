"""Symmetric InfoNCE on image-caption pairs, over the features of all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from dali_pipelines.loader import Batch


class Contrastive:
    """InfoNCE of images against one caption each, drawn by the sampler (https://arxiv.org/abs/2103.00020)."""

    def __init__(
        self, *, tokenize: Callable[[Sequence[str]], Tensor], captions: Callable[[int], list[str]], device: torch.device
    ) -> None:
        self._tokenize = tokenize
        self._captions = captions
        self._device = device

    def loss(self, engine: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of this rank's pairs against the texts and images of all ranks."""
        texts = []
        for row, draw in zip(batch.rows.tolist(), batch.text_draws.tolist(), strict=True):
            captions = self._captions(row)
            texts.append(captions[draw % len(captions)])
        tokens = self._tokenize(texts).to(self._device, non_blocking=True)
        image_features, text_features, logit_scale = engine(batch.images, tokens)[:3]
        return info_nce(image_features, text_features, logit_scale=logit_scale)


def info_nce(image_features: Tensor, text_features: Tensor, *, logit_scale: Tensor) -> Tensor:
    """Half the cross-entropy of images to texts plus half that of texts to images, pairs on the diagonal.

    Each rank scores its own pairs against everybody's features, and gradients flow back through the gather: the
    mean over ranks, which DeepSpeed takes of the gradients, is the loss of the whole batch.

    Args:
        image_features: (B, D), unit norm. text_features: (B, D), unit norm, row i belonging to image i.
        logit_scale: scalar or (1,), the multiplier of the cosine, not its logarithm.
    """
    image_features, text_features = image_features.float(), text_features.float()
    all_images, all_texts = gather_with_gradient(image_features), gather_with_gradient(text_features)  # (W * B, D)
    rank = dist.get_rank() if dist.is_initialized() else 0
    batch_size = image_features.shape[0]
    targets = torch.arange(batch_size, device=image_features.device) + rank * batch_size
    image_logits = logit_scale.float() * image_features @ all_texts.T  # (B, W * B)
    text_logits = logit_scale.float() * text_features @ all_images.T
    return (F.cross_entropy(image_logits, targets) + F.cross_entropy(text_logits, targets)) / 2


def gather_with_gradient(features: Tensor) -> Tensor:
    """(B, D) of this rank -> (world_size * B, D) of all, in rank order; gradients return to where they came from."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return features
    return _Gather.apply(features)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor) -> Tensor:
        gathered = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, features.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
