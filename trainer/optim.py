"""The optimizer and its parameter groups: layer-wise learning-rate decay and weight-decay exemptions."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from trainer.heads import ImageClassifier
from trainer.spec import OptimSpec

# Embeddings and similar vectors that are stored as matrices; all else with fewer than two dimensions is a vector.
_NEVER_DECAYED = ("class_embedding", "positional_embedding", "cls_token", "pos_embed", "logit_scale", "logit_bias")
_VIT_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_RESNET_LAYER = re.compile(r"layer(\d+)\.")


@dataclass(frozen=True)
class LayerPosition:
    """Where a parameter sits in its tower: layer 0 is next to the input, `top` next to the output."""

    layer: int
    top: int


def build_optimizer(
    module: nn.Module, *, spec: OptimSpec, max_logit_scale: float | None = None
) -> torch.optim.Optimizer:
    """An optimizer over the parameters that train; each group carries `lr_scale` for the schedule.

    exp(logit_scale) is held at or below `max_logit_scale` after each step. It has a group of its own, so that this
    works on ZeRO's flat partitions too.
    """
    groups = parameter_groups(module, spec=spec, max_logit_scale=max_logit_scale)
    on_gpu = next(module.parameters()).is_cuda
    optimizer: torch.optim.Optimizer
    if spec.name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum)
    else:
        optimizer = torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=on_gpu or None)
    optimizer.register_step_post_hook(_limit_values)
    return optimizer


def parameter_groups(
    module: nn.Module, *, spec: OptimSpec, max_logit_scale: float | None = None
) -> list[dict[str, Any]]:
    """One group for each learning-rate scale and weight decay, in a fixed order.

    With L blocks a tower has L + 2 layers: embeddings are layer 0, block i is layer i + 1, and the last norm,
    projection or head is layer L + 1; the scale is layer_decay ** (L + 1 - layer).
    """
    positions = layer_positions(module)
    groups: dict[tuple[float, float, float], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        position = positions[name]
        scale = spec.layer_decay ** (position.top - position.layer)
        decay = spec.weight_decay if spec.decay_vectors or _is_decayed(name, parameter) else 0.0
        limited = max_logit_scale is not None and name == "logit_scale"
        limit = math.log(max_logit_scale) if limited else math.inf
        group = groups.setdefault(
            (scale, decay, limit),
            {"params": [], "lr": spec.lr * scale, "weight_decay": decay, "lr_scale": scale, "max_value": limit},
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


@torch.no_grad()
def _limit_values(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        if group["max_value"] < math.inf:
            for parameter in group["params"]:
                parameter.clamp_(max=group["max_value"])


def layer_positions(module: nn.Module) -> dict[str, LayerPosition]:
    """The position of every parameter of a CLIP model or an image classifier."""
    if isinstance(module, ImageClassifier):
        return {
            **{f"trunk.{n}": p for n, p in _tower_positions(module.trunk).items()},
            **{f"head.{n}": LayerPosition(0, 0) for n, _ in module.head.named_parameters()},
        }
    visual = {f"visual.{n}": p for n, p in _tower_positions(module.visual).items()}
    rest = [n for n, _ in module.named_parameters() if not n.startswith("visual.")]
    return {**visual, **_transformer_positions(rest)}


def _tower_positions(tower: nn.Module) -> dict[str, LayerPosition]:
    names = [name for name, _ in tower.named_parameters()]
    timm_trunk = getattr(tower, "trunk", tower)
    if hasattr(timm_trunk, "group_matcher"):
        prefix = "trunk." if timm_trunk is not tower else ""
        layers = group_parameters(timm_trunk, timm_trunk.group_matcher(coarse=False), reverse=True)
        top = max(layers.values()) + 1
        return {n: LayerPosition(layers.get(n.removeprefix(prefix), top), top) for n in names}
    if any(_RESNET_LAYER.match(name) for name in names):
        return _resnet_positions(names)
    return _transformer_positions(names)


def _transformer_positions(names: list[str]) -> dict[str, LayerPosition]:
    """open_clip's ViT and text transformers, in their own names or below `text.`."""
    blocks = {name: int(match[1]) for name in names if (match := _VIT_BLOCK.search(name))}
    top = max(blocks.values(), default=-1) + 2
    embeddings = ("class_embedding", "positional_embedding", "conv1.", "ln_pre.", "token_embedding.")

    def layer(name: str) -> int:
        if name in blocks:
            return blocks[name] + 1
        return 0 if name.removeprefix("text.").startswith(embeddings) else top

    return {name: LayerPosition(layer(name), top) for name in names}


def _resnet_positions(names: list[str]) -> dict[str, LayerPosition]:
    """CLIP's ResNets: the stem is layer 0, stage k is layer k, the attention pool is layer 5."""

    def layer(name: str) -> int:
        if match := _RESNET_LAYER.match(name):
            return int(match[1])
        return 5 if name.startswith("attnpool.") else 0

    return {name: LayerPosition(layer(name), 5) for name in names}


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in _NEVER_DECAYED
