"""Tensors of all ranks, in rank order, with and without gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_size() -> tuple[int, int]:
    """This rank and the number of ranks; 0 and 1 outside a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def gather(values: Tensor) -> Tensor:
    """(B, ...) of this rank -> (world_size * B, ...) of all, without gradients. All ranks must call it."""
    if rank_and_size()[1] == 1:
        return values.detach()
    gathered = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, values.detach().contiguous())
    return torch.cat(gathered)


def gather_features(features: Tensor) -> Tensor:
    """(B, D) of this rank -> (world_size * B, D) of all. All ranks must call it.

    Every rank's gradient returns to where a feature came from, summed over ranks.
    """
    return features if rank_and_size()[1] == 1 else _Gather.apply(features)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return gather(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        rank, size = rank_and_size()
        return gradient.chunk(size)[rank]
