"""The state of torch's random number generators on this rank, as tensors: to save, and to draw the same again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor


def random_state() -> dict[str, Tensor]:
    """The state of the CPU's generator and, where there is one, of the current GPU's."""
    state = {"cpu": torch.get_rng_state()}
    if get_accelerator().device_name() == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Go back to what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and get_accelerator().device_name() == "cuda":
        torch.cuda.set_rng_state(state["cuda"])
