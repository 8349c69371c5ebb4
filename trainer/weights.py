"""Whole weights out of a DeepSpeed engine, whatever its ZeRO stage shards them into."""

from __future__ import annotations

from typing import Any, Literal

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor

from trainer.ema import STATE_KEY

Which = Literal["raw", "ema"]


def gather_weights(engine: Any, *, which: Which = "raw") -> dict[str, Tensor]:
    """The fp32 state dict of the module, on the CPU of every rank. All ranks must call it.

    `raw` gives the master weights, `ema` their moving average; what is not trained is the same in both. Before the
    first step the average is the weights themselves.
    """
    if which == "ema":
        _relink_optimizer_state(engine.optimizer)
    weights = {name: buffer.detach().cpu().clone() for name, buffer in _saved_buffers(engine.module).items()}
    for name, parameter in engine.module.named_parameters():
        value = _average(engine, parameter) if which == "ema" and parameter.requires_grad else None
        weights[name] = _master(parameter) if value is None else value.detach().float().cpu().clone()
    return weights


def read_logit_scale(engine: Any) -> float | None:
    """exp(logit_scale) in force, or None if the model has none. All ranks must call it."""
    parameter = getattr(engine.module, "logit_scale", None)
    if parameter is None:
        return None
    with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        return float(parameter.detach().float().exp().item())


def _saved_buffers(module: torch.nn.Module) -> dict[str, Tensor]:
    saved = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers(remove_duplicate=False) if name in saved}


def _master(parameter: torch.nn.Parameter) -> Tensor:
    full = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
    if full is not None:
        return full.detach().cpu().clone()
    with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        return parameter.detach().float().cpu().clone()


def _average(engine: Any, parameter: torch.nn.Parameter) -> Tensor | None:
    if hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"):
        if not _has_stepped(engine):
            return None
        return safe_get_full_optimizer_state(parameter, STATE_KEY)
    return engine.optimizer.state.get(parameter, {}).get(STATE_KEY)  # stage 0: torch's own optimizer


def _has_stepped(engine: Any) -> bool:
    return any(STATE_KEY in state for state in engine.optimizer.optimizer.state.values())


def _relink_optimizer_state(optimizer: Any) -> None:
    """DeepSpeed 0.19 links parameters to optimizer state once, while the first group is stepped, and too early for
    the other groups; a state loaded from a checkpoint is not linked at all."""
    if hasattr(optimizer, "_hp_optimizer_states_linked") and optimizer.optimizer.state:
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()
