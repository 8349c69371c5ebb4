"""The optimizer and its parameter groups: layer-wise learning rates and weight-decay exemptions."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.optim import Lion
from torch import nn

from trainer.gradient_norm import measure_gradient_norm
from trainer.heads import ImageClassifier
from trainer.l2_sp import pull_to_start
from trainer.layer_positions import LayerPosition, layer_positions
from trainer.schedules import peak_lr
from trainer.spec import JobSpec, OptimSpec

# Embeddings and similar vectors that are stored as matrices; all else with fewer than two dimensions is a vector.
_POSITIONS = {"positional_embedding", "pos_embed", "position_embedding", "position_embeddings"}
_NEVER_DECAYED = {"class_embedding", "cls_token", "reg_token", "logit_scale", "logit_bias", "bias"}
_RMSPROP_SMOOTHING, _ADADELTA_SMOOTHING = 0.9, 0.9


def build_optimizer(module: nn.Module, *, spec: JobSpec, sharded: bool = True) -> torch.optim.Optimizer:
    """The job's optimizer over the parameters that train; each group carries `lr_scale` and `decays` for the schedule.

    exp(logit_scale) is held at or below objective.max_logit_scale after each step, and objective.l2_sp is at work. All
    of them compute element by element, so that they are right on ZeRO's flat partitions too. Where the optimizer is not
    `sharded` by ZeRO, which does that itself, it also measures the gradients' norm and clips by it.
    """
    groups = parameter_groups(module, spec=spec)
    optimizer = _optimizer(groups, spec.optim)
    if not sharded:
        measure_gradient_norm(optimizer, max_norm=spec.optim.clip_grad_norm)
    if strength := getattr(spec.objective, "l2_sp", 0.0):
        pull_to_start(optimizer, strength=strength)
    optimizer.register_step_post_hook(_limit_values)
    return optimizer


def parameter_groups(module: nn.Module, *, spec: JobSpec) -> list[dict[str, Any]]:
    """One group for each layer, learning-rate scale and weight decay, from the input to the output.

    Without any layer-wise rate there is one for each weight decay, whose `layer_id` is None. The logit scale has a
    group of its own where it is limited, and so has the head where objective.l2_sp pulls the rest, whose groups are
    `pulled`. See `trainer.layer_positions` for what a layer is; its scale is layer_decay ** (top - layer), times
    backbone_lr_multiplier below the top and head_lr_multiplier in the head.
    """
    positions = layer_positions(module, itra="itra-layer-decay" in spec.compat)
    max_logit_scale = getattr(spec.objective, "max_logit_scale", None)
    pulls = getattr(spec.objective, "l2_sp", 0.0) > 0
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head = isinstance(module, ImageClassifier) and name.startswith("head.")
        scale = _lr_scale(spec.optim, positions[name], in_head=in_head)
        layer = positions[name].layer if _is_layerwise(spec.optim) else None
        decays = spec.optim.decay_vectors or _is_decayed(name, parameter, spec=spec)
        limited = max_logit_scale is not None and name == "logit_scale"
        limit = math.log(max_logit_scale) if limited else math.inf
        pulled = pulls and not in_head
        group = _group(layer, scale, decays, limit, pulled, spec=spec)
        groups.setdefault((layer or 0, scale, decays, limit, pulled), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _group(
    layer: int | None, scale: float, decays: bool, limit: float, pulled: bool, *, spec: JobSpec
) -> dict[str, Any]:
    return {
        "params": [],
        "lr": peak_lr(spec) * scale,
        "weight_decay": spec.optim.weight_decay if decays else 0.0,
        "lr_scale": scale,
        "layer_id": layer,
        "decays": decays,
        "max_value": limit,
        "pulled": pulled,
    }


def _optimizer(groups: list[dict[str, Any]], spec: OptimSpec) -> torch.optim.Optimizer:
    adam = {"betas": spec.betas, "eps": spec.eps}
    match spec.name:
        case "adamw":
            return torch.optim.AdamW(groups, **adam, fused=True)
        case "adam":
            return torch.optim.Adam(groups, **adam, fused=True)
        case "nadam":
            return torch.optim.NAdam(groups, **adam)
        case "radam":
            return torch.optim.RAdam(groups, **adam)
        case "lion":
            return Lion(groups, betas=spec.betas)
        case "sgd":
            return torch.optim.SGD(groups, momentum=spec.momentum, nesterov=spec.nesterov, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, alpha=_RMSPROP_SMOOTHING, eps=spec.eps, momentum=spec.momentum)
        case "adadelta":
            return torch.optim.Adadelta(groups, rho=_ADADELTA_SMOOTHING, eps=spec.eps)


@torch.no_grad()
def _limit_values(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        if group["max_value"] < math.inf:
            for parameter in group["params"]:
                parameter.clamp_(max=group["max_value"])


def _lr_scale(spec: OptimSpec, position: LayerPosition, *, in_head: bool) -> float:
    decay = spec.layer_decay
    if position.tower == "text" and spec.layer_decay_text is not None:
        decay = spec.layer_decay_text
    scale = decay ** (position.top - position.layer)
    if position.layer < position.top:
        scale *= spec.backbone_lr_multiplier
    return scale * spec.head_lr_multiplier if in_head else scale


def _is_layerwise(spec: OptimSpec) -> bool:
    factors = {spec.layer_decay, spec.layer_decay_text or 1.0, spec.backbone_lr_multiplier, spec.head_lr_multiplier}
    return factors != {1.0}


def _is_decayed(name: str, parameter: nn.Parameter, *, spec: JobSpec) -> bool:
    """Matrices are, but for position embeddings and what is a vector in the shape of a matrix."""
    exempt = _NEVER_DECAYED if "itra-weight-decay" in spec.compat else _NEVER_DECAYED | _POSITIONS
    return parameter.ndim > 1 and not exempt & set(name.split("."))
