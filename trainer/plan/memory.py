"""Memory for training on each device, by ZeRO stage: what belongs to the model, and the activations.

After the ZeRO paper (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054): with T trained and F frozen
parameters on N devices,

    weights      w (T + F)                  stage 3: divided by N
    gradients    w T                        stages 2 and 3: divided by N
    optimizer    (m + s) T                  stages 1 to 3: divided by N
    average      4 T                        with the optimizer

where w is 4 bytes (fp32, amp_bf16) or 2 (bf16, fp16); m = 4 for the fp32 master copy, which stage 0 in fp32 or amp_bf16
needs none of; and s what the optimizer remembers, 8 for the Adam family, and 4 more for L2-SP, whose head in
fact needs none. Stage 0 in bf16 or fp16 runs as stage 1. What is offloaded stands under `host` in place of the device.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from trainer.spec import JobSpec, OptimSpec

_HALF_PRECISION = ("bf16", "fp16")


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, and its share of what is offloaded."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    host: int
    """Offloaded to the CPU's memory or to NVMe."""

    @property
    def total(self) -> int:
        """All that is on the device."""
        return self.weights + self.gradients + self.optimizer + self.ema + self.activations


def memory_by_stage(
    spec: JobSpec, *, trained: int, frozen: int, devices: int, activations: int
) -> dict[str, dict[str, Any]]:
    """Memory under each ZeRO stage, all else as in the spec.

    Args:
        trained: parameters that train.
        frozen: parameters that do not.
        devices: ranks that share what the stage shards.
        activations: bytes of a micro-batch's activations.
    """
    stages = {}
    for stage in range(4):
        memory = _memory(spec, stage, trained=trained, frozen=frozen, devices=devices, activations=activations)
        stages[str(stage)] = {**asdict(memory), "total": memory.total}
    return stages


def optimizer_bytes(spec: OptimSpec) -> int:
    """Bytes that the optimizer remembers for each trained parameter."""
    momentum = 4 if spec.momentum else 0
    return {"sgd": momentum, "lion": 4, "rmsprop": 4 + momentum}.get(spec.name, 8)


def _memory(spec: JobSpec, stage: int, *, trained: int, frozen: int, devices: int, activations: int) -> Memory:
    half = spec.parallel.precision in _HALF_PRECISION
    if half:
        stage = max(1, stage)
    width = 2 if half else 4
    remembered = optimizer_bytes(spec.optim) + (4 if getattr(spec.objective, "l2_sp", 0.0) else 0)
    weights = width * (_share(trained, devices, stage >= 3) + _share(frozen, devices, stage >= 3))
    sharded = _share(trained, devices, stage >= 1)
    optimizer = ((4 if stage >= 1 else 0) + remembered) * sharded
    average = 4 * sharded if spec.optim.ema_decay is not None else 0
    offloads_optimizer = spec.parallel.offload_optimizer != "none" and stage >= 1
    offloads_weights = spec.parallel.offload_parameters != "none" and stage >= 3
    host = (optimizer + average if offloads_optimizer else 0) + (weights if offloads_weights else 0)
    return Memory(
        weights=0 if offloads_weights else weights,
        gradients=width * _share(trained, devices, stage >= 2),
        optimizer=0 if offloads_optimizer else optimizer,
        ema=0 if offloads_optimizer else average,
        activations=activations,
        host=host,
    )


def _share(count: int, devices: int, sharded: bool) -> int:
    return -(-count // devices) if sharded else count
