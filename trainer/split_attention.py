"""Multi-head attention whose projections are linear layers, so that adapters can sit on each of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """Computes what `nn.MultiheadAttention` does, which keeps query, key and value in one matrix and calls no layer.

    For the attention of open_clip's blocks: one embedding size, batch first, biases, no dropout.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        """Take over the weights of `attention`, and which of them train."""
        super().__init__()
        self.num_heads = attention.num_heads
        self.batch_first = attention.batch_first
        weights, biases = attention.in_proj_weight.detach().chunk(3), attention.in_proj_bias.detach().chunk(3)
        for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
            setattr(self, name, _linear(weight, bias, like=attention.in_proj_weight))
        self.out_proj = _linear(
            attention.out_proj.weight.detach(), attention.out_proj.bias.detach(), like=attention.out_proj.weight
        )

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """(B, L, D) each -> ((B, L, D), None), the attention weights never being computed."""
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        heads = (self._heads(p(x)) for p, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value)))
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=attn_mask)  # (B, H, L, D / H)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), None

    def joined(self) -> nn.MultiheadAttention:
        """torch's own attention with these weights."""
        projections = (self.q_proj, self.k_proj, self.v_proj)
        width = self.out_proj.out_features
        with torch.device(self.out_proj.weight.device):
            attention = nn.MultiheadAttention(width, self.num_heads, batch_first=self.batch_first)
        with torch.no_grad():
            attention.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
            attention.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
            attention.out_proj.weight.copy_(self.out_proj.weight)
            attention.out_proj.bias.copy_(self.out_proj.bias)
        return attention

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, L, D / H)


def can_split(attention: nn.Module) -> bool:
    """Whether `attention` is one whose projections can be taken apart."""
    return (
        isinstance(attention, nn.MultiheadAttention)
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and attention.dropout == 0
    )


def _linear(weight: Tensor, bias: Tensor, *, like: nn.Parameter) -> nn.Linear:
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight = nn.Parameter(weight.clone(), requires_grad=like.requires_grad)
    linear.bias = nn.Parameter(bias.clone(), requires_grad=like.requires_grad)
    return linear
