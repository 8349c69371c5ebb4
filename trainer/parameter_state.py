"""The state of a DeepSpeed engine as a checkpoint holds it: by parameter, whatever ranks and ZeRO stage hold it now.

    parameters/                 see `trainer.parameter_files`
      master-rank-0.safetensors ...    fp32 weights of what trains
      exp_avg-, exp_avg_sq-, ema-, start- ...    moments, moving average, L2-SP's start: what the optimizer remembers
      scalars-rank-0.safetensors       `step/NAME` and the like
      frozen-rank-0.safetensors ...    what does not train
      buffers-rank-0.safetensors       running averages and the like, as rank 0 has them
    engine.json                 steps and loss scaling

Every rank writes what it holds and reads what it needs; nothing is gathered, and nothing is pickled.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer import ema, l2_sp
from trainer.errors import UnusableSpecError
from trainer.parameter_files import ParameterFiles, Part, write_parts
from trainer.partitions import (
    Partition,
    after_changes,
    before_changes,
    partitions,
    shares,
    swapped_in,
    take_over,
    torch_optimizer,
)

MASTER, FROZEN, BUFFERS, SCALARS = "master", "frozen", "buffers", "scalars"
_WEIGHTS = (ema.STATE_KEY, l2_sp.STATE_KEY)  # state that begins as the weights, not as zeros
_COUNTERS = ("global_steps", "global_samples", "skipped_steps")
_ENGINE = "engine.json"


def save_state(engine: Any, folder: Path) -> None:
    """Write this rank's part of an engine's state. All ranks must call it, with the same folder."""
    files, rank = folder / "parameters", dist.get_rank()
    files.mkdir(exist_ok=True)
    mine, remembered = partitions(engine), torch_optimizer(engine).state
    for kind in (MASTER, *_kinds(mine, remembered)):
        write_parts(files, kind, _parts(engine, mine, remembered, kind), rank=rank)
    write_parts(files, SCALARS, _scalars(mine, remembered), rank=rank)
    write_parts(files, FROZEN, _frozen_parts(engine.module), rank=rank)
    if rank == 0:
        buffers = (Part(n, tuple(b.shape), 0, b.reshape(-1)) for n, b in _buffers(engine.module).items())
        write_parts(files, BUFFERS, buffers, rank=rank)
        (folder / _ENGINE).write_text(json.dumps(_engine_state(engine), indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def load_state(engine: Any, folder: Path) -> None:
    """Put an engine into the state that `save_state` wrote, on any number of ranks. All ranks must call it.

    Raises:
        UnusableSpecError: the checkpoint is of another model; the text names a parameter.
    """
    files = ParameterFiles(folder / "parameters")
    _refuse_another_model(engine, files)
    optimizer = torch_optimizer(engine)
    before_changes(engine)
    for partition in partitions(engine):
        with swapped_in(engine, partition, keep=True):
            for stretch in partition.stretches:
                files.read_into(partition.of(stretch, partition.tensor.data), MASTER, stretch.name, start=stretch.start)
            _restore_memory(optimizer, partition, files)
            take_over(engine, partition)
    _restore_frozen(engine.module, files)
    for name, buffer in _buffers(engine.module).items():
        buffer.copy_(files.whole(BUFFERS, name))
    after_changes(engine)
    _restore_engine_state(engine, json.loads((folder / _ENGINE).read_text(encoding="utf-8")))


def read_weights(folder: Path, *, kind: str = MASTER) -> dict[str, Tensor]:
    """The state dict of a checkpoint's module in fp32, without an engine.

    Its weights, or by `kind` `ema` their moving average; what does not train is the same in both.
    """
    files = ParameterFiles(folder / "parameters")
    weights = {name: files.whole(FROZEN, name).float() for name in files.names(FROZEN)}
    for name in files.names(MASTER):
        weights[name] = files.whole(kind if files.has(kind, name) else MASTER, name).float()
    return weights | {name: files.whole(BUFFERS, name) for name in files.names(BUFFERS)}


def _kinds(mine: list[Partition], remembered: dict[Tensor, Any]) -> list[str]:
    """What the optimizer remembers for each number."""
    kinds = (
        key
        for partition in mine
        for key, value in remembered.get(partition.tensor, {}).items()
        if _is_elementwise(value, partition)
    )
    return list(dict.fromkeys(kinds))


def _is_elementwise(value: Any, partition: Partition) -> bool:
    return torch.is_tensor(value) and value.shape == partition.tensor.shape and value.ndim > 0


def _parts(engine: Any, mine: list[Partition], remembered: dict[Tensor, Any], kind: str) -> list[Part]:
    parts = []
    for partition in mine:
        with swapped_in(engine, partition):
            values = partition.tensor if kind == MASTER else remembered.get(partition.tensor, {}).get(kind)
            if values is None:
                continue
            for stretch in partition.stretches:
                if not stretch.is_copy:
                    there = partition.of(stretch, values.detach())
                    # NVMe's buffers are used again for the next partition.
                    held = there.clone() if getattr(engine.optimizer, "swap_optimizer", False) else there
                    parts.append(Part(stretch.name, stretch.shape, stretch.start, held))
    return parts


def _scalars(mine: list[Partition], remembered: dict[Tensor, Any]) -> list[Part]:
    parts = []
    for partition in mine:
        state = remembered.get(partition.tensor, {})
        for key, value in state.items():
            if value is not None and not _is_elementwise(value, partition):
                values = torch.as_tensor(value).reshape(1)
                own = [s.name for s in partition.stretches if s.start == 0 and not s.is_copy]
                parts += [Part(f"{key}/{name}", (), 0, values.clone()) for name in own]
    return parts


def _restore_memory(optimizer: torch.optim.Optimizer, partition: Partition, files: ParameterFiles) -> None:
    """What the optimizer remembers of one partition; what it knows nothing of begins anew."""
    state = optimizer.state[partition.tensor]
    state.clear()
    for kind in files.kinds():
        known = [name for name in partition.names if files.has(kind, name)]
        if kind in (MASTER, FROZEN, BUFFERS, SCALARS) or not known:
            continue
        dtype = files.dtype(kind, known)
        weights = partition.tensor.detach().to(dtype, copy=True)
        state[kind] = weights if kind in _WEIGHTS else weights.zero_()
        for stretch in partition.stretches:
            if files.has(kind, stretch.name):
                files.read_into(partition.of(stretch, state[kind]), kind, stretch.name, start=stretch.start)
    for key, value in _stored_scalars(partition, files).items():
        on_device = optimizer.defaults.get("capturable") or optimizer.defaults.get("fused")
        state[key] = value.to(partition.tensor.device) if on_device else value
    if not state:
        del optimizer.state[partition.tensor]


def _stored_scalars(partition: Partition, files: ParameterFiles) -> dict[str, Tensor]:
    """The same for all parameters of a partition; one that was never used has none, or a smaller one."""
    found: dict[str, Tensor] = {}
    wanted = set(partition.names)
    for entry in files.names(SCALARS):
        key, _, name = entry.partition("/")
        if name in wanted:
            value = files.whole(SCALARS, entry)
            found[key] = value if key not in found else torch.maximum(found[key], value)
    return found


def _frozen(module: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """What does not train and is in memory: weights on NVMe are as the spec's model has them."""
    frozen = [(name, p) for name, p in module.named_parameters() if not p.requires_grad]
    return [(n, p) for n, p in frozen if not hasattr(p, "ds_tensor") or p.ds_tensor.numel() >= p.partition_numel()]


