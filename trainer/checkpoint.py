"""Checkpoints: everything a job needs to go on as if nothing had happened.

    checkpoints/step-40-attempt-2/
      checkpoint.json         step, metrics, spec, number of ranks, sums of the other files: CheckpointRecord
      parameters/, engine.json        model, optimizer and moving average by parameter: trainer.parameter_state
      objective.safetensors   what the objective remembers, if anything
      random-rank-0.safetensors ...   random state of each rank

All ranks save; the folder is written under a hidden name and published by one rename, so what has the public name
is whole, and its record holds sums of what it was. The position in the data needs no file: the step determines it.

Any number of ranks and any ZeRO stage can load it. With the same ranks all goes on bit by bit; with others, sums are
taken in another order, and what a rank draws at random for itself (dropout, drop path) begins from a new seed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file, save_file

from trainer import fence
from trainer.checkpoint_room import bytes_to_save, recognising_a_full_disk, refuse_if_disk_is_full
from trainer.checkpoint_sums import FileSum, sum_files
from trainer.errors import UnusableSpecError
from trainer.job_dir import CheckpointName, JobDir, write_json_atomically
from trainer.parameter_state import load_state, save_state
from trainer.random_state import random_state, restore_random_state
from trainer.spec import CheckpointSpec, JobSpec
from trainer.spec_checks.batch_split import EarlierSplit
from trainer.spec_checks.metrics import metric_named

RECORD = "checkpoint.json"
_OBJECTIVE = "objective.safetensors"
_OLD_LAYOUT = "deepspeed"  # a folder in DeepSpeed's own format, which only as many ranks as wrote it can load


class CheckpointRecord(BaseModel):
    """`checkpoint.json`."""

    step: int
    """Optimizer steps done."""
    attempt: int
    """Attempt that saved it."""
    world_size: int
    """Ranks that saved it; any number can load it."""
    micro_size: int | None = None
    """Samples a device and forward pass."""
    compared: int | None = None
    """Samples of all ranks that the loss compared with each other."""
    metrics: dict[str, float]
    """`DATASET/METRIC` at this step, of the weights that `export.weights` would export: they rank the checkpoint."""
    ema_metrics: dict[str, float] = {}
    """The same for the moving average alone."""
    raw_metrics: dict[str, float] = {}
    """The same for the raw weights alone."""
    wise_ft_metrics: dict[str, float] = {}
    """The same for the blend with the starting weights, which is reported and ranks nothing."""
    spec: JobSpec
    """The job."""
    files: dict[str, FileSum] | None = None
    """What every other file must be, by its path in the folder; None in checkpoints of earlier versions."""


def save(
    engine: Any,
    *,
    job: JobDir,
    name: CheckpointName,
    record: CheckpointRecord,
    objective_state: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Publish a checkpoint. All ranks must call it.

    Args:
        objective_state: what the objective remembers from step to step, the same on every rank.

    Raises:
        DiskFullError: on every rank, before anything is written, if any rank lacks the room.
        Fenced: on rank 0, if the attempt was given up meanwhile; nothing is published.
    """
    final = job.checkpoint(name)
    partial = final.with_name(f".{name}.partial")
    rank = dist.get_rank()
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    refuse_if_disk_is_full(engine, folder=job.checkpoints)
    with recognising_a_full_disk(partial, needed=bytes_to_save(engine)):
        save_state(engine, partial)
        save_file(random_state(), partial / f"random-rank-{rank}.safetensors")
        if rank == 0 and objective_state:
            tensors = {key: value.detach().cpu().contiguous() for key, value in objective_state.items()}
            save_file(tensors, partial / _OBJECTIVE)
        dist.barrier()
        sums = sum_files(partial)
        if rank == 0:
            write_json_atomically(partial / RECORD, record.model_copy(update={"files": sums}))
            _sync_files(partial)
            fence.require_own(job.attempt(name.attempt).path)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
    dist.barrier()


