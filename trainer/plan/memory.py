"""Memory for training on each device at its fullest, by ZeRO stage.

After the ZeRO paper (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054): with T trained and F frozen
parameters on N devices,

    weights      w (T + F)                  stage 3: divided by N
    gradients    w T                        stages 2 and 3: divided by N
    optimizer    (m + s) T                  stages 1 to 3: divided by N
    average      4 T                        with the optimizer

where w is 4 bytes (fp32, amp_bf16) or 2 (bf16, fp16); m = 4 for the fp32 master copy, which stage 0 in fp32 or amp_bf16
needs none of; and s what the optimizer remembers, 8 for the Adam family, and 4 more for L2-SP, whose head in
fact needs none. Stage 0 in bf16 or fp16 runs as stage 1, and stages 1 and 2 on a single device, in full precision and
without offload, as stage 0. What is offloaded stands under `host` in place of the device.

DeepSpeed's own working memory comes on top (`buffers`):

    own share    w T / N                    stage 1: the averaged gradients of this rank's share, before the step
    reduction    w min(T, bucket)           stages 2 and 3: gradients of all shares wait here to be averaged
    gathered     w min(T + F, live)         stage 3: weights are kept from the forward to the backward pass

with DeepSpeed's defaults for `reduce_bucket_size` and `stage3_max_live_parameters`. The images of the batches that are
decoded ahead, as fp32, are `inputs`.

Not all of that is there at once: the backward pass gives activations back as it makes gradients. Where a step is one
micro-batch, the fullest moment therefore holds the larger of the two, and not both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from trainer.spec import JobSpec, OptimSpec

_HALF_PRECISION = ("bf16", "fp16")
_REDUCE_BUCKET = 500_000_000
_MAX_LIVE = 1_000_000_000
"""Elements: https://www.deepspeed.ai/docs/config-json/#zero-optimizations-for-fp16-training"""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, and its share of what is offloaded."""

    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    inputs: int
    """Images that are decoded ahead."""
    buffers: int
    """DeepSpeed's own."""
    host: int
    """Offloaded to the CPU's memory or to NVMe."""
    total: int
    """On the device at its fullest."""


@dataclass(frozen=True)
class Load:
    """What a device works on."""

    trained: int
    """Parameters that train."""
    frozen: int
    """Parameters that do not."""
    devices: int
    """Ranks that share what the stage shards."""
    activations: int
    """Bytes that a micro-batch's forward pass keeps for the backward pass."""
    inputs: int = 0
    """Bytes of images that are decoded ahead."""
    accumulation: int = 1
    """Micro-batches an optimizer step."""


def memory_by_stage(spec: JobSpec, load: Load) -> dict[str, dict[str, Any]]:
    """Memory under each ZeRO stage, all else as in the spec."""
    return {str(stage): asdict(_memory(spec, _effective(spec, stage, load=load), load)) for stage in range(4)}


def input_bytes(spec: JobSpec, *, micro_size: int, image_size: int) -> int:
    """Bytes of the images that a rank has decoded: the batch in use and those ahead."""
    return (spec.data.decoder.prefetch_batches + 1) * micro_size * 3 * image_size**2 * 4


def optimizer_bytes(spec: OptimSpec) -> int:
    """Bytes that the optimizer remembers for each trained parameter."""
    momentum = 4 if spec.momentum else 0
    return {"sgd": momentum, "lion": 4, "rmsprop": 4 + momentum}.get(spec.name, 8)


def _effective(spec: JobSpec, stage: int, *, load: Load) -> int:
    """The stage that `trainer.deepspeed_config` makes of it."""
    parallel = spec.parallel
    if parallel.precision in _HALF_PRECISION:
        return max(1, stage)
    nothing_to_shard = load.devices == 1 and stage <= 2 and parallel.offload_optimizer == "none"
    return 0 if nothing_to_shard and parallel.deepspeed_config is None else stage


def _memory(spec: JobSpec, stage: int, load: Load) -> Memory:
    parallel, devices = spec.parallel, load.devices
    width = 2 if parallel.precision in _HALF_PRECISION else 4
    remembered = optimizer_bytes(spec.optim) + (4 if getattr(spec.objective, "l2_sp", 0.0) else 0)
    weights = width * (_share(load.trained, devices, stage >= 3) + _share(load.frozen, devices, stage >= 3))
    sharded = _share(load.trained, devices, stage >= 1)
    optimizer = ((4 if stage >= 1 else 0) + remembered) * sharded
    average = 4 * sharded if spec.optim.ema_decay is not None else 0
    offloads_optimizer = parallel.offload_optimizer != "none" and stage >= 1
    offloads_weights = parallel.offload_parameters != "none" and stage >= 3
    gradients = width * _share(load.trained, devices, stage >= 2)
    reduction, gathered = _buffers(stage, load, width=width)
    stays = (0 if offloads_weights else weights) + (0 if offloads_optimizer else optimizer + average)
    return Memory(
        weights=0 if offloads_weights else weights,
        gradients=gradients,
        optimizer=0 if offloads_optimizer else optimizer,
        ema=0 if offloads_optimizer else average,
        activations=load.activations,
        inputs=load.inputs,
        buffers=reduction + gathered,
        host=(optimizer + average if offloads_optimizer else 0) + (weights if offloads_weights else 0),
        total=stays + load.inputs + gathered + _backward(stage, load, gradients=gradients, reduction=reduction),
    )


def _buffers(stage: int, load: Load, *, width: int) -> tuple[int, int]:
    """Bytes in which gradients are averaged, and of weights that are gathered."""
    share = width * _share(load.trained, load.devices, True) if stage == 1 else 0
    bucket = width * min(load.trained, _REDUCE_BUCKET) if stage >= 2 else 0
    return share + bucket, width * min(load.trained + load.frozen, _MAX_LIVE) if stage >= 3 else 0


def _backward(stage: int, load: Load, *, gradients: int, reduction: int) -> int:
    """Bytes at the fullest moment of a backward pass: gradients from before, and what gives way to new ones."""
    stay = gradients if stage >= 3 or load.accumulation > 1 else 0
    return stay + max(load.activations, gradients - stay + reduction)


def _share(count: int, devices: int, sharded: bool) -> int:
    return -(-count // devices) if sharded else count
