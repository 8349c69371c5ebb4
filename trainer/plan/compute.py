"""Multiply-adds of a forward pass, by Attune's count and by those behind the tables of FT-CLIP and mmpretrain.

The published counts are formulas over a plain ViT's shape, so that they only exist for such towers: N patches of P x P
pixels, L blocks of width D with an MLP of width H (4 D in CLIP's), and a linear layer to C outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import open_clip
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.heads import ImageClassifier
from trainer.models import ClassifierModel, ClipModel
from trainer.spec import JobSpec

_TIMM_VIT = timm.models.VisionTransformer

COUNTED = {
    "attune": "multiply-adds of convolutions, matrix products and attention, class token included; no norms, "
    "activations or biases. One is 2 FLOPs",
    "ft_clip": "the same without the class token: N 3P²D + L (2N (2D² + D H) + 2N²D) + D C for N patches",
    "mmpretrain": "as fvcore counts: N 3P²D + 2L (N+1) (2D² + D H) + 2 (N+1) D for each layer norm, without the "
    "products inside attention and without the head",
}
"""What each convention counts."""


@dataclass(frozen=True)
class VitShape:
    """What the published formulas go by."""

    patches: int
    patch_size: int
    channels: int
    blocks: int
    width: int
    mlp_width: int
    norms: int
    """Layer norms, of which a CLIP ViT has two a block and two more."""
    top_macs: int
    """Multiply-adds of the linear layers on top: projection and head, as far as there are any."""

    @property
    def patch_macs(self) -> int:
        """Multiply-adds of the patch embedding."""
        return self.patches * self.channels * self.patch_size**2 * self.width

    @property
    def block_macs_per_token(self) -> int:
        """Multiply-adds of one block's linear layers."""
        return 4 * self.width**2 + 2 * self.width * self.mlp_width


def vit_shape(module: nn.Module) -> VitShape | None:
    """The shape of the plain ViT in an image classifier or an image-text model; None if it has another image tower."""
    tower = module.trunk if isinstance(module, ImageClassifier) else module.visual
    found = (m for m in tower.modules() if isinstance(m, (open_clip.transformer.VisionTransformer, _TIMM_VIT)))
    vit = next(found, None)
    if vit is None:
        return None
    if isinstance(vit, _TIMM_VIT):
        patch, patches, blocks = vit.patch_embed.proj, vit.patch_embed.num_patches, vit.blocks
        mlp_width = blocks[0].mlp.fc1.out_features
    else:
        patch, blocks = vit.conv1, vit.transformer.resblocks
        patches, mlp_width = vit.grid_size[0] * vit.grid_size[1], blocks[0].mlp.c_fc.out_features
    return VitShape(
        patches=patches,
        patch_size=patch.kernel_size[0],
        channels=patch.in_channels,
        blocks=len(blocks),
        width=patch.out_channels,
        mlp_width=mlp_width,
        norms=sum(isinstance(part, nn.LayerNorm) for part in vit.modules()),
        top_macs=_top_macs(module, vit),
    )


def ft_clip_macs(shape: VitShape) -> int:
    """Multiply-adds of an image as FT-CLIP's table counts them (https://arxiv.org/abs/2212.06138)."""
    attention = 2 * shape.patches**2 * shape.width
    blocks = shape.blocks * (shape.patches * shape.block_macs_per_token + attention)
    return shape.patch_macs + blocks + shape.top_macs


def mmpretrain_macs(shape: VitShape, *, norm_cost: int = 2) -> int:
    """Multiply-adds of an image as mmpretrain's tables count them (https://github.com/open-mmlab/mmpretrain).

    Args:
        norm_cost: counted for each element that a layer norm handles. It is 5 in the entry `vit-large-p14`.
    """
    tokens = shape.patches + 1
    blocks = shape.blocks * tokens * shape.block_macs_per_token
    return shape.patch_macs + blocks + norm_cost * shape.norms * tokens * shape.width


def count_macs(module: nn.Module, call: Callable[..., Any], *inputs: Tensor) -> int:
    """Multiply-adds of `call(*inputs)`, which runs `module`; on the meta device nothing is computed."""
    training = module.training
    module.train()  # in evaluation torch's attention is one fused operation, which the counter does not look into
    try:
        with FlopCounterMode(display=False) as counter:
            call(*inputs)
    finally:
        module.train(training)
    return int(counter.get_total_flops()) // 2


def without_looking_at_values(module: nn.Module) -> None:
    """Let text towers of Hugging Face run on tensors without values: they ask whether their mask hides anything."""

    def without_mask(_: nn.Module, arguments: Any, named: dict[str, Any]) -> Any:
        return arguments, {**named, "attention_mask": None}

    for part in module.modules():
        if isinstance(part, open_clip.hf_model.HFTextEncoder):
            part.transformer.register_forward_pre_hook(without_mask, with_kwargs=True)


def image_macs(model: ClipModel | ClassifierModel) -> int:
    """Multiply-adds of an image through its tower and what is on top."""
    size, module = model.preprocess.image_size, model.module
    images = torch.zeros(1, 3, size, size, device="meta")
    return count_macs(module, module if isinstance(model, ClassifierModel) else module.encode_image, images)


def text_macs(model: ClipModel) -> int:
    """Multiply-adds of a text of full length through its tower and what is on top."""
    tokens = torch.zeros(1, context_length(model), dtype=torch.long, device="meta")
    return count_macs(model.module, model.module.encode_text, tokens)


def context_length(model: ClipModel) -> int:
    """Tokens that the model's texts are padded or cut to."""
    return int(getattr(model.tokenize, "context_length", None) or model.config["text_cfg"].get("context_length", 77))


@dataclass(frozen=True)
class Tower:
    """What one tower computes for each training image."""

    macs: int
    """Multiply-adds of a forward pass over one input."""
    inputs_per_image: float
    """1 for the image tower; texts for each image in the other."""
    trains: bool
    """Whether anything in it, or before it, is trained: else there is no backward pass."""


def train_flops_per_image(towers: list[Tower], *, spec: JobSpec, accumulation: int) -> int:
    """FLOPs of one training image with its texts: 2 a multiply-add forward, and 4 backward where a tower trains.

    One more forward pass recomputes activations, and one more fills a feature cache.

    Args:
        accumulation: micro-batches of a device in a step; with one there is nothing to cache.
    """
    passes = 1 + int(getattr(spec.objective, "feature_cache", False) and accumulation > 1)
    recomputed = int(spec.parallel.activation_checkpointing)
    return round(
        sum(t.macs * t.inputs_per_image * (2 * passes + (4 + 2 * recomputed if t.trains else 0)) for t in towers)
    )


def _top_macs(module: nn.Module, vit: nn.Module) -> int:
    on_top = [getattr(vit, "proj", None), module.head.weight if isinstance(module, ImageClassifier) else None]
    return sum(weight.numel() for weight in on_top if weight is not None)
