"""How many images/s a model takes: measured in training steps here, or estimated from FLOPs and a device's peak."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from trainer.errors import UnusableSpecError
from trainer.gpu_peaks import PEAK_FLOPS
from trainer.model_setup import build_structure
from trainer.models import ClassifierModel, ClipModel
from trainer.plan.assemble import ASSUMED_CLASSES
from trainer.plan.compute import (
    Tower,
    context_length,
    image_macs,
    text_macs,
    train_flops_per_image,
    without_looking_at_values,
)
from trainer.short_attention import choose_attention
from trainer.spec import JobSpec
from trainer.throughput import peak_flops

_WARMUP_STEPS, _TIMED_STEPS, _TIMED_SECONDS = 1, 5, 20.0


@dataclass(frozen=True)
class Appetite:
    """Images/s that one device takes, and how that is known."""

    images_per_s: float | None
    """None if nothing tells."""
    how: str
    flops_per_image: int
    """Of a training step, forward and backward."""


def structure(spec: JobSpec) -> ClipModel | ClassifierModel:
    """The job's model on the meta device.

    Raises:
        UnusableSpecError: there is no such model.
    """
    classifies = spec.objective.name == "classification"
    model = build_structure(spec, num_classes=ASSUMED_CLASSES if classifies else None)
    without_looking_at_values(model.module)
    return model


def estimate(spec: JobSpec, model: ClipModel | ClassifierModel, *, device_name: str | None, mfu: float) -> Appetite:
    """From the model's FLOPs, at a share `mfu` of the dense bf16 peak of a GPU.

    Raises:
        UnusableSpecError: the peak of `device_name` is not known.
    """
    flops = train_flops(spec, model)
    if device_name is not None:
        peak = next((value for part, value in PEAK_FLOPS.items() if part.lower() == device_name.lower()), None)
        if peak is None:
            raise UnusableSpecError(f"--device {device_name!r} is not known; allowed: {', '.join(PEAK_FLOPS)}")
        name = device_name
    else:
        here = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        peak, name = peak_flops(here), "this machine's GPU"
    if peak is None:
        how = "unknown: this machine has no GPU of a known peak; name one with --device, or use --measure"
        return Appetite(None, how, flops)
    return Appetite(mfu * peak / flops, f"estimated: {mfu:.0%} of the peak of {name}, {peak / 1e12:g} TFLOP/s", flops)


def measure(spec: JobSpec, model: ClipModel | ClassifierModel, *, batch_size: int) -> Appetite:
    """By forward and backward passes with random weights, in the job's precision, on this machine's first device.

    Optimizer and communication are left out, which a large batch makes small.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    flops = train_flops(spec, model)
    choose_attention(spec, model, device=device)
    module = model.module.to_empty(device=device).train()
    size = model.preprocess.image_size
    inputs = [torch.randn(batch_size, 3, size, size, device=device)]
    if isinstance(model, ClipModel):
        inputs.append(torch.ones(batch_size, context_length(model), dtype=torch.long, device=device))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.02)
        for buffer in module.buffers():
            buffer.zero_()
    seconds = _step_seconds(module, inputs, device=device, low_precision=spec.parallel.precision != "fp32")
    return Appetite(batch_size / seconds, f"measured on this machine's {device.type}, batch {batch_size}", flops)


def train_flops(spec: JobSpec, model: ClipModel | ClassifierModel) -> int:
    """FLOPs of a training image with one text, as `attune plan` counts them, everything being trained."""
    towers = [Tower(image_macs(model), 1, trains=True)]
    if isinstance(model, ClipModel):
        towers.append(Tower(text_macs(model), 1, trains=True))
    return train_flops_per_image(towers, spec=spec, accumulation=1)


def _step_seconds(module: nn.Module, inputs: list[torch.Tensor], *, device: torch.device, low_precision: bool) -> float:
    seconds: list[float] = []
    start = time.perf_counter()
    while len(seconds) < _WARMUP_STEPS + _TIMED_STEPS:
        begin = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
            made = module(*inputs)
        outputs = made if isinstance(made, (tuple, list)) else [made]
        sum(output.float().square().mean() for output in outputs).backward()
        module.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
        if len(seconds) > _WARMUP_STEPS and time.perf_counter() - start > _TIMED_SECONDS:
            break
    return statistics.median(seconds[_WARMUP_STEPS:])
