"""Checkpoints that are not what was written any more: found, told, and kept from being used."""

from __future__ import annotations

import shutil

import torch.distributed as dist
from pydantic import ValidationError

from trainer import checkpoint
from trainer.checkpoint_sums import find_damage
from trainer.distributed import agree
from trainer.errors import UnusableDataError
from trainer.job_dir import CheckpointName, JobDir


def set_damaged_aside(job: JobDir) -> list[str]:
    """Find the latest checkpoint that is as it was written, and rename those after it. All ranks must call it.

    Returns a sentence about each that was renamed, to `damaged-NAME`, where nothing but a person looks for it.

    Raises:
        OSError: a file is there and cannot be read, which a later try may.
    """
    told = []
    for name in reversed(agree(job.published_checkpoints())):
        problem = damage(job, name)
        if problem is None:
            break
        told.append(set_aside(job, name, problem=problem))
    return told


def set_aside(job: JobDir, name: CheckpointName, *, problem: str) -> str:
    """Rename a damaged checkpoint, and say so in a sentence. All ranks must call it."""
    path = job.checkpoint(name)
    other = path.with_name(f"damaged-{name}")
    if not dist.is_initialized() or dist.get_rank() == 0:
        shutil.rmtree(other, ignore_errors=True)
        path.rename(other)
    if dist.is_initialized():
        dist.barrier()
    return f"checkpoint {name} is damaged and is not used: {problem}; it is {other} now"


def damage(job: JobDir, name: CheckpointName) -> str | None:
    """What is wrong with a published checkpoint, or None. All ranks must call it, if there are any.

    Those of earlier versions hold no sums, and only their record can be looked at.
    """
    folder = job.checkpoint(name)
    try:
        record = checkpoint.read_record(folder)
    except (FileNotFoundError, ValidationError):
        return f"{checkpoint.RECORD} is missing or cannot be understood"
    if (record.step, record.attempt) != (name.step, name.attempt):
        return f"{checkpoint.RECORD} is of step {record.step}, attempt {record.attempt}"
    return None if record.files is None else find_damage(folder, record.files)


def require_whole(job: JobDir, name: CheckpointName) -> None:
    """Raise unless a checkpoint is as it was written. All ranks must call it, if there are any.

    Raises:
        UnusableDataError: it is not; the text names the file.
    """
    if problem := damage(job, name):
        raise UnusableDataError(f"checkpoint {name} is damaged: {problem}")
