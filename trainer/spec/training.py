"""How to train: batch, optimizer, schedule, and devices."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.spec.base import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


class BatchSpec(Section):
    """Batch sizes, in samples."""

    global_size: PositiveInt = 256
    """Samples an optimizer step, over all devices and accumulation steps."""
    micro_size: PositiveInt | Literal["auto"] = "auto"
    """Samples a device and forward pass; `auto` takes global_size divided by the number of devices."""


class OptimSpec(Section):
    """The optimizer."""

    name: Literal["adamw", "adam", "sgd", "nadam", "radam", "rmsprop", "adadelta", "lion"] = "adamw"
    """All work element by element, as ZeRO's flat partitions need it. `adamw` and `lion` shrink the weights apart from
    the gradient; with the others weight decay is L2, part of the gradient. RMSprop and Adadelta smooth with 0.9."""
    lr: PositiveFloat = 1e-5
    """Peak learning rate."""
    lr_batch: PositiveInt | None = None
    """The batch that `lr` is meant for: the rate used is lr × batch.global_size / lr_batch. None: `lr` as it stands."""
    weight_decay: NonNegativeFloat = 0.1
    """Weight decay, for matrices: not for biases, norms, class and position embeddings or the logit scale."""
    weight_decay_end: NonNegativeFloat | None = None
    """Weight decay that a cosine over all steps leads to; None: constant."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the first and second moment, for the Adam family and Lion."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator, by all but SGD and Lion."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD and RMSprop."""
    nesterov: bool = False
    """SGD with Nesterov's momentum."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer's learning rate is this times that of the layer above it; 1 turns it off."""
    layer_decay_text: Annotated[float, Field(gt=0, le=1)] | None = None
    """The same for the text tower alone; None: `layer_decay` holds for both."""
    head_lr_multiplier: PositiveFloat = 1.0
    """Learning rate of a classifier's head, relative to `lr`."""
    backbone_lr_multiplier: PositiveFloat = 1.0
    """Learning rate of all but the topmost layer of each tower, relative to `lr`; on top of `layer_decay`."""
    decay_vectors: bool = False
    """Also decay biases, normalisation weights, class and position embeddings and the logit scale."""
    clip_grad_norm: PositiveFloat | None = None
    """Largest global gradient norm; None does not clip."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay a step of the exponential moving average of the weights; None keeps none."""


class ScheduleSpec(Section):
    """How long, and the learning rate over time. Give `epochs` or `max_steps`; the smaller wins if both are given."""

    epochs: PositiveFloat | None = 10
    """Passes over the training data."""
    max_steps: PositiveInt | None = None
    """Optimizer steps."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear warm-up: the first takes peak / warmup_steps, the last of them the peak learning rate."""
    warmup_epochs: NonNegativeFloat | None = None
    """Warm-up in epochs, in place of `warmup_steps`; rounded to steps."""
    warmup_start: Literal["first_step", "zero"] = "first_step"
    """Where the ramp begins: at peak / warmup_steps, or at 0 (FT-CLIP). The last warm-up step takes the peak rate
    either way, unless it is also the first and that begins at 0."""
    kind: Literal["cosine", "constant"] = "cosine"
    """Course after the warm-up: cosine to `min_lr`, or the peak rate throughout."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate at the end of the cosine."""
    update: Literal["step", "epoch"] = "step"
    """Whether the rate changes with each step or, after the warm-up, stays for an epoch (LP-FT: epoch e of E takes
    min_lr + (peak - min_lr) / 2 × (1 + cos(π e / E)))."""


class ParallelSpec(Section):
    """Devices, DeepSpeed ZeRO and numerical precision."""

    devices: PositiveInt | Literal["auto"] = "auto"
    """Devices a node (GPUs, or processes on a machine without GPUs); `auto` takes all GPUs, or one process."""
    nodes: PositiveInt = 1
    """Machines."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    """DeepSpeed ZeRO stage: 0 replicates, 1 shards optimizer state, 2 gradients too, 3 parameters too
    (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054). Stage 0 in bf16 or fp16 runs as stage 1. On a single
    device there is nothing to shard: without offload, stages 1 and 2 in amp_bf16 or fp32 run as stage 0."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where optimizer state lives; `cpu` needs stage 1 or higher, `nvme` stage 3."""
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"
    """Where parameters live between uses; needs stage 3."""
    nvme_path: str | None = None
    """Folder on a local NVMe drive; required by `nvme`."""
    precision: Literal["amp_bf16", "bf16", "fp16", "fp32"] = "amp_bf16"
    """`amp_bf16`: fp32 weights under torch autocast; `bf16`/`fp16`: low-precision weights with fp32 masters."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more compute."""
    compile: bool = False
    """Compile the transformer blocks (of other towers, the whole model) with torch.compile; needs a C++ compiler."""
    deepspeed_config: str | None = None
    """A DeepSpeed JSON file to use in place of the one that zero_stage and offload_* select. Its batch sizes,
    precision, clipping and accumulation must be absent or `auto`: they come from this spec."""
