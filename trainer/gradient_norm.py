"""The global norm of the gradients, and clipping by it, where DeepSpeed's ZeRO does neither: under stage 0."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from trainer.ema import stepped


def measure_gradient_norm(optimizer: torch.optim.Optimizer, *, max_norm: float | None) -> None:
    """Before each step, take the gradients' norm and scale them down to `max_norm` if they exceed it.

    `optimizer` is the torch optimizer that is handed to DeepSpeed, with gradients that are averaged over ranks; the
    norm before clipping is what `engine.get_global_grad_norm()` tells after the step. Other hooks that change gradients
    must be registered later.
    """

    @torch.no_grad()
    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = stepped(optimizer)
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        optimizer._global_grad_norm = norm  # type: ignore[attr-defined]  # where the engine looks for it
        if max_norm is not None:
            clip_grads_with_norm_(parameters, max_norm, norm)

    optimizer.register_step_pre_hook(before_step)