def load(engine: Any, *, job: JobDir, name: CheckpointName) -> dict[str, torch.Tensor]:
    """Restore weights, optimizer, moving average and random state, on any number of ranks. All ranks must call it.

    Returns what the objective remembered.

    Raises:
        UnusableSpecError: the checkpoint is of another model, or in a layout that needs other ranks.
    """
    folder = job.checkpoint(name)
    record = read_record(folder)
    rank, same_ranks = dist.get_rank(), record.world_size == dist.get_world_size()
    if (folder / _OLD_LAYOUT).exists():
        objective_state = _load_old_layout(engine, folder=folder, record=record)
    else:
        load_state(engine, folder)
        remembered = folder / _OBJECTIVE
        objective_state = load_file(remembered) if remembered.exists() else {}
    if same_ranks:
        restore_random_state(load_file(folder / f"random-rank-{rank}.safetensors"))
    else:
        torch.manual_seed(_new_seed(record, rank=rank))
    return objective_state


def earlier_split(job: JobDir) -> EarlierSplit | None:
    """How the latest published checkpoint's attempt split its batch, as far as it says so."""
    names = job.published_checkpoints()
    record = read_record(job.checkpoint(names[-1])) if names else None
    if record is None or record.micro_size is None or record.compared is None:
        return None
    return EarlierSplit(record.world_size, record.micro_size, record.compared)


def read_record(folder: Path) -> CheckpointRecord:
    """The record of a published checkpoint."""
    return CheckpointRecord.model_validate_json((folder / RECORD).read_bytes())


def add_metrics(folder: Path, *, metrics: Mapping[str, dict[str, float]]) -> None:
    """Complete the record of a checkpoint that was saved without an evaluation, by the record's field names."""
    record = read_record(folder)
    write_json_atomically(folder / RECORD, record.model_copy(update=dict(metrics)))


def superseded(job: JobDir, *, spec: CheckpointSpec, metric: str) -> list[CheckpointName]:
    """The published checkpoints that the policy does not keep."""
    names = job.published_checkpoints()
    keep = set(names[-spec.keep_latest :])
    scored = [(_score(job.checkpoint(name), metric), name) for name in names]
    merit = metric_named(metric).merit
    ranked = sorted((pair for pair in scored if pair[0] is not None), key=lambda pair: merit(pair[0]), reverse=True)
    keep.update(name for _, name in ranked[: spec.keep_best])
    return [name for name in names if name not in keep]


def best(job: JobDir, *, metric: str) -> CheckpointName | None:
    """The published checkpoint that does best in `metric`, the latest of equals; None if none has it."""
    merit = metric_named(metric).merit
    scored = [(_score(job.checkpoint(n), metric), n.step, n) for n in job.published_checkpoints()]
    return max((s for s in scored if s[0] is not None), default=(None, 0, None), key=lambda s: (merit(s[0]), s[1]))[2]


def remove(job: JobDir, name: CheckpointName) -> None:
    """Remove a published checkpoint: hidden first, so that nobody finds half of it."""
    path = job.checkpoint(name)
    hidden = path.with_name(f".{name}.removed")
    path.rename(hidden)
    shutil.rmtree(hidden)


def remove_leftovers(job: JobDir, *, before_attempt: int) -> None:
    """Clear what earlier attempts left behind when they died while saving or removing."""
    for folder in job.checkpoints.glob(".step-*"):
        name = CheckpointName.parse(folder.stem.removeprefix("."))
        if name is not None and name.attempt < before_attempt:
            shutil.rmtree(folder, ignore_errors=True)


def _score(folder: Path, metric: str) -> float | None:
    """A record that cannot be read ranks nothing: its checkpoint is as good as lost, and the job is not."""
    try:
        return read_record(folder).metrics.get(metric)
    except (FileNotFoundError, ValidationError):
        return None


def _load_old_layout(engine: Any, *, folder: Path, record: CheckpointRecord) -> dict[str, torch.Tensor]:
    if record.world_size != dist.get_world_size():
        raise UnusableSpecError(
            f"{folder.name} was written by an earlier version, in a layout for {record.world_size} ranks, and cannot "
            f"be loaded by {dist.get_world_size()}; resume on {record.world_size} devices once, whose checkpoints fit "
            f"any number"
        )
    path, client_state = engine.load_checkpoint(str(folder / _OLD_LAYOUT), tag="state")
    if path is None:
        raise UnusableSpecError(f"DeepSpeed found no state in {folder}")
    return client_state.get("objective", {})


def _new_seed(record: CheckpointRecord, *, rank: int) -> int:
    """For a rank that has no past: the same whenever the same checkpoint is loaded, another one for each rank."""
    sequence = np.random.SeedSequence([record.spec.seed, record.step, dist.get_world_size(), rank])
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)


def _sync_files(folder: Path) -> None:
    """Make the content durable before the rename makes it visible."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
