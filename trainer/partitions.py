"""Where the numbers that the optimizer updates lie on this rank, under each ZeRO stage of DeepSpeed.

ZeRO flattens parameters into partitions, of which a rank updates its own. A `Partition` says which stretch of which
parameter is where in one of them, so that what belongs to a parameter can be taken out and put back by its name,
however many ranks there are. Nothing here talks to other ranks unless it says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import UnusableSpecError


@dataclass(frozen=True)
class Stretch:
    """Some consecutive numbers of a flattened parameter, and their place in a partition."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    """In the flattened parameter."""
    count: int
    offset: int
    """In the partition."""
    is_copy: bool = False
    """Whether other ranks hold the same and save it."""


@dataclass(frozen=True)
class Partition:
    """What the torch optimizer updates as one tensor."""

    tensor: Tensor
    """fp32 masters, or the parameter itself; read or written within `swapped_in`."""
    stretches: tuple[Stretch, ...]
    names: tuple[str, ...]
    """All parameters that this partition and those of other ranks are parts of."""
    sub_group: int = 0

    def of(self, stretch: Stretch, values: Tensor) -> Tensor:
        """The stretch of `values`, which lie like the partition."""
        return values.view(-1).narrow(0, stretch.offset, stretch.count)


def torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """The optimizer that was handed to DeepSpeed."""
    wrapper = engine.optimizer
    return wrapper if isinstance(wrapper, torch.optim.Optimizer) else wrapper.optimizer


def partitions(engine: Any) -> list[Partition]:
    """What this rank updates.

    Raises:
        UnusableSpecError: a DeepSpeed file chose an optimizer wrapper that keeps its numbers elsewhere.
    """
    optimizer = engine.optimizer
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    if isinstance(optimizer, torch.optim.Optimizer):
        return _replicated(engine)
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return [_of_sub_group(optimizer, index, names) for index in range(len(optimizer.fp16_groups))]
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        return [_of_group(optimizer, index, names) for index in range(len(optimizer.bit16_groups))]
    raise UnusableSpecError(
        f"parallel.deepspeed_config makes DeepSpeed use {type(optimizer).__name__}, whose state cannot be saved by "
        "parameter; leave out data_types.grad_accum_dtype"
    )


def shares(sizes: list[int]) -> list[int]:
    """A rank for each of several things of these sizes, in order, so that all get about as much."""
    total, so_far, ranks = max(sum(sizes), 1), 0, []
    for size in sizes:
        ranks.append(min(so_far * dist.get_world_size() // total, dist.get_world_size() - 1))
        so_far += size
    return ranks


@contextmanager
def swapped_in(engine: Any, partition: Partition, *, keep: bool = False) -> Iterator[None]:
    """Have a partition in memory that may be on NVMe; `keep` what is done to it."""
    optimizer = engine.optimizer
    if not getattr(optimizer, "swap_optimizer", False) or not optimizer._swappable_optimizer_subgroup(
        partition.sub_group
    ):
        yield
        return
    optimizer._optimizer_states_and_gradient_swap_in(partition.sub_group)
    yield
    if keep:
        optimizer._optimizer_states_and_gradient_swap_out(partition.sub_group)
    else:
        optimizer._release_swap_buffers(partition.sub_group)


def before_changes(engine: Any) -> None:
    """Make partitions the only place where weights are. All ranks must call it."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "_wait_for_offload_copies"):
        optimizer._wait_for_offload_copies()
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_prologue()
        if len(optimizer.persistent_parameters) > 0:
            optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)


def take_over(engine: Any, partition: Partition) -> None:
    """Copy masters into the weights that the model computes with; within `swapped_in`."""
    if hasattr(engine.optimizer, "fp32_partitioned_groups_flat"):
        engine.optimizer._reassign_or_swap_out_partitioned_parameters(partition.sub_group)


def after_changes(engine: Any) -> None:
    """Bring the model's weights up to date with all partitions. All ranks must call it."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_epilogue()
    elif hasattr(optimizer, "single_partition_of_fp32_groups"):
        optimizer.update_lp_params()
        optimizer._hp_optimizer_states_linked = False  # the links lead to what was there before


def _replicated(engine: Any) -> list[Partition]:
    """Stage 0: every rank has everything."""
    named = [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]
    owners = shares([p.numel() for _, p in named])
    return [
        Partition(
            parameter,
            (Stretch(name, tuple(parameter.shape), 0, parameter.numel(), 0, is_copy=owner != dist.get_rank()),),
            (name,),
        )
        for (name, parameter), owner in zip(named, owners, strict=True)
    ]


def _of_group(optimizer: Any, index: int, names: dict[int, str]) -> Partition:
    """Stages 1 and 2: one partition a parameter group."""
    stretches = []
    for parameter in optimizer.bit16_groups[index]:
        mapping = parameter._hp_mapping
        if mapping is not None:
            there, here = mapping.lp_fragment_address, mapping.hp_fragment_address
            name = names[id(parameter)]
            stretches.append(Stretch(name, tuple(parameter.shape), there.start, there.numel, here.start))
    in_group = tuple(names[id(parameter)] for parameter in optimizer.bit16_groups[index])
    return Partition(optimizer.single_partition_of_fp32_groups[index], tuple(stretches), in_group, index)


def _of_sub_group(optimizer: Any, index: int, names: dict[int, str]) -> Partition:
    """Stage 3: every parameter is cut into as many equal parts as there are ranks, the last ones padded."""
    stretches = []
    for parameter in optimizer.fp16_groups[index]:
        _, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = length * optimizer._get_param_partition_rank(parameter)
        count = min(length, parameter.ds_numel - start)
        if count > 0:
            name = names[id(parameter)]
            stretches.append(Stretch(name, tuple(parameter.ds_shape), start, count, offset))
    in_group = tuple(names[id(parameter)] for parameter in optimizer.fp16_groups[index])
    return Partition(optimizer.fp32_partitioned_groups_flat[index], tuple(stretches), in_group, index)
