"""Ranks: joining the process group, control values over all of them, and noticing when a launcher dies."""

from __future__ import annotations

import datetime
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch
import torch.distributed as dist

from trainer import fence

_LAUNCHER_POLL_S = 0.5
_GRACE_S = 120.0  # a worker that lost its launcher has this long for its last checkpoint
_GRACE_VARIABLE = "ATTUNE_ORPHAN_GRACE_S"  # on shared machines others get the devices at once: no time then
_LAUNCHERS = ("deepspeed", "service.launchers.node_agent")
_FENCE_POLL_S = 1.0

_PATIENCE = datetime.timedelta(days=7)  # a collective of PyTorch's own gives up after half an hour

_control_group: Any = None
"""None: the one that all collectives take by default."""


def join() -> torch.device:
    """Join the process group that the launcher describes in the environment (a group of one without a launcher).

    Returns this rank's device: a GPU if there is one, otherwise the CPU.
    """
    import deepspeed  # looks for accelerators and says so, which those who only plan need not hear
    import deepspeed.ops

    global _control_group
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    if os.environ["WORLD_SIZE"] == "1":
        os.environ.setdefault("MASTER_PORT", "0")
    on_gpu = _on_gpu()
    if not on_gpu:
        # Its shared-memory collectives compile on first use, which needs a compiler; gloo needs none.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if on_gpu:
        torch.cuda.set_device(local_rank)
    deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", verbose=False)
    _control_group = dist.new_group(backend="gloo") if on_gpu else None
    return device()


def device() -> torch.device:
    """Where this rank computes: its GPU if there is one, otherwise the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if _on_gpu() else torch.device("cpu")


def _on_gpu() -> bool:
    from deepspeed.accelerator import get_accelerator

    return bool(get_accelerator().device_name() == "cuda")


def leave() -> None:
    """Leave the process group."""
    global _control_group
    _control_group = None
    if dist.is_initialized():
        dist.destroy_process_group()


def cpu_group() -> Any:
    """The group for control values: on the CPU, so that asking never waits for the GPU."""
    return _control_group


def any_rank(flag: bool) -> bool:
    """Whether `flag` holds on any rank; the same answer everywhere. All ranks must call it."""
    value = torch.tensor([int(flag)])
    dist.all_reduce(value, op=dist.ReduceOp.MAX, group=_control_group)
    return bool(value.item())


def agree(value: Any) -> Any:
    """Rank 0's `value`, on every rank. All ranks must call it."""
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_control_group)
    return box[0]


def from_rank_0(compute: Callable[[], Any]) -> Any:
    """What `compute` gives, or raises, on rank 0 alone, on every rank. It may take hours. All ranks must call it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return compute()
    patient_group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = compute()
        except Exception as error:  # the others wait for an answer, whichever it is
            box[1] = error
    dist.broadcast_object_list(box, src=0, group=patient_group)
    dist.destroy_process_group(patient_group)
    if box[1] is not None:
        raise box[1]
    return box[0]


def mean_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over ranks. All ranks must call it."""
    value = value.detach().clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


class StopRequest:
    """Set by SIGTERM, SIGINT, or the death of the launcher; the loop looks at it between steps."""

    def __init__(self) -> None:
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """Why to stop, or None."""
        return self._reason

    def ask(self, reason: str) -> None:
        """Ask the loop to stop after the current step."""
        self._reason = self._reason or reason

    def listen(self) -> None:
        """Listen to signals from now on."""

        def on_signal(number: int, _: FrameType | None) -> None:
            self.ask(f"{signal.Signals(number).name} received")

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)

    def watch_launcher(self, *, kill: Callable[[], None] = lambda: os._exit(1)) -> None:
        """Stop when the parent or grandparent process goes, and end at once if that takes too long.

        The parent is DeepSpeed's launch.py, the grandparent its runner or a node agent; a worker whose launcher was
        killed would otherwise train on as an orphan. Without that launcher there is nothing to watch.
        """
        watched = [
            p for p in psutil.Process().parents()[:2] if any(name in " ".join(p.cmdline()) for name in _LAUNCHERS)
        ]
        if not watched:
            return
        grace_s = float(os.environ.get(_GRACE_VARIABLE, _GRACE_S))

        def watch() -> None:
            while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in watched):
                time.sleep(_LAUNCHER_POLL_S)
            self.ask("the launcher is gone")
            time.sleep(grace_s)
            kill()

        threading.Thread(target=watch, name="launcher-watch", daemon=True).start()

    def watch_fence(self, attempt_dir: Path, *, kill: Callable[[], None] = lambda: os._exit(1)) -> None:
        """End at once when the launch that this process belongs to is given up; see `trainer.fence`."""
        if fence.TOKEN_VARIABLE not in os.environ:
            return

        def watch() -> None:
            try:
                while True:
                    fence.require_own(attempt_dir)
                    time.sleep(_FENCE_POLL_S)
            except fence.Fenced as error:
                print(f"stopping at once: {error}", file=sys.stderr, flush=True)
                kill()

        threading.Thread(target=watch, name="fence-watch", daemon=True).start()
