"""L2-SP: a pull towards the weights that training started from (Li et al. 2018, https://arxiv.org/abs/1802.01483).

The penalty strength * |weights - start|², as in LP-FT (https://github.com/AnanyaKumar/transfer_learning), enters as its
gradient, right before each step of the torch optimizer, which sees ZeRO's fp32 master weights, whole or in partitions;
so it comes after gradient clipping and is not part of the loss that is reported. The starting weights live in the
optimizer's state, `state[p]["start"]`, and are sharded, offloaded and saved like the moments.
"""

from __future__ import annotations

from typing import Any

import torch

STATE_KEY = "start"


def pull_to_start(optimizer: torch.optim.Optimizer, *, strength: float) -> None:
    """Add 2 * strength * (weights - start) to the gradient of each step, start being the weights before the first.

    `optimizer` is the torch optimizer that is handed to DeepSpeed; its groups that say `pulled: False` are left alone.
    As in `trainer.ema`, the starting weights enter its state only after the first step, where they make no difference
    yet.
    """
    first_weights: dict[torch.Tensor, torch.Tensor] = {}

    @torch.no_grad()
    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in _pulled(optimizer):
            start = optimizer.state[parameter].get(STATE_KEY)
            if start is None:
                first_weights[parameter] = parameter.detach().clone()
            else:
                parameter.grad.add_((parameter - start).to(parameter.grad), alpha=2 * strength)

    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in list(first_weights):
            optimizer.state[parameter][STATE_KEY] = first_weights.pop(parameter)

    optimizer.register_step_pre_hook(before_step)
    optimizer.register_step_post_hook(after_step)


def _pulled(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """What a step updates, as `trainer.ema.stepped` has it, less the groups that are left alone."""
    groups = [group for group in optimizer.param_groups if group.get("pulled", True)]
    return [p for group in groups for p in group["params"] if p.grad is not None]
