"""How many bytes a forward pass keeps for the backward pass, found by a pass over tensors without memory.

torch says what autograd saves, whatever the architecture, frozen parts and activation checkpointing included. A pass
keeps a fixed part (under autocast the weights cast to bf16) and a part for each sample, so two sizes tell both. The
figure is for torch's CPU kernels, which exist everywhere, on full-length texts. Kernels on a GPU keep nearly the same,
but a compiler, a workspace or a fragmented allocator is not in it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from trainer.model_setup import apply_compute_options
from trainer.models import ClassifierModel, ClipModel
from trainer.plan.compute import context_length
from trainer.spec import JobSpec

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TowerActivations:
    """What a tower's forward pass keeps."""

    first: int
    """Bytes for the first input, with what does not depend on their number."""
    more: int
    """Bytes for each further one."""


def tower_activations(
    model: ClipModel | ClassifierModel, *, spec: JobSpec, towers: Iterable[str]
) -> dict[str, TowerActivations]:
    """What the towers that are used, `image` and `text`, leave for the backward pass.

    It fills `model`'s module, which must be on the meta device, with fake tensors: use it no more afterwards.

    Args:
        model: the job's model, as a structure.
        spec: the job.
        towers: those that a training image goes through.

    Raises:
        UnusableSpecError: its activations cannot be checkpointed.
    """
    module, dtype = model.module, _DTYPES.get(spec.parallel.precision, torch.float32)
    uncompiled = spec.parallel.model_copy(update={"compile": False})
    apply_compute_options(spec.model_copy(update={"parallel": uncompiled}), module)
    module.train(not spec.model.eval_mode)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=spec.parallel.precision == "amp_bf16")
    found = {}
    with FakeTensorMode():
        _fill(module, dtype)
        for tower in towers:
            with autocast:
                one, two = (_saved(module, functools.partial(_forward, model, tower, n, dtype)) for n in (1, 2))
            found[tower] = TowerActivations(one, two - one)
    return found


def activation_bytes(towers: Mapping[str, TowerActivations], *, inputs: Mapping[str, int]) -> int:
    """Bytes that the forward pass of one micro-batch leaves for the backward pass.

    Args:
        towers: from `tower_activations`.
        inputs: images and texts of a micro-batch, by tower.
    """
    return sum(towers[name].first + towers[name].more * (count - 1) for name, count in inputs.items())


def _forward(model: ClipModel | ClassifierModel, tower: str, count: int, dtype: torch.dtype) -> Tensor:
    if tower == "text":
        assert isinstance(model, ClipModel)
        return model.module.encode_text(torch.zeros(count, context_length(model), dtype=torch.long))
    size = model.preprocess.image_size
    images = torch.zeros(count, 3, size, size, dtype=dtype)
    return model.module(images) if isinstance(model, ClassifierModel) else model.module.encode_image(images)


def _fill(module: nn.Module, dtype: torch.dtype) -> None:
    """Put fake CPU tensors in place of parameters and buffers; torch's own conversion stumbles over weak references."""
    made: dict[Tensor, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if tensor not in made:
            empty = torch.empty(tensor.shape, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
            trains = tensor.requires_grad
            made[tensor] = nn.Parameter(empty, requires_grad=trains) if isinstance(tensor, nn.Parameter) else empty
        return made[tensor]

    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})


def _saved(module: nn.Module, call: Callable[[], Any]) -> int:
    """Bytes behind the tensors that autograd saves, each storage once and without the parameters."""
    weights = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    storages: dict[int, Any] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        kept = call()
    del kept
    return sum(storage.nbytes() for key, storage in storages.items() if key not in weights)