def _frozen_parts(module: torch.nn.Module) -> list[Part]:
    parts = []
    frozen = _frozen(module)
    for (name, parameter), owner in zip(frozen, shares([p.numel() for _, p in frozen]), strict=True):
        if hasattr(parameter, "ds_tensor"):
            shape, start, values = _held_of(parameter)
            if len(values):
                parts.append(Part(name, shape, start, values))
        elif owner == dist.get_rank():
            parts.append(Part(name, tuple(parameter.shape), 0, parameter.detach().reshape(-1)))
    return parts


def _held_of(parameter: Any) -> tuple[tuple[int, ...], int, Tensor]:
    """Under stage 3: the whole shape, and where what this rank holds begins, without padding."""
    held = parameter.ds_tensor.detach().reshape(-1)
    start = held.numel() * dist.get_rank(group=parameter.ds_process_group)
    return tuple(parameter.ds_shape), start, held[: max(0, parameter.ds_numel - start)]


def _restore_frozen(module: torch.nn.Module, files: ParameterFiles) -> None:
    for name, parameter in _frozen(module):
        if hasattr(parameter, "ds_tensor"):
            _, start, values = _held_of(parameter)
            files.read_into(values, FROZEN, name, start=start)
        else:
            parameter.copy_(files.whole(FROZEN, name))


def _buffers(module: torch.nn.Module) -> dict[str, Tensor]:
    saved = module.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in module.named_buffers(remove_duplicate=False) if name in saved}


def _refuse_another_model(engine: Any, files: ParameterFiles) -> None:
    wanted = {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in engine.module.named_parameters() if p.requires_grad}
    there = {name: files.shape(name) for name in files.names(MASTER)}
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            raise UnusableSpecError(
                f"the checkpoint is of another model: {name} is {there.get(name) or 'missing'} in it and "
                f"{wanted.get(name) or 'missing'} in the job's model"
            )


def _engine_state(engine: Any) -> dict[str, Any]:
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    settings = {} if scaler is None else vars(scaler)
    plain = {key: value for key, value in settings.items() if isinstance(value, (bool, int, float))}
    return {"counters": {name: getattr(engine, name) for name in _COUNTERS}, "loss_scaler": plain}


def _restore_engine_state(engine: Any, state: dict[str, Any]) -> None:
    for name, value in state["counters"].items():
        setattr(engine, name, value)
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    for name, value in state["loss_scaler"].items():
        if scaler is not None and hasattr(scaler, name):
            setattr(scaler, name, value)
