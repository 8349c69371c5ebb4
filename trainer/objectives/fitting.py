"""What an objective asks of an image-text model before it trains: scale and bias of the logits, idle parts frozen."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from trainer.models import ClipModel
from trainer.spec import Objective

_SIGLIP_BIAS = -10.0  # https://arxiv.org/abs/2303.15343


def fit_to_objective(model: ClipModel, *, objective: Objective) -> ClipModel:
    """The model ready for `objective`; its module is changed in place, on whatever device it lies.

    SigLIP gives it a logit bias if it has none, which then belongs to its configuration. What receives no gradient
    is frozen, so that weight decay leaves it alone.
    """
    module, loss = model.module, getattr(objective, "loss", None)
    scale = getattr(objective, "initial_logit_scale", None)
    if scale is not None:
        with torch.no_grad():
            module.logit_scale.fill_(math.log(scale))
    if objective.name == "distillation":
        _freeze_idle_towers(module, towers=objective.towers, contrastive=objective.contrastive_weight > 0)
    bias = getattr(module, "logit_bias", None)
    if loss != "siglip":
        if bias is not None:
            bias.requires_grad_(False)
        return model
    if bias is None:
        module.logit_bias = nn.Parameter(torch.full_like(module.logit_scale.detach(), _SIGLIP_BIAS))
        return replace(model, config=model.config | {"init_logit_bias": _SIGLIP_BIAS})
    return model


def _freeze_idle_towers(module: nn.Module, *, towers: str, contrastive: bool) -> None:
    """Without a contrastive loss only the towers that are compared train."""
    if contrastive:
        return
    for name, parameter in module.named_parameters():
        tower = "image" if name.startswith(("visual.", "image_head.")) else "text"
        if name.startswith("logit_") or towers not in ("both", tower):
            parameter.requires_grad_(False)
