"""An exponential moving average of the weights that is right under every ZeRO stage.

The average lives in the optimizer's own state, `state[p]["ema"]`, beside the moments: it is sharded, offloaded and
saved like them. A hook after each `step()` of the torch optimizer sees the fp32 master weights that ZeRO keeps,
whole or in partitions, so nothing has to be gathered to update it.
"""

from __future__ import annotations

from typing import Any

import torch

STATE_KEY = "ema"


def track_average(optimizer: torch.optim.Optimizer, *, decay: float) -> None:
    """Keep ema <- decay * ema + (1 - decay) * weights after each step, starting from the weights before the first.

    `optimizer` is the torch optimizer that is handed to DeepSpeed. The average must enter its state only after the
    first step: AdamW takes a state that is not empty for one that already has its moments.
    """
    first_weights: dict[torch.Tensor, torch.Tensor] = {}

    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in stepped(optimizer):
            if STATE_KEY not in optimizer.state[parameter]:
                first_weights[parameter] = parameter.detach().clone()

    @torch.no_grad()
    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in stepped(optimizer):
            state = optimizer.state[parameter]
            if STATE_KEY not in state:
                state[STATE_KEY] = first_weights.pop(parameter)
            state[STATE_KEY].lerp_(parameter.detach().to(state[STATE_KEY]), 1 - decay)

    optimizer.register_step_pre_hook(before_step)
    optimizer.register_step_post_hook(after_step)


def stepped(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """What a step updates; under ZeRO-3 each call of `step()` covers one sub-group."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
