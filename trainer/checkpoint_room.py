"""Room on the disk for a checkpoint: asked for before it is written, and given back where it did not do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from trainer.distributed import cpu_group
from trainer.errors import DiskFullError

_SAFETY = 1.2  # of the estimated size must be free before a save begins


def refuse_if_disk_is_full(engine: Any, *, folder: Path) -> None:
    """Refuse to save where there is too little room. All ranks must call it.

    What one rank lacks, all must know before any of them waits for the others.

    Raises:
        DiskFullError: on every rank, if any of them lacks the room.
    """
    needed = bytes_to_save(engine) * dist.get_world_size() * _SAFETY
    folder.mkdir(parents=True, exist_ok=True)
    lacking = torch.tensor([int(shutil.disk_usage(folder).free < needed)])
    dist.all_reduce(lacking, group=cpu_group(), op=dist.ReduceOp.MAX)
    if lacking.item():
        raise DiskFullError(
            errno.ENOSPC, f"a checkpoint needs about {needed / 2**20:.0f} MiB in {folder}, and there is less"
        )


@contextmanager
def recognising_a_full_disk(partial: Path, *, needed: int) -> Iterator[None]:
    """Turn what a full disk makes torch, safetensors or Python raise into DiskFullError, and give the room back.

    torch reports a failed write as a RuntimeError without the reason, so the free space has to tell.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        out_of_room = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(partial.parent).free < needed
        if not out_of_room:
            raise
        shutil.rmtree(partial, ignore_errors=True)
        raise DiskFullError(errno.ENOSPC, f"no room left for a checkpoint in {partial.parent}") from error


def bytes_to_save(engine: Any) -> int:
    """An upper estimate for one rank: its share of fp32 masters, two moments and the average, and of what is frozen."""
    sizes = [(p.requires_grad, getattr(p, "ds_numel", p.numel())) for p in engine.module.parameters()]
    return sum((16 if trains else 4) * count for trains, count in sizes) // dist.get_world_size()
